"""The entries of a log on disk: one file that only grows, and the tree over it.

Rules:

- `append_many` returns when all its entries are on disk, after one sync for all of them: that is
  what makes many entries a second durable.
- Whatever a power cut leaves, what was appended before is read back. The end of a write that was
  cut off can be anything (half a line, zeros, a whole line behind a hole); the writer above knows
  how far it had acknowledged, and drops the rest.
- One process writes. A second one is refused while the first lives.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from privacy.audit.entry import MAX_ENTRY_BYTES
from privacy.audit.merkle import Tree, leaf_hash
from privacy.audit.tiles import mend_tiles, write_tiles
from privacy.durable import sync_folder
from privacy.errors import ConfigError, VerificationError

ENTRIES = "entries.jsonl"


class Store:
    """The entries in `folder`, open for writing. Not safe for threads: its log has the lock.

    Raises:
      ConfigError: Another process writes this log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = Tree()
        self._index: dict[bytes, int] = {}
        # Where each entry ends, so that one is read without the others.
        self._ends: list[int] = [0]
        self._file = _open_alone(folder / ENTRIES)
        # The file's own name must survive a power cut as well as its content.
        sync_folder(folder)

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.tree.size

    def find(self, leaf: bytes) -> int | None:
        """The number of the entry with that leaf hash, None when there is none."""
        return self._index.get(leaf)

    def close(self) -> None:
        """Let another process write."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self) -> Iterator[bytes]:
        """The lines in the file, each counted as an entry once the next is asked for.

        Stops before a line that is cut off; `drop_rest` then removes what is left.
        """
        for line in read_lines(self.folder / ENTRIES):
            yield line
            self._count(leaf_hash(line), len(line))

    def drop_rest(self) -> None:
        """Forget what stands behind the last counted entry: nobody was told of it."""
        if os.fstat(self._file).st_size > self._ends[-1]:
            os.ftruncate(self._file, self._ends[-1])
            os.fsync(self._file)

    def append_many(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep entries durably; each is its leaf hash and its line.

        Raises:
          OSError: The disk is full or broken; nothing was kept.
        """
        content = b"".join([line + b"\n" for _, line in entries])
        try:
            _write_all(self._file, content)
            os.fsync(self._file)
        except OSError:
            # A full disk must not leave half a line in front of the next entry.
            os.ftruncate(self._file, self._ends[-1])
            raise
        # A crash here leaves entries without a checkpoint: nobody was told, and the next start
        # signs for those that are whole.
        for leaf, line in entries:
            self._count(leaf, len(line))

    def lines(self, start: int, stop: int | None = None) -> list[bytes]:
        """The entries from number `start` up to `stop`, by default to the end."""
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return []
        begin, end = self._ends[start], self._ends[stop]
        with (self.folder / ENTRIES).open("rb") as opened:
            opened.seek(begin)
            return opened.read(end - begin).split(b"\n")[:-1]

    def write_tiles(self, old_size: int) -> None:
        """Write the tiles that came since `old_size`."""
        write_tiles(self.folder, self.tree, old_size)

    def mend_tiles(self) -> None:
        """Write the tiles that a crash left out or a hand changed."""
        mend_tiles(self.folder, self.tree)

    def _count(self, leaf: bytes, num_bytes: int) -> None:
        self._index[leaf] = self.tree.size
        self._ends.append(self._ends[-1] + num_bytes + 1)
        self.tree.append(leaf)


def read_lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file of entries, without their ends, one in memory at a time.

    Raises:
      VerificationError: A line is longer than any entry.
    """
    with path.open("rb") as opened:
        while line := opened.readline(MAX_ENTRY_BYTES + 1):
            if not line.endswith(b"\n"):
                if len(line) > MAX_ENTRY_BYTES:
                    raise VerificationError(f"expected lines of at most {MAX_ENTRY_BYTES} bytes")
                return
            yield line[:-1]


def _open_alone(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"{path.parent} is written by another process",
            hint="stop the other process first; a log has one writer",
        ) from None
    return descriptor


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
