"""The coordinator: it invites, lets in, aggregates and releases, and never sees a record."""

import privacy  # noqa: F401  sets the environment that gRPC reads once, before anything here imports gRPC
