"""What holds for every test: one thread, nothing that calls home, and who shares a process."""

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

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

import privacy  # noqa: F401  before any test imports gRPC: privacy/__init__.py says why

# They look at one run, which takes minutes to make.
_OF_ONE_RUN = frozenset(
    f"tests/e2e/test_{name}.py" for name in ("canary", "faults", "network", "run")
)


class ByFileOrRun(LoadFileScheduling):  # type: ignore[misc]
    """Tests of a file stay in one process, and so do the files whose tests look at one run."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "one run" if file in _OF_ONE_RUN else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFileOrRun:
    """How tests are dealt to the processes of `-n`."""
    return ByFileOrRun(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs come first: begun last, one process would wait for the other's.

    `test_faults` makes a second run in the folders of the first, so it follows who looks at that.
    """
    items.sort(
        key=lambda item: ("/e2e/" not in str(item.path), item.path.name == "test_faults.py")
    )
