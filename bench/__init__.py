"""Measured comparisons with other systems, runnable by anyone: `python -m bench --help`."""

import privacy  # noqa: F401  before anything imports gRPC: privacy/__init__.py says why
