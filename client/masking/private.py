"""Files that hold records: mode 0600 whatever stood there, through no link, whole or not there."""

import os
from pathlib import Path


def open_private(path: Path, flags: int) -> int:
    """A descriptor of `path` with mode 0600, also where the file was there with another one.

    Raises:
      OSError: It cannot be opened, or it is a symbolic link.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_private(path: Path, content: bytes) -> None:
    """As `privacy.durable.replace_file`, with mode 0600 from the first byte.

    What fails leaves nothing beside `path`.

    Raises:
      OSError: It cannot be written.
    """
    beside = path.with_name(path.name + ".new")
    # What a crash left there goes; a link goes itself, not what it leads to.
    beside.unlink(missing_ok=True)
    descriptor = open_private(beside, os.O_WRONLY | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
