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
