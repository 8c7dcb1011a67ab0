"""The tree on disk, in pieces that never change: C2SP's `tlog-tiles`.

```
tile/0/x001/067      256 leaf hashes, 8192 bytes: tile 1067 of level 0
tile/0/x001/068.p/17 the 17 that came after
tile/1/004           256 roots of full tiles of level 0
tile/entries/000     256 entries, each behind its length in two bytes
```

The hashes follow from the entries, so a tile is never waited for and never believed: a writer
that finds a missing or wrong one writes it again, and a reader compares what comes out of them
with a signed root.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from privacy.audit.merkle import EMPTY_ROOT, HASH_BYTES, Tree, node_hash, split
from privacy.errors import ConfigError

TILES = "tile"
BUNDLES = "entries"
WIDTH = 256
_HEIGHT = 8
# A bundle has two bytes for an entry's length.
MAX_BUNDLED_BYTES = 65_535
_PARTIAL = re.compile(r"[1-9][0-9]{0,2}")


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """Where a tile lies, below the log's folder; `level` is a number or `BUNDLES`."""
    digits = f"{index:03}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    path = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    return f"{TILES}/{level}/{path}" + (f".p/{width}" if width < WIDTH else "")


def tiles_between(old_size: int, new_size: int) -> Iterator[tuple[int, int, int]]:
    """Level, index and width of every tile that a tree of `new_size` has and the older has not."""
    level = 0
    while new_size >> (_HEIGHT * level):
        old, new = old_size >> (_HEIGHT * level), new_size >> (_HEIGHT * level)
        for index in range(old // WIDTH, new // WIDTH):
            yield level, index, WIDTH
        if new % WIDTH and old != new:
            yield level, new // WIDTH, new % WIDTH
        level += 1


def write_tiles(folder: Path, tree: Tree, old_size: int) -> None:
    """Write the tiles that `tree` has and a tree of `old_size` had not.

    Not synced: a crash here leaves tiles that the next start writes again.
    """
    for level, index, width in tiles_between(old_size, tree.size):
        begin = index * WIDTH
        content = tree.hashes(_HEIGHT * level, begin, begin + width)
        path = folder / tile_path(level, index, width)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        _drop_partials(folder / tile_path(level, index), width)


def mend_tiles(folder: Path, tree: Tree) -> None:
    """Write every tile of `tree` that is missing or is not what it should be."""
    for level, index, width in tiles_between(0, tree.size):
        begin = index * WIDTH
        content = tree.hashes(_HEIGHT * level, begin, begin + width)
        path = folder / tile_path(level, index, width)
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _drop_partials(folder / tile_path(level, index), width)


def _drop_partials(full: Path, width: int) -> None:
    """Remove the shorter beginnings of a tile: they are in the longer one."""
    partials = full.with_name(full.name + ".p")
    if not partials.is_dir():
        return
    for partial in partials.iterdir():
        if _PARTIAL.fullmatch(partial.name) and int(partial.name) != width:
            partial.unlink(missing_ok=True)
    if width == WIDTH:
        partials.rmdir()


class TileReader:
    """Proofs from the tiles of a copied log, without reading its entries.

    What it returns is only as good as the root that it leads to: compare that with a signed one.

    Args:
      folder: The log's folder.
      size: Number of entries at the checkpoint.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self.size = size
        self._tiles: dict[tuple[int, int], bytes] = {}

    def leaf(self, index: int) -> bytes:
        """Hash of entry `index`."""
        return self._range(index, index + 1)

    def leaves(self) -> Iterator[bytes]:
        """Hashes of all entries, in order.

        Raises:
          ConfigError: A tile is missing or too short.
        """
        for first in range(0, self.size, WIDTH):
            yield from self._hashes(0, first, min(WIDTH, self.size - first))
            self._tiles.clear()

    def root(self) -> bytes:
        """Root over all `size` entries."""
        return self._range(0, self.size) if self.size else EMPTY_ROOT

    def inclusion(self, index: int) -> list[bytes]:
        """Sibling hashes from leaf `index` to the root, as `merkle.Tree.inclusion` gives them.

        Raises:
          ConfigError: A tile is missing or too short.
        """
        path = []
        begin, end = 0, self.size
        while end - begin > 1:
            middle = begin + split(end - begin)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(begin, middle))
                begin = middle
        return path[::-1]

    def _range(self, begin: int, end: int) -> bytes:
        size = end - begin
        if size & (size - 1):
            middle = begin + split(size)
            return node_hash(self._range(begin, middle), self._range(middle, end))
        level, height = divmod(size.bit_length() - 1, _HEIGHT)
        first = begin >> (_HEIGHT * level)
        nodes = self._hashes(level, first, 1 << height)
        while len(nodes) > 1:
            nodes = [node_hash(*pair) for pair in zip(nodes[::2], nodes[1::2], strict=True)]
        return nodes[0]

    def _hashes(self, level: int, first: int, num: int) -> Sequence[bytes]:
        index, place = divmod(first, WIDTH)
        content = self._tiles.get((level, index))
        if content is None:
            width = min((self.size >> (_HEIGHT * level)) - index * WIDTH, WIDTH)
            path = self._folder / tile_path(level, index, width)
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ConfigError(f"expected the tile {path}: {error.strerror}") from None
            if len(content) != width * HASH_BYTES:
                raise ConfigError(f"expected {width * HASH_BYTES} bytes in the tile {path}")
            self._tiles[level, index] = content
        return [
            content[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(place, place + num)
        ]


def format_bundle(entries: Sequence[bytes]) -> bytes:
    """Entries as a bundle.

    Raises:
      ValueError: One is longer than a bundle can say.
    """
    longest = max(map(len, entries), default=0)
    if longest > MAX_BUNDLED_BYTES:
        raise ValueError(f"expected entries of at most {MAX_BUNDLED_BYTES} bytes, got {longest}")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
