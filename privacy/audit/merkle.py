"""A Merkle tree over the entries of a log, with proofs that it only ever grew.

The tree is that of Certificate Transparency (RFC 6962 and RFC 9162, section 2.1): SHA-256, `0x00`
before a leaf, `0x01` before two children. An *inclusion proof* shows that an entry is in the tree
with a given root; a *consistency proof* shows that an older tree is the beginning of a newer one.
Everything here is pure: no file, no clock, no key.
"""

import hashlib
from collections.abc import Sequence

from privacy.errors import TamperError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry as a leaf, 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node over its children, 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two smaller than `size`: how many leaves the left child holds."""
    return 1 << ((size - 1).bit_length() - 1)


class Tree:
    """A growing tree: O(log n) work an entry, and proofs for every size it ever had."""

    def __init__(self) -> None:
        # Level 0 holds the leaves, level k the roots of all full subtrees with 2**k leaves, one
        # after the other. Nothing is ever replaced. Flat bytes take a third of the memory that a
        # list of hashes takes, and are what a tile holds.
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next entry, as `leaf_hash` gives it."""
        levels = self._levels
        levels[0] += leaf
        level, num = 0, len(levels[0]) // HASH_BYTES
        while not num & 1:
            node = hashlib.sha256(b"\x01" + levels[level][-2 * HASH_BYTES :]).digest()
            level += 1
            num >>= 1
            if level == len(levels):
                levels.append(bytearray())
            levels[level] += node

    def leaf(self, index: int) -> bytes:
        """Hash of entry `index`."""
        return self.hashes(0, index, index + 1)

    def hashes(self, level: int, begin: int, end: int) -> bytes:
        """Roots number `begin` to `end` of the full subtrees with 2**level leaves, in one piece.

        Raises:
          ValueError: The tree does not hold all of them.
        """
        held = len(self._levels[level]) // HASH_BYTES if level < len(self._levels) else 0
        if not 0 <= begin <= end <= held:
            raise ValueError(f"expected 0 <= begin <= end <= {held}, got {begin} and {end}")
        return bytes(self._levels[level][begin * HASH_BYTES : end * HASH_BYTES])

    def root(self, size: int | None = None) -> bytes:
        """Root over the first `size` leaves, by default all.

        Raises:
          ValueError: The tree never had that size.
        """
        end = self.size if size is None else size
        self._check_size(end)
        return self._range(0, end) if end else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Sibling hashes from leaf `index` to the root of `size` leaves (RFC 9162, 2.1.3.1).

        Raises:
          ValueError: There is no such leaf in a tree of that size.
        """
        self._check_size(size)
        if not 0 <= index < size:
            raise ValueError(f"expected 0 <= index < {size}, got {index}")
        path = []
        begin, end = 0, size
        while end - begin > 1:
            middle = begin + split(end - begin)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(begin, middle))
                begin = middle
        return path[::-1]

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Hashes that show the older tree to begin the newer one (RFC 9162, 2.1.4.1).

        Raises:
          ValueError: Not 0 < old_size <= new_size <= size.
        """
        self._check_size(new_size)
        if not 0 < old_size <= new_size:
            raise ValueError(f"expected 0 < old_size <= {new_size}, got {old_size}")
        path = []
        begin, end = 0, new_size
        while end != old_size:
            middle = begin + split(end - begin)
            if old_size <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(begin, middle))
                begin = middle
        # The old tree's own root is known to whoever asks; only a part of it must be named.
        return ([self._range(begin, end)] if begin else []) + path[::-1]

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"expected 0 <= size <= {self.size}, got {size}")

    def _range(self, begin: int, end: int) -> bytes:
        """Root over leaves `begin` to `end`, where `begin` ends a row of full subtrees."""
        size = end - begin
        if size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self.hashes(level, begin >> level, (begin >> level) + 1)
        middle = begin + split(size)
        return node_hash(self._range(begin, middle), self._range(middle, end))


class Edge:
    """The root of a growing tree and nothing else: what a reader needs who keeps no proofs."""

    def __init__(self) -> None:
        # Roots of the full subtrees that the leaves fall into, the largest first.
        self._peaks: list[bytes] = []
        self.size = 0

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next entry, as `leaf_hash` gives it."""
        node, num = leaf, self.size
        while num & 1:
            node = hashlib.sha256(b"\x01" + self._peaks.pop() + node).digest()
            num >>= 1
        self._peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Root over all leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in self._peaks[-2::-1]:
            root = node_hash(peak, root)
        return root


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf` (a leaf hash) is entry number `index` of the tree with `root`.

    Args:
      leaf: As `leaf_hash` gives it.
      index: Number of the entry, from 0.
      size: Number of entries of the tree.
      path: Sibling hashes from the leaf up, 32 bytes each.
      root: Root from a checkpoint whose signature was already verified.

    Raises:
      TamperError: The path does not lead to `root`.

    Source: RFC 9162, section 2.1.3.2.
    """
    problem = TamperError(
        f"entry {index} is not in the log of {size} entries with root {root.hex()[:16]}",
        hint="compare this log with a copy held by another party",
    )
    if not 0 <= index < size or any(len(part) != len(EMPTY_ROOT) for part in (leaf, *path)):
        raise problem
    node, last, current = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise problem
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            current = node_hash(current, sibling)
        node >>= 1
        last >>= 1
    if last != 0 or current != root:
        raise problem


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the older tree is the beginning of the newer one.

    Raises:
      TamperError: It is not: entries that were once signed for have been changed or taken away.

    Source: RFC 9162, section 2.1.4.2.
    """
    problem = TamperError(
        f"the log of {new_size} entries does not begin with the {old_size} entries seen before",
        hint="keep both checkpoints: together they prove that the log's operator rewrote it",
    )
    if not 0 <= old_size <= new_size or any(len(part) != len(EMPTY_ROOT) for part in path):
        raise problem
    if old_size == 0:
        if path or old_root != EMPTY_ROOT:
            raise problem
        return
    if old_size == new_size:
        if path or old_root != new_root:
            raise problem
        return
    hashes = list(path)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise problem
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise problem
        if node & 1 or node == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    if last != 0 or old != old_root or new != new_root:
        raise problem
