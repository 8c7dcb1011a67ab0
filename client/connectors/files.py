"""Files of records, plain or gzip, and what goes wrong with them."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from privacy.errors import ConfigError

_GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where it is gzip, whatever its name says.

    Raises:
      ConfigError: It cannot be opened, or turns out damaged while it is read.
    """
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if is_gzip:
                with gzip.open(plain, "rb") as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield plain
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", hint="correct data.path in site.toml"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}",
            hint="check that the file is readable and complete",
        ) from None


def listed(path: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """`path` itself, or where it is a folder the files in it with one of `suffixes`, sorted.

    Raises:
      ConfigError: Nothing is there.
    """
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"{path} does not exist", hint="correct data.path in site.toml")
        return (path,)
    endings = tuple(ending for suffix in suffixes for ending in (suffix, suffix + ".gz"))
    try:
        names = sorted(entry for entry in path.iterdir() if entry.name.lower().endswith(endings))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {type(error).__name__}") from None
    if not names:
        raise ConfigError(f"{path}: expected files named *{' or *'.join(suffixes)}, got none")
    return tuple(names)
