"""The version of this software, as evidence and peers name it."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("cloister")
except PackageNotFoundError:
    # A checkout that was never installed.
    VERSION = "0.0.0"
