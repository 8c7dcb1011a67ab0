"""Names and places in English text, with no model: deny by default.

A capitalised word that is in no list of safe words is masked; so is a safe one where the words
beside it make it a name (`Dr. Will Banks`, `Grace Kelly`). With a small letter only known names
are masked, and what follows a cue (`my name is rose`). `words.py` brings the lists.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from privacy.masking.english.cues import (
    BEFORE_PLACE,
    GENERIC,
    JOINS_NAME,
    MEDICAL_NOUNS,
    PLACE_NOUNS,
    PLACE_PREFIXES,
    TITLES,
    cued_names,
)
from privacy.masking.english.words import Words, plain_word, words
from privacy.masking.patterns import Place


def _ranges(category: str) -> str:
    """A character class of the letters of `category` in Latin, Greek, Cyrillic and Armenian."""
    codes = [code for code in range(0x80, 0x2000) if unicodedata.category(chr(code)) == category]
    return "".join(f"\\u{code:04x}" for code in codes)


_CAPITAL = "A-Z" + _ranges("Lu") + _ranges("Lt")
_MARKS = "\u0300-\u036f"
_WORD = re.compile(rf"[{_CAPITAL}][\w{_MARKS}]*(?:['\u2019\-][\w{_MARKS}]+)*")
_SMALL_WORD = re.compile(rf"[^\W\d_][\w{_MARKS}]*")
# Between two words of one name.
_GAPS = frozenset({" ", ". ", ".", "  ", "\u00a0", ", "})
_NEXT_WORD = re.compile(r"['\u2019]?s? {0,2}-?([A-Za-z]+)")
_LAST_WORD = re.compile(r"([A-Za-z]+)[,;]? $")
_INNER_CAPITAL = re.compile(r"(?:Mc|Mac|O['\u2019]|D['\u2019]|De|Di|La|Le|Van|Fitz)[A-Z][a-z]")


@dataclass(slots=True)
class _Word:
    """A capitalised word that may be, or may join, a name."""

    start: int
    end: int
    key: str
    kind: str
    masked: str = ""


@lru_cache(maxsize=2)
def find_names(text: str) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Persons and places in plain `text`; a span may cover several words."""
    lists = words()
    found = list(_capitalised(text, lists))
    _decide(text, found, lists)
    persons = [(word.start, word.end) for word in found if word.masked == "PERSON"]
    places = [(word.start, word.end) for word in found if word.masked == "LOCATION"]
    persons += cued_names(text)
    small_persons, small_places = _small(text, lists)
    return (
        tuple(_joined(text, persons + small_persons)),
        tuple(_joined(text, places + small_places)),
    )


def _capitalised(text: str, lists: Words) -> Iterator[_Word]:
    """The words that are not simply safe, with what kind of word each is."""
    safe, either, surnames = lists.safe, lists.either, lists.surnames
    for match in _WORD.finditer(text):
        word = match[0]
        key = word.lower()
        if key in safe and key not in either and key not in surnames and key not in _SPECIAL:
            continue
        start, end = match.span()
        if start and (text[start - 1].isalpha() or text[start - 1] in "@#_"):
            # The inside of a word: an abbreviation such as eGFR. Handles have their own rule.
            continue
        key = plain_word(word)
        if len(key) == 1:
            yield _Word(start, end, key, "initial")
            continue
        kind = _kind(word, key, lists)
        if kind:
            yield _Word(start, end, key, kind)


_SPECIAL = TITLES | PLACE_NOUNS | PLACE_PREFIXES


def _kind(word: str, key: str, lists: Words) -> str:
    if key in TITLES:
        return "title"
    if key in PLACE_NOUNS:
        return "facility"
    if key in PLACE_PREFIXES:
        return "prefix"
    if key in lists.either:
        return "either"
    if key in lists.surnames:
        return "surname"
    if key in lists.safe:
        return ""
    parts = [part for part in re.split(r"[-'\u2019_]", key) if part]
    if len(parts) > 1 and all(part in lists.safe or len(part) < 3 for part in parts):
        return "" if parts[0] not in ("o", "d") else "unknown"
    if any(part in lists.first for part in parts):
        return "first"
    if any(part in lists.last for part in parts):
        return "last"
    if any(part in lists.places for part in parts):
        return "place"
    if any(character.isdigit() for character in word):
        return ""
    if word.isupper():
        # HEENT, CABG: what is short and in capitals is an abbreviation.
        return "unknown" if len(key) > 5 else ""
    if len(parts) == 1 and sum(c.isupper() for c in word) > 1 and not _INNER_CAPITAL.match(word):
        return "unknown" if len(key) > 6 else ""
    return "unknown"


def _decide(text: str, found: list[_Word], lists: Words) -> None:
    """Mark what is a name or a place."""
    for index, word in enumerate(found):
        if word.kind in ("first", "last", "place", "unknown"):
            if _is_thing(text, word, lists):
                continue
            is_place = word.kind == "place" or (
                word.kind == "unknown" and _after_place(text, word)
            )
            word.masked = "LOCATION" if is_place else "PERSON"
        elif word.kind == "title":
            _mask_titled(text, found, index)
    for before, word in zip(found, found[1:], strict=False):
        _join(text, before, word)
    for word, after in zip(reversed(found[:-1]), reversed(found[1:]), strict=False):
        _join_backwards(text, word, after)
    for word in found:
        if word.kind == "either" and not word.masked and _stands_as_name(text, word):
            word.masked = "PERSON"
    for index, word in enumerate(found):
        if word.kind == "facility":
            _mask_facility(text, found, index)


def _is_thing(text: str, word: _Word, lists: Words) -> bool:
    """Whether an eponym (`Foley catheter`), a firm or a short acronym is meant."""
    after = _NEXT_WORD.match(text, word.end)
    following = after[1].lower() if after else ""
    possessive = text[word.end - 2 : word.end].lower() in ("'s", "\u2019s")
    if word.kind != "first" or word.key in lists.eponyms:
        if following in MEDICAL_NOUNS or (possessive and following in MEDICAL_NOUNS):
            return True
    if lists.phrases and (word.key, following) in lists.phrases:
        return True
    before = _LAST_WORD.search(text, max(0, word.start - 20), word.start)
    if before and (before[1].lower(), word.key) in lists.phrases:
        return True
    if any(tuple(word.key.split("-")) == phrase for phrase in lists.phrases):
        return True
    return text[word.start : word.end].isupper() and len(word.key) < 4


def _after_place(text: str, word: _Word) -> bool:
    before = _LAST_WORD.search(text, max(0, word.start - 20), word.start)
    return bool(before and before[1].lower() in BEFORE_PLACE)


def _mask_titled(text: str, found: list[_Word], index: int) -> None:
    """`Dr. Will Banks`: after a title a word is a name even if it is a safe one."""
    title = found[index]
    match = _TITLED.match(text, title.end)
    if not match:
        return
    for word in found[index + 1 :]:
        if word.start >= match.end():
            return
        if word.kind != "title":
            word.masked = "PERSON"
    title.masked = ""


_TITLED = re.compile(rf"\.?[ \u00a0]{{1,2}}(?:{_WORD.pattern}\.?[ ]?){{1,3}}")


def _join(text: str, before: _Word, word: _Word) -> None:
    """What follows a name joins it: `Susan Rose`, `Anna S.`, `Mary Banks`."""
    if word.masked or not before.masked or text[before.end : word.start] not in (" ", ". ", "."):
        return
    if word.kind == "initial" or (
        word.kind in ("either", "surname") and before.masked == "PERSON"
    ):
        word.masked = before.masked
        # `Anna S.`: the point belongs to the initial, unless a sentence ends there.
    elif word.kind == "prefix":
        word.masked = "" if before.masked == "PERSON" else before.masked


def _join_backwards(text: str, word: _Word, after: _Word) -> None:
    """What stands before a name joins it: `L. Wang`, `Grace Kelly`, `New Haven`."""
    if word.masked or not after.masked:
        return
    gap = text[word.end : after.start]
    if word.kind in ("initial", "either", "prefix") and gap in (" ", ". ", "."):
        word.masked = after.masked if word.kind != "either" else "PERSON"


def _stands_as_name(text: str, word: _Word) -> bool:
    """`saw Grace today`: capitalised between words with small letters."""
    before = _LAST_WORD.search(text, max(0, word.start - 20), word.start)
    after = _NEXT_WORD.match(text, word.end)
    shown = text[word.start : word.end]
    return bool(
        before
        and before[1].islower()
        and before[1] not in JOINS_NAME
        and not shown.isupper()
        and (after is None or after[1].islower())
    )


_BEFORE_FACILITY = re.compile(rf"((?:[{_CAPITAL}][\w'\u2019&.\-]*|of|the|and|for|&)[ ]){{1,6}}$")


def _mask_facility(text: str, found: list[_Word], index: int) -> None:
    """`Texas Health Presbyterian Hospital`: the whole name of a hospital that has one."""
    noun = found[index]
    line = text[max(0, noun.start - 80) : noun.start]
    match = _BEFORE_FACILITY.search(line)
    if not match:
        return
    begin = noun.start - len(match[0])
    while text[begin : begin + 1].islower():
        begin = text.index(" ", begin) + 1
    if begin >= noun.start:
        return
    parts = [w for w in found[max(0, index - 8) : index] if w.start >= begin]
    named = any(word.masked or word.kind in ("prefix", "either", "surname") for word in parts)
    generic = all(part.strip(".,").lower() in GENERIC for part in text[begin : noun.start].split())
    before = _LAST_WORD.search(text, max(0, begin - 12), begin)
    inside = before is not None and before[1] in ("at", "to", "from", "in", "by", "of", "our")
    if any(word.masked for word in parts) or (inside and not generic and named):
        noun.start, noun.masked = begin, "LOCATION"


def _small(text: str, lists: Words) -> tuple[list[Place], list[Place]]:
    """Known names with a small letter, and the unknown word after a first name."""
    known = lists.small.intersection(_SMALL_WORD.findall(text))
    persons: list[Place] = []
    places: list[Place] = []
    if not known:
        return persons, places
    last = -2
    for match in _SMALL_WORD.finditer(text):
        word = match[0]
        start, end = match.span()
        if word in lists.small and word.islower():
            if word in lists.places:
                places.append((start, end))
            else:
                persons.append((start, end))
                last = end
        elif start == last + 1 and word.islower() and len(word) > 2 and word not in lists.safe:
            persons.append((start, end))
    return persons, places


def _joined(text: str, places: list[Place]) -> Iterator[Place]:
    """Neighbouring words as one place."""
    begin = end = -1
    for start, stop in sorted(places):
        if begin >= 0 and (start <= end or text[end:start] in _GAPS and text[end:start] != ", "):
            end = max(end, stop)
            continue
        if begin >= 0:
            yield begin, end
        begin, end = start, stop
    if begin >= 0:
        yield begin, end
