"""Every checkpoint that a log signed, a JSON string a line, for an auditor.

The file is not synced: a power cut may tear its end or leave zeros, and a full disk half a line. A
line that is not JSON was never a checkpoint, so the writer drops it and readers pass it over; a
line that is JSON must verify, else somebody changed the file.
"""

import json
import os
from pathlib import Path

from privacy.errors import TamperError


def append_checkpoint(path: Path, note: str) -> None:
    """Add a line.

    Raises:
      OSError: The disk is full or broken; nothing was added.
    """
    content = memoryview((json.dumps(note, ensure_ascii=False) + "\n").encode())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        end = os.fstat(descriptor).st_size
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        except OSError:
            # The next line would be glued onto half of this one.
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def mend_history(path: Path) -> None:
    """Cut off what a crash left behind the last whole line."""
    if not path.exists():
        return
    end = good_end = 0
    with path.open("rb") as opened:
        for line in opened:
            end += len(line)
            if line.endswith(b"\n") and _is_json(line):
                good_end = end
    if good_end < end:
        os.truncate(path, good_end)


def read_history(path: Path) -> list[str]:
    """The notes, oldest first; none when there is no file.

    Raises:
      TamperError: A line is JSON but no note.
    """
    if not path.exists():
        return []
    notes = []
    with path.open("rb") as opened:
        for line in opened:
            # What has no line end was never written whole.
            if not line.endswith(b"\n") or not _is_json(line):
                continue
            note = json.loads(line)
            if not isinstance(note, str):
                raise TamperError(f"expected a checkpoint a line in {path}")
            notes.append(note)
    return notes


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return True
