"""A sample that an auditor draws and anyone can draw again.

Entry number `i` gets the rank SHA-256 of `cloister-audit sample v1`, the seed and `i`, a line
each. The entries of the lowest ranks are the sample. So it takes a line of any language to check
that the sample was not chosen by hand, and more entries can be drawn later with the same seed.
"""

import hashlib
import heapq
from collections.abc import Iterable

_LABEL = "cloister-audit sample v1"


def rank(seed: str, index: int) -> bytes:
    """The rank of an entry; the lowest are drawn."""
    return hashlib.sha256(f"{_LABEL}\n{seed}\n{index}\n".encode()).digest()


def draw(indices: Iterable[int], *, seed: str, count: int) -> list[int]:
    """The `count` numbers of lowest rank, in ascending order; all when there are fewer.

    Raises:
      ValueError: The count is below 1, or the seed has a line end and could mean another one.
    """
    if count < 1:
        raise ValueError(f"expected a count of at least 1, got {count}")
    if "\n" in seed:
        raise ValueError("expected a seed of one line")
    return sorted(heapq.nsmallest(count, indices, key=lambda index: rank(seed, index)))
