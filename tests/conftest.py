"""What holds for every test: one thread, and no dependency that calls home."""

import os

# Before torch and flwr are imported: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
)

import privacy  # noqa: F401  before any test imports gRPC: privacy/__init__.py says why
