"""The word lists behind names and places, read when the first Chinese text comes.

`words.txt` holds words by their log share, `given.txt` the characters of given names, `surnames.txt`
and `places.txt` what their names say; the files name their sources. `make_lists.py` says how they were made.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

# Log share of all bearers: the hundred first names cover 86 of 100 people, roughly by 1 / rank.
_PEOPLES = "回|藏|彝|壮|苗|侗|羌|白|傣|蒙古|哈萨克|维吾尔|柯尔克孜|朝鲜|土家|布依|哈尼|景颇|傈僳"
_TERM = -10.5
_RANK_1, _RANK_2, _TWO_CHARACTERS = math.log(0.86), math.log(0.13), math.log(0.002)


def _lines(name: str) -> Iterator[str]:
    text = files("privacy.masking.chinese").joinpath("lists", name).read_text("utf-8")
    for line in text.splitlines():
        if not line.startswith("#"):
            yield line


@cache
def read_surnames() -> dict[str, float]:
    """Each surname's log share."""
    common, others, doubled = _lines("surnames.txt")
    norm = sum(1 / (rank + 4) for rank in range(len(common)))
    scores = {name: _RANK_1 - math.log((rank + 4) * norm) for rank, name in enumerate(common)}
    for rank, name in enumerate(dict.fromkeys(others)):
        scores.setdefault(name, _RANK_2 - math.log(len(others)) - rank / len(others))
    two = doubled.split()
    return scores | {name: _TWO_CHARACTERS - math.log(len(two)) for name in two}


@cache
def read_words() -> dict[str, float]:
    """Each word's log share."""
    words = dict.fromkeys((word for line in _lines("terms.txt") for word in line.split()), _TERM)
    for line in _lines("words.txt"):
        score, *listed = line.split(" ")
        words.update(dict.fromkeys(listed, float(score)))
    return words


@cache
def read_given() -> dict[str, dict[str, float]]:
    """Log share of each character in given names: `alone`, `first` and `second`."""
    given: dict[str, dict[str, float]] = {"alone": {}, "first": {}, "second": {}}
    for line in _lines("given.txt"):
        place, score, characters = line.split(" ")
        given[place].update(dict.fromkeys(characters, float(score)))
    # Few lists hold names of one character: what ends a longer one makes one, too.
    for character, second in given["second"].items():
        alone = math.exp(given["alone"].get(character, -math.inf))
        given["alone"][character] = math.log((alone + math.exp(second)) / 2)
    return given


@cache
def read_places() -> dict[str, frozenset[str]]:
    """Full names of administrative divisions by level: `province`, `prefecture`, `county`."""
    places: dict[str, list[str]] = {}
    for line in _lines("places.txt"):
        level, *names = line.split(" ")
        places.setdefault(level, []).extend(names)
    return {level: frozenset(names) for level, names in places.items()}


def short_name(place: str) -> str:
    """What people call a place: 内蒙古 for 内蒙古自治区, 延边 for 延边朝鲜族自治州."""
    short = re.sub(r"(?:市|省|地区|盟|特别行政区|自治[区州])$", "", place)
    return re.sub(rf"(?:(?:{_PEOPLES})族?)+$", "", short) or short
