"""What runs inside a site: connectors, masking, private training, the door."""

import privacy  # noqa: F401  sets the environment that gRPC reads once, before anything here imports gRPC
