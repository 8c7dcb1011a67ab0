"""Files that survive a crash whole, and a power cut."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path` at once: a reader sees the old file or the new one.

    After a power cut it may be the old one again; `sync_folder` rules that out.
    """
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(path)


def sync_folder(folder: Path) -> None:
    """Make a new or renamed file in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_private(path: Path, content: bytes) -> None:
    """`replace_file` for a file that only its owner may read (mode 0600)."""
    beside = path.with_name(path.name + ".new")
    # One that a crash left there may have another mode.
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(path)
