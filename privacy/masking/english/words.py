"""The word lists of this folder, read once: what may stay when it is capitalised, what is a name.

`make_lists.py` says where `lists/` comes from. `allowed.txt` and `unsafe.txt` are written by
hand: eponyms, devices, drugs, banks and days that mean nobody, and names among the safe words;
so are `lone.txt`, and `given.txt` and `family.txt`, of which `pairs.py` makes full names.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Words in small letters.

    Attributes:
      safe: Ordinary words; includes `either` and `surnames`.
      stays: Those of them that stay when capitalised: written small by somebody, or allowed.
      either: Words that with a capital are names amid small letters: `will`, `grace`, `sparks`.
      surnames: Words that are last names too: `day`, `pastor`; names only beside a name.
      first: First names and nothing else.
      last: Last names and nothing else.
      ordinary: What may stand with a small letter: safe words, and `lady` and `states`.
      after_first: With a small letter after a first name, a last name: `sharon smith`.
      common: What text writes small again and again: at the start of a sentence no name.
      before_last: With a small letter before a last name, a first name: `page guynn`.
      places: Cities, regions and countries, word by word, and nothing else.
      small: What is masked with a small letter too.
      slips: Those of them that are words with a small letter, if seldom: `tom`, `harry`.
      eponyms: First names that stay before a word of medicine: `Kelly clamp`.
      phrases: Names of firms and things; each word stays beside the other.
      areas: By their first word, what follows it in names of places of which a word is safe:
        `salt` to ` lake city`.
    """

    safe: frozenset[str]
    stays: frozenset[str]
    common: frozenset[str]
    either: frozenset[str]
    surnames: frozenset[str]
    first: frozenset[str]
    last: frozenset[str]
    ordinary: frozenset[str]
    after_first: frozenset[str]
    before_last: frozenset[str]
    places: frozenset[str]
    small: frozenset[str]
    slips: frozenset[str]
    eponyms: frozenset[str]
    phrases: frozenset[tuple[str, ...]]
    areas: Mapping[str, tuple[str, ...]]


@cache
def words() -> Words:
    """All lists. About 0.1 s and 40 MB, once a process."""
    unsafe = read_list("unsafe")
    allowed = read_list("allowed")
    safe = (read_list("safe") - unsafe) | allowed
    either = (read_list("either") | read_list("lone")) - unsafe - allowed
    first = read_list("first") - safe
    last = read_list("last") - safe
    places = read_list("places") - safe
    slips = read_list("slips") - read_list("no_slips") - safe
    return Words(
        safe=safe,
        stays=(
            safe & (read_list("seen") | allowed)
            | (read_list("brands") - first - last - places - unsafe)
        ),
        common=read_list("common"),
        either=either,
        surnames=read_list("surnames") - unsafe,
        first=first,
        last=last,
        ordinary=safe | read_list("capital"),
        after_first=last | either | read_list("surnames") | read_list("capital"),
        before_last=(
            (either | read_list("given") | ((first | last) & read_list("capital")))
            - {"and", "but", "for", "from", "the", "with"}
        ),
        places=places,
        small=frozenset(
            word
            for word in (first | last | places) - (read_list("capital") - slips)
            if len(word) > 3 or (len(word) > 2 and word in first)
        ),
        slips=slips,
        eponyms=read_list("eponyms"),
        phrases=frozenset(tuple(phrase.split("_")) for phrase in read_list("phrases")),
        areas=_areas(),
    )


def _areas() -> dict[str, tuple[str, ...]]:
    areas: dict[str, list[str]] = {}
    for phrase in sorted(read_list("areas"), key=lambda phrase: -len(phrase)):
        first, _, rest = phrase.partition("_")
        areas.setdefault(first, []).append(" " + rest.replace("_", " "))
    return {first: tuple(rests) for first, rests in areas.items()}


def plain_word(word: str) -> str:
    """`word` in small letters without marks and without a possessive ending."""
    word = word.lower()
    if not word.isascii():
        decomposed = unicodedata.normalize("NFKD", word.replace("\u2019", "'"))
        word = "".join(c for c in decomposed if not unicodedata.combining(c))
    return word.removesuffix("'s").removesuffix("'")


def read_list(name: str) -> frozenset[str]:
    """The words of `lists/NAME.txt`; lines that begin with `#` are remarks."""
    text = files("privacy.masking.english").joinpath("lists", f"{name}.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())
