"""The output of a long work, in rows that are whole after any crash.

```
OUT.partial          rows so far; perhaps half a row at its end after a crash
OUT.partial.done     how much of it counts: a small JSON file, replaced at once after each fsync
OUT                  there once all rows are
```

A crash leaves the first two: the next start cuts the partial file back to what counts, reads the
input again up to there, and goes on. What was read must be what was read then, by SHA-256 of all
lines; another input or other settings are noticed, never mixed. All files have mode 0600.
"""

import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from client.masking.private import open_private, replace_private
from client.masking.rows import RowStats
from privacy.durable import sync_folder
from privacy.errors import ConfigError

COMMIT_BYTES = 8 * 1024 * 1024
COMMIT_S = 2.0


class Output:
    """Rows on their way to `path`; one process at a time.

    Attributes:
      num_lines: Lines of the input that the output accounts for.
      stats: What was masked in them.
    """

    def __init__(self, path: Path, settings: dict[str, object]) -> None:
        """Begin, or go on where an earlier start ended.

        Raises:
          ConfigError: The output exists or cannot be written, another process writes it, or it
            was begun with other settings.
        """
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._done = path.with_name(path.name + ".partial.done")
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists already", hint="choose another --output")
        try:
            descriptor = open_private(self._partial, os.O_RDWR)
        except OSError as error:
            raise ConfigError(f"cannot write {self._partial}: {error.strerror}") from None
        self._file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(f"another process writes {self._partial}") from None
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.num_lines, self.stats = 0, RowStats()
        self._seen = ""
        self._num_bytes = 0
        self._hash = hashlib.sha256()
        try:
            self._resume()
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(self._num_bytes)
        self._file.seek(self._num_bytes)
        self._uncommitted, self._committed_at = 0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _resume(self) -> None:
        try:
            state = json.loads(self._done.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            raise ConfigError(f"{self._done} is damaged", hint=self._hint()) from None
        if state["settings"] != self._settings:
            raise ConfigError(
                f"{self._partial} was begun with other settings or another version",
                hint=self._hint(),
            )
        self.num_lines, self._seen = int(state["num_lines"]), str(state["input_sha256"])
        self._num_bytes = int(state["output_bytes"])
        if os.fstat(self._file.fileno()).st_size < self._num_bytes:
            raise ConfigError(f"{self._partial} is shorter than it was", hint=self._hint())
        figures = dict(state["stats"])
        figures["num_masked"] = Counter(figures["num_masked"])
        self.stats = RowStats(**figures)

    def _hint(self) -> str:
        return f"delete {self._partial} and {self._done.name} to begin anew"

    def unread(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """The lines that the output does not account for yet.

        Raises:
          ConfigError: The ones that it does account for are others now.
        """
        for _ in range(self.num_lines):
            line = next(lines, None)
            if line is None:
                break
            self._hash.update(line)
        if self.num_lines and self._hash.hexdigest() != self._seen:
            raise ConfigError(
                f"the first {self.num_lines} lines of the input are not what they were when"
                f" {self._partial} was begun",
                hint=self._hint(),
            )
        return lines

    def write(self, lines: list[bytes], rows: bytes, stats: RowStats) -> None:
        """Add the rows that `lines` became."""
        for line in lines:
            self._hash.update(line)
        self.num_lines += len(lines)
        self.stats.add(stats)
        self._file.write(rows)
        self._num_bytes += len(rows)
        self._uncommitted += len(rows)
        slow = time.monotonic() - self._committed_at >= COMMIT_S
        if slow or self._uncommitted >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Make everything so far survive a crash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        # A crash here leaves rows behind the end that counts: they are cut off and made again.
        state = {
            "settings": self._settings,
            "num_lines": self.num_lines,
            "input_sha256": self._hash.hexdigest(),
            "output_bytes": self._num_bytes,
            "stats": {
                "num_rows": self.stats.num_rows,
                "num_characters": self.stats.num_characters,
                "num_masked_characters": self.stats.num_masked_characters,
                "num_masked": dict(self.stats.num_masked),
            },
        }
        replace_private(self._done, json.dumps(state).encode())
        self._uncommitted, self._committed_at = 0, time.monotonic()

    def finish(self) -> None:
        """All rows are there: give the output its name."""
        self.commit()
        self._partial.replace(self._path)
        # A crash here leaves a whole output and a note that nobody needs.
        self._done.unlink()
        sync_folder(self._path.resolve().parent)
