"""What a party runs on, as its log says it: versions of what computes, and the kind of machine.

Read from the packages' metadata and from the operating system by a process that reads no record,
and without importing any of them. All of it is closed: packages of one list, a processor and a
device of a few kinds, a number of cores. There is no name of a host, no path and no serial number.
A graphics card's model is known to the training process only, which reads records, so it is not
said: what would carry it out could carry something else.
"""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from privacy.version import VERSION

# Those whose version can change what is masked, trained, counted, sent or signed.
PACKAGES: Final = (
    "cryptography",
    "dp-accounting",
    "flwr",
    "grpcio",
    "numpy",
    "presidio-analyzer",
    "rfc8785",
    "safetensors",
    "spacy",
    "tokenizers",
    "torch",
    "transformers",
)
PROCESSORS: Final = ("aarch64", "x86_64", "other")
DEVICES: Final = ("cpu", "cuda")
MAX_CORES: Final = 65_536
# Release, stage and the builds that are published: a free part after a + could name a host.
_VERSION: Final = re.compile(
    r"[0-9]{1,6}(\.[0-9]{1,10}){0,4}((a|b|rc|\.post|\.dev)[0-9]{1,10})?"
    r"(\+(cpu|(cu|rocm)[0-9.]{1,8}|git[0-9a-f]{7,40}))?|unknown"
)
_UNKNOWN: Final = "unknown"


def is_version(value: object) -> bool:
    """Whether `value` is a version as entries hold it."""
    return isinstance(value, str) and bool(_VERSION.fullmatch(value))


def is_packages(value: object) -> bool:
    """Whether `value` is a list of [package of `PACKAGES`, version], sorted, each once."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(row, list) and len(row) == 2 and row[0] in PACKAGES and is_version(row[1])
            for row in value
        )
        and [row[0] for row in value] == sorted({row[0] for row in value})
    )


def runs_on(device: str = "cpu") -> dict[str, Any]:
    """The fields of `agent-started` and `coordinator-started`.

    Args:
      device: As the settings have it, `cpu`, `cuda` or `cuda:N`.
    """
    found = [(name, _installed(name)) for name in PACKAGES]
    processor = platform.machine()
    return {
        "version": VERSION,
        "python": _said(platform.python_version()),
        "packages": [[name, said] for name, said in found if said],
        "processor": processor if processor in PROCESSORS else "other",
        "num_cores": min(len(os.sched_getaffinity(0)), MAX_CORES),
        "device": device.partition(":")[0],
    }


def _installed(package: str) -> str:
    try:
        return _said(version(package))
    except PackageNotFoundError:
        return ""


def _said(found: str) -> str:
    # A build that somebody named freely must neither keep an agent from starting nor be repeated.
    for candidate in (found, found.partition("+")[0]):
        if is_version(candidate):
            return candidate
    return _UNKNOWN
