"""The capitalised words of a text that may be names or join one, and what kind each is."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privacy.masking.english.areas import Capitalised
from privacy.masking.english.cues import PLACE_NOUNS, PLACE_PREFIXES, TITLES
from privacy.masking.english.words import Words, plain_word

_INNER_CAPITAL = re.compile(r"(?:Mc|Mac|O['\u2019]|D['\u2019]|De|Di|La|Le|Van|Fitz)[A-Z][a-z]")


@dataclass(slots=True)
class Candidate:
    """A capitalised word that may be, or may join, a name."""

    start: int
    end: int
    key: str
    kind: str
    masked: str = ""


def candidates(text: str, capitalised: Sequence[Capitalised], lists: Words) -> Iterator[Candidate]:
    """The words that are not simply safe, with what kind of word each is."""
    stays, either, surnames = lists.stays, lists.either, lists.surnames
    for start, end, word, key in capitalised:
        if key in stays and key not in either and key not in surnames and key not in _SPECIAL:
            continue
        if start and (text[start - 1].isalpha() or text[start - 1] in "@#_"):
            # The inside of a word: an abbreviation such as eGFR. Handles have their own rule.
            continue
        key = plain_word(word)
        if len(key) == 1:
            yield Candidate(start, end, key, "initial")
            continue
        kind = _kind(word, key, lists)
        if kind:
            yield Candidate(start, end, key, kind)


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
    if key in lists.stays or not key.strip("x"):
        # `XXXX` is what was masked before.
        return ""
    parts = [part for part in re.split(r"[-'\u2019_]", key) if part]
    if len(parts) > 1 and " " + " ".join(parts[1:]) in lists.areas.get(parts[0], ()):
        return "place"
    if len(parts) > 1 and all(part in lists.stays or len(part) < 3 for part in parts):
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
        return "unknown" if len(key) > 5 else "acronym"
    if len(parts) == 1 and sum(c.isupper() for c in word) > 1 and not _INNER_CAPITAL.match(word):
        return "unknown" if len(key) > 6 else ""
    return "unknown"
