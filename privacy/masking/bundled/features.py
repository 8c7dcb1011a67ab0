"""What the bundled model sees of a word: its form, its neighbours, and which lists know it.

Each feature is a row number by a hash: nothing is looked up by name, so the weights hold no word.
"""

import re
import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.masking.english.words import words

NUM_ROWS = 1 << 18
NUM_FEATURES = 44
# A row that weighs nothing: fills up where a word has fewer features.
EMPTY = NUM_ROWS
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W\d_]+)?|[^\w\s]|_")
_EDGE = "\u2402"
_REPEATED = re.compile(r"(.)\1{2,}")
_SHAPE = str.maketrans(
    {
        **dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "X"),
        **dict.fromkeys("abcdefghijklmnopqrstuvwxyz", "x"),
        **dict.fromkeys("0123456789", "d"),
    }
)


def tokens(text: str) -> list[tuple[str, int, int]]:
    """Words and signs of `text` with their places."""
    return [(match[0], *match.span()) for match in _TOKEN.finditer(text)]


def features(found: list[tuple[str, int, int]]) -> NDArray[np.int64]:
    """Row numbers of what is seen of each token, `(tokens, NUM_FEATURES)`."""
    rows = np.full((len(found), NUM_FEATURES), EMPTY, dtype=np.int64)
    seen = [_EDGE, _EDGE, *(word for word, _, _ in found), _EDGE, _EDGE]
    capitals = sum(word[0].isupper() for word in seen) / max(1, len(found))
    of_text = _row(f"capitals={int(capitals * 5)}")
    for index in range(len(found)):
        row = [*_of_word(seen[index + 2]), *_around(*seen[index : index + 5]), of_text]
        rows[index, : len(row)] = row
    return rows


def _row(feature: str) -> int:
    return zlib.crc32(feature.encode("utf-8", "surrogatepass")) % NUM_ROWS


@lru_cache(maxsize=100_000)
def _of_word(word: str) -> tuple[int, ...]:
    low, shape, lists = word.lower(), _shape(word), _lists(word)
    names = [f"word={low}", f"written={word}", f"shape={shape}", f"lists={lists}"]
    names += [f"first{n}={low[:n]}" for n in (2, 3, 4) if len(low) > n]
    names += [f"last{n}={low[-n:]}" for n in (1, 2, 3, 4) if len(low) > n]
    names += [f"both={lists}{shape}", f"length={min(len(low), 12)}"]
    return tuple(map(_row, names))


def _around(before2: str, before: str, word: str, after: str, after2: str) -> Iterator[int]:
    for place, near in ((-2, before2), (-1, before), (1, after), (2, after2)):
        yield from _of_neighbour(place, near)
    yield from (
        _of_pair("before", before, word),
        _of_pair("after", word, after),
        _of_pair("before both", before2, before),
        _of_pair("after both", after, after2),
        _of_pair("around", before, after),
        _of_kinds("before", before, word),
        _of_kinds("after", word, after),
    )


@lru_cache(maxsize=200_000)
def _of_neighbour(place: int, word: str) -> tuple[int, ...]:
    low = word.lower()
    return (
        _row(f"{place} word={low}"),
        _row(f"{place} shape={_shape(word)}"),
        _row(f"{place} lists={_lists(word)}"),
        _row(f"{place} last={low[-3:]}"),
    )


@lru_cache(maxsize=200_000)
def _of_pair(name: str, left: str, right: str) -> int:
    return _row(f"{name}={left.lower()}|{right.lower()}")


@lru_cache(maxsize=200_000)
def _of_kinds(name: str, left: str, right: str) -> int:
    return _row(f"{name} kinds={_lists(left)}{_shape(left)}|{_lists(right)}{_shape(right)}")


def _shape(word: str) -> str:
    return _REPEATED.sub(r"\1\1", word.translate(_SHAPE))


@lru_cache(maxsize=100_000)
def _lists(word: str) -> str:
    """Which of the lists of `privacy.masking.english` know a word, one letter each."""
    low, lists = word.lower(), words()
    known = (
        ("s", lists.safe),
        ("e", lists.either),
        ("f", lists.first),
        ("u", lists.surnames),
        ("l", lists.last),
        ("p", lists.places),
        ("o", lists.ordinary),
    )
    return "".join(letter if low in listed else "-" for letter, listed in known)
