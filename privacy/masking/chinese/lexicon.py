"""The word lists behind names and places, read when the first Chinese text comes.

`words.txt` holds words by their log share, `given.txt` the characters of given names,
`surnames.txt` and `places.txt` what their names say. The files name their sources, and
`make_lists.py` says how those that are not made by hand were made.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

# Log share of all bearers: the hundred first names cover 86 of 100 people, roughly by 1 / rank.
_PEOPLES = "回|藏|彝|壮|苗|侗|羌|白|傣|蒙古|哈萨克|维吾尔|柯尔克孜|朝鲜|土家|布依|哈尼|景颇|傈僳"
_OFTEN, _TERM = -8.0, -10.5
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
    terms = read_groups("terms.txt")
    words = dict.fromkeys(terms["term"], _TERM)
    for line in _lines("words.txt"):
        score, *listed = line.split(" ")
        words.update(dict.fromkeys(listed, float(score)))
    return words | dict.fromkeys(terms["often"], _OFTEN)


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
def read_groups(name: str) -> dict[str, frozenset[str]]:
    """The words of a list by the group that each of its lines begins with.

    `places.txt` holds full names by level, `province`, `prefecture`, `county`;
    `doubtful_places.txt` those that are words too; `beside_names.txt` what stands beside a name.
    """
    groups: dict[str, list[str]] = {}
    for line in _lines(name):
        group, *words = line.split(" ")
        groups.setdefault(group, []).extend(words)
    return {group: frozenset(words) for group, words in groups.items()}


def short_name(place: str) -> str:
    """What people call a place: 内蒙古 for 内蒙古自治区, 延边 for 延边朝鲜族自治州."""
    short = re.sub(r"(?:市|省|地区|盟|特别行政区|自治[区州])$", "", place)
    return re.sub(rf"(?:(?:{_PEOPLES})族?)+$", "", short) or short
