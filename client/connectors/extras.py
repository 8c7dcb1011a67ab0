"""Packages that only some connectors need, installed where they are wanted."""

from collections.abc import Iterator
from contextlib import contextmanager

from privacy.errors import ConfigError


@contextmanager
def needs(extra: str, package: str) -> Iterator[None]:
    """Around the import of `package`, which the extra `cloister[extra]` installs.

    Raises:
      ConfigError: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError:
        raise ConfigError(
            f"this kind of source needs {package}, which is not installed",
            hint=f"pip install 'cloister[{extra}]'",
        ) from None
