"""Names and places in English text, with no model: deny by default.

A capitalised word that is in no list of safe words is masked; so is a safe one where the words
beside it make it a name (`Dr. Will Banks`, `Grace Kelly`). With a small letter only known names
are masked, and what follows a cue (`my name is rose`). `words.py` brings the lists.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from privacy.masking.english.areas import CAPITAL, MARKS, areas, in_hashtags
from privacy.masking.english.beside import around_persons, around_places, crowned, linked
from privacy.masking.english.candidates import Candidate, candidates
from privacy.masking.english.cues import (
    BEFORE_PLACE,
    GENERIC,
    JOINS_NAME,
    MEDICAL_NOUNS,
    PLACE_NOUNS,
    cued_names,
)
from privacy.masking.english.pairs import paired_names
from privacy.masking.english.small import SMALL_AFTER, SMALL_WORD, initialled, small_names
from privacy.masking.english.told import speakers, told
from privacy.masking.english.words import Words, words
from privacy.masking.patterns import Place, last_word

_WORD = re.compile(rf"[{CAPITAL}][\w{MARKS}]*(?:['\u2019\-][\w{MARKS}]+)*")
# Between two words of one name: `Anna van den Berg`, `William "Bill" Cody`.
_WIDEST = 24
_SMALL_PARTS = (
    "af al auf am an aan au aux bei bin da das de del della den der des di do dos du e ed el en "
    "et het i im in la las le les los na nad of o op pod san sur tal te ten ter und u upon van "
    "vom von y ze zu zum zur"
)
_PARTS = rf"(?:(?:{'|'.join(_SMALL_PARTS.split())}|l['\u2019]|d['\u2019]) ?){{1,3}}"
_NAME_GAP = re.compile(
    rf"  ?|\u00a0|\. ?| {_PARTS}| ?[\"\u201c(] ?[A-Z][\w ]{{1,15}}[\"\u201d)] ?", re.IGNORECASE
)
_PLACE_GAP = re.compile(rf"  ?|\u00a0|\. ?| {_PARTS}|, ", re.IGNORECASE)
_NEXT_WORD = re.compile(r"['\u2019]?s? {0,2}-?([A-Za-z]+)")


@lru_cache(maxsize=2)
def find_names(text: str) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Persons and places in plain `text`; a span may cover several words."""
    lists = words()
    capitalised = [
        (match.start(), match.end(), match[0], match[0].lower()) for match in _WORD.finditer(text)
    ]
    small = frozenset(SMALL_WORD.findall(text))
    found = list(candidates(text, capitalised, lists))
    _decide(text, found, lists)
    persons = [(word.start, word.end) for word in found if word.masked == "PERSON"]
    persons += _beside_first_names(text, found)
    initials = (initialled(text, word.start) for word in found if word.kind == "initial")
    persons += (place for place in initials if place)
    places = [(word.start, word.end) for word in found if word.masked == "LOCATION"]
    places += areas(text, capitalised, lists)
    persons += cued_names(text)
    persons += paired_names(text, capitalised)
    persons += told(text, small, lists)
    persons += speakers(text, lists)
    if "#" in text:
        persons += in_hashtags(text, lists)
    small_persons, small_places = small_names(text, small, lists)
    persons = list(_joined(text, persons + small_persons, _NAME_GAP))
    places = list(_joined(text, places + small_places, _PLACE_GAP))
    persons += tuple(around_persons(text, persons, lists))
    persons += linked(text, persons, places)
    persons += crowned(text, (*places, *persons))
    places += tuple(around_places(text, places))
    return tuple(_joined(text, persons, _NAME_GAP)), tuple(_joined(text, places, _PLACE_GAP))


def _decide(text: str, found: list[Candidate], lists: Words) -> None:
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
        elif word.kind == "acronym" and text[max(0, word.start - 4) : word.start] == " at ":
            # `treated at UCSF`.
            word.masked = "LOCATION"
    for before, word in pairwise(found):
        _join(text, before, word)
    for after, word in pairwise(reversed(found)):
        _join_backwards(text, word, after)
    for word in found:
        if word.kind == "either" and not word.masked and _stands_as_name(text, word):
            word.masked = "PERSON"
    for index, word in enumerate(found):
        if word.kind == "facility":
            _mask_facility(text, found, index)


def _is_thing(text: str, word: Candidate, lists: Words) -> bool:
    """Whether an eponym (`Foley catheter`), a firm or a short acronym is meant."""
    after = _NEXT_WORD.match(text, word.end)
    following = after[1].lower() if after else ""
    # `Benitez scores`, `the Toronto area`: a verb, and a noun of maps.
    eponym = word.kind == "unknown" or following not in _NOT_OF_MEDICINE
    eponym = (eponym and word.kind != "first") or word.key in lists.eponyms
    if eponym and following in MEDICAL_NOUNS:
        return True
    if (word.key, following) in lists.phrases:
        return True
    if (last_word(text, word.start).lower(), word.key) in lists.phrases:
        return True
    if any(tuple(word.key.split("-")) == phrase for phrase in lists.phrases):
        return True
    return text[word.start : word.end].isupper() and len(word.key) < 4


_NOT_OF_MEDICINE = frozenset({
    "area", "line", "lines", "port", "repairs", "ring", "scores", "signs", "space", "stains",
    "tests", "tube",
})  # fmt: skip


def _after_place(text: str, word: Candidate) -> bool:
    return last_word(text, word.start).lower() in BEFORE_PLACE


def _mask_titled(text: str, found: list[Candidate], index: int) -> None:
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


def _join(text: str, before: Candidate, word: Candidate) -> None:
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


def _join_backwards(text: str, word: Candidate, after: Candidate) -> None:
    """What stands before a name joins it: `L. Wang`, `Grace Kelly`, `New Haven`."""
    if word.masked or not after.masked:
        return
    gap = text[word.end : after.start]
    if word.kind in ("initial", "either", "prefix") and gap in (" ", ". ", "."):
        word.masked = after.masked if word.kind != "either" else "PERSON"


def _beside_first_names(text: str, found: list[Candidate]) -> Iterator[Place]:
    """`Sarah Doe`, `Valida M. Ibragimov`: a safe word that the name beside it makes a name."""
    for word in found:
        if word.masked != "PERSON":
            continue
        if word.kind == "first":
            after = _LAST_NAME.match(text, word.end)
            if after and after[1].lower() not in _NO_LAST_NAMES:
                yield after.span(1)
            small = None if after else SMALL_AFTER.match(text, word.end)
            if small and _is_small_last(small[1]):
                yield small.span(1)
        suffix = _SUFFIX.match(text, word.end)
        if suffix:
            yield suffix.span(1)
        before = _INITIAL_BEFORE.search(text, max(0, word.start - 30), word.start)
        if before:
            yield before.span(1)


def _is_small_last(word: str) -> bool:
    """Whether a word behind a first name is nothing that a note may say of its bearer."""
    lists = words()
    if word in lists.common or word.endswith(("s", "ed", "ing", "ly")):
        return False
    return word not in lists.stays or word in lists.after_first


_LAST_NAME = re.compile(rf" (?:[A-Z]\. )?([{CAPITAL}][a-z][\w{MARKS}'\u2019\-]*)(?![\w])")
_SUFFIX = re.compile(r",? ((?:[JS]r|JR|SR)(?![\w])\.?|I{2,3}(?![\w]))")
_INITIAL_BEFORE = re.compile(rf"(?<![\w])([{CAPITAL}][\w{MARKS}'\u2019\-]+ [A-Z]\.) $")
_NO_LAST_NAMES = PLACE_NOUNS | JOINS_NAME | {
    "and", "or", "is", "was", "has", "had", "will", "did", "does", "if", "in", "on", "at", "to",
    "for", "from", "with", "by", "as", "but", "not", "so",
}  # fmt: skip


def _stands_as_name(text: str, word: Candidate) -> bool:
    """`saw Grace today`: capitalised between words with small letters."""
    before = last_word(text, word.start)
    after = _NEXT_WORD.match(text, word.end)
    shown = text[word.start : word.end]
    if after and after[1] in _PEOPLE_DO and text[word.end : word.end + 1] == " ":
        # `Destiny said`: only people do that, wherever it stands.
        return True
    return bool(
        before.islower()
        and before not in JOINS_NAME
        and not shown.isupper()
        and (after is None or after[1].islower())
    )


_PEOPLE_DO = frozenset({
    "said", "says", "asked", "asks", "told", "tells", "spoke", "replied", "answered", "explained",
    "called", "emailed", "texted", "lives", "lived", "works", "worked", "denies", "denied",
    "complains", "complained", "thinks", "thought", "wants", "wanted", "went", "gave", "refused",
    "agreed", "signed", "wrote", "writes", "knows", "knew", "feels", "felt", "insists", "insisted",
    "promised", "admits", "admitted", "smokes", "smoked", "drinks", "drank",
})  # fmt: skip


_BEFORE_FACILITY = re.compile(rf"((?:[{CAPITAL}][\w'\u2019&.\-]*|of|the|and|for|&)[ ]){{1,6}}$")


_OF_PLACE = re.compile(rf" of (?:the )?[{CAPITAL}][\w{MARKS}]+")


def _mask_facility(text: str, found: list[Candidate], index: int) -> None:
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
    generic = all(part.strip(".,").lower() in GENERIC for part in text[begin : noun.start].split())
    before = last_word(text, begin)
    if before in ("the", "our"):
        before = last_word(text, begin - len(before) - 1)
    inside = before in ("at", "to", "from", "in", "by", "of", "our")
    # `at City Hospital`: even words that name no hospital do where one is named.
    whole = before in ("at", "from") or (noun.key == "hospital" and before in ("to", "in"))
    if any(word.masked for word in parts) or (inside and (whole or not generic)):
        noun.start, noun.masked = begin, "LOCATION"
        of = _OF_PLACE.match(text, noun.end)
        if of:
            noun.end = of.end()


def _joined(text: str, places: list[Place], gap: re.Pattern[str]) -> Iterator[Place]:
    """Neighbouring words as one place, where nothing or a `gap` is between them."""
    begin = end = -1
    for start, stop in sorted(places):
        if begin >= 0 and (
            start <= end or (start - end <= _WIDEST and gap.fullmatch(text, end, start))
        ):
            end = max(end, stop)
            continue
        if begin >= 0:
            yield begin, end
        begin, end = start, stop
    if begin >= 0:
        yield begin, end
