"""Words beside a name: titles, relatives, signatures, hospitals, instruments.

`cued_names` finds what follows or precedes such a word even where it is an ordinary word or
written small: `my name is rose`, `Regards, Will`, `Rose Day, MD`.
"""

import re
from collections.abc import Iterator

from privacy.masking.english.words import plain_word, read_list, words
from privacy.masking.patterns import Place, lowered

TITLES = read_list("titles")
PLACE_NOUNS = read_list("place_nouns")
PLACE_PREFIXES = read_list("place_prefixes")
BEFORE_NAME = frozenset(
    {"to", "for", "from", "with", "its", "owe", "named", "called", "wife", "husband"}
)
BEFORE_PLACE = frozenset(
    {"in", "at", "from", "near", "to", "visited", "residing", "lives", "moved"}
)
# Beside these a capitalised word belongs to a heading or a product, not to a person.
JOINS_NAME = frozenset(
    {
        "the",
        "a",
        "an",
        "this",
        "that",
        "these",
        "those",
        "your",
        "my",
        "our",
        "his",
        "her",
        "their",
    }
)
GENERIC = read_list("generic")
MEDICAL_NOUNS = read_list("medical_nouns")
_NO_NAMES = read_list("no_names")
_SMALL = r"[^\W\d_][\w'\u2019\-]{1,24}"
_AFTER_CUE = re.compile(rf" {{1,2}}(?P<names>{_SMALL}(?: {_SMALL}){{0,2}})")
_NAME_CUE = re.compile(r"name(?:s?(?: is|['\u2019]s|:| was|:? -)|d)")
_CHANGED_BEFORE = 40
_CHANGED = re.compile(
    rf"s?(?: from (?P<from>{_SMALL}))?(?:(?(from)(?: {_SMALL}){{0,2}}?|) to (?P<to>{_SMALL}))?"
)
_FAMILY = read_list("family") | read_list("surnames") | read_list("last") | read_list("first")
_TITLE_CUE = re.compile(r"[ \n(](?:mrs?|ms|dr|prof|mx)\.?(?= )")
_CAPITALISED = r"[A-Z][\w'\u2019\-]*\.?"
_SEQUENCE = rf"{_CAPITALISED}(?: {_CAPITALISED}){{0,3}}"
_SIGN_OFFS = (
    "sincerely",
    "regards",
    "thanks",
    "thank you",
    "yours truly",
    "yours faithfully",
    "cheers",
    "respectfully",
    "best wishes",
)
_SIGNED = re.compile(rf"(?: yours)?[,.!]?\s{{1,3}}(?P<names>{_SEQUENCE})(?=\s*(?:$|\n|,|\.))")
_BY = ("signed by", "dictated by", "transcribed by", "reviewed by", "referred by")
_LABEL = re.compile(
    r"(?<![a-z])(?:names?|attending|physician|surgeon|assistant|provider|clinician|caregiver|"
    r"guarantor|beneficiary|payee|spouse|cardholder|account holder|next of kin|"
    r"emergency contact|signed by|dictated by|transcribed by|reviewed by|referred by) ?$"
)
_LABELLED = re.compile(rf"[ \t]*(?P<names>{_SEQUENCE})(?=[ \t]*(?:$|\n|,|;|\.|\())")
_CREDENTIALS = re.compile(
    r"(?:M\.?D|D\.?O|R\.?N|Ph\.?D|D\.?D\.?S|F\.?A\.?C\.?[SP]|N\.?P|P\.?A-C)\b"
)
_BEFORE_CREDENTIALS = re.compile(
    r"(?<![\w])([A-Z][\w'\u2019\-]+ (?:[A-Z]\.? )?[A-Z][\w'\u2019\-]+),? {1,2}$"
)
_HANDLE = re.compile(r"@((?:[0-9]{1,4}(?=[A-Za-z_]{3}))?[A-Za-z_]\w{2,})")
# `@` is read as at: `5 mg @bedtime`, `40@8am`.
_NO_HANDLES = frozenset({
    "all", "bedtime", "clinic", "dinner", "discharge", "each", "every", "four", "home", "hospital",
    "lunch", "mph", "bpm", "night", "noon", "once", "one", "rest", "same", "that", "the", "this",
    "time", "work",
})  # fmt: skip


def cued_names(text: str) -> Iterator[Place]:
    """Names that the words beside them give away."""
    low = lowered(text)
    yield from _after_cue(text, low)
    for word in _SIGN_OFFS:
        yield from _following(text, low, word, _SIGNED)
    for word in _BY:
        yield from _following(text, low, word, _LABELLED)
    colon = text.find(":")
    while colon >= 0:
        match = _LABELLED.match(text, colon + 1)
        if (
            match
            and _LABEL.search(low, max(0, colon - 20), colon)
            and not _all_safe(match["names"])
        ):
            yield match.span("names")
        colon = text.find(":", colon + 1)
    for match in _CREDENTIALS.finditer(text):
        if text[match.start() - 1 : match.start()] == " ":
            before = _BEFORE_CREDENTIALS.search(text, max(0, match.start() - 60), match.start())
            if before:
                yield before.span(1)
    if "@" in text:
        for match in _HANDLE.finditer(text):
            if (
                not text[match.start() - 1 : match.start()].isalnum()
                and match[1].lower().lstrip("0123456789") not in _NO_HANDLES
            ):
                yield match.span(1)


def _following(text: str, low: str, word: str, pattern: re.Pattern[str]) -> Iterator[Place]:
    """What `pattern` finds directly after each `word`."""
    place = low.find(word)
    while place >= 0:
        match = pattern.match(text, place + len(word))
        if match and not _all_safe(match["names"]):
            yield match.span("names")
        place = low.find(word, place + 1)


def _after_cue(text: str, low: str) -> Iterator[Place]:
    """One word after the cue, and the next ones while they are no ordinary words."""
    safe = words().safe
    cues = [match.end() for match in _TITLE_CUE.finditer(low)]
    cues += _name_cues(low)
    first = _TITLE_CUE.match(" " + low[:8])
    if first:
        cues.append(first.end() - 1)
    for cue in cues:
        match = _AFTER_CUE.match(low, cue)
        if match is None:
            continue
        start, end = match.start("names"), match.start("names")
        for place in re.finditer(_SMALL, match["names"]):
            word = plain_word(place[0])
            ordinary = word in _NO_NAMES or (
                end > start and word in safe and word not in words().after_first
            )
            if ordinary and not (
                end > start and text[start + place.start()].isupper() and word not in _NO_NAMES
            ):
                break
            end = match.start("names") + place.end()
        if end > start:
            yield start, end


def _name_cues(low: str) -> Iterator[int]:
    """Where `name is`, `named`, `surname`, `nickname is` and `spelled` end."""
    place = low.find("name")
    while place >= 0:
        match = _NAME_CUE.match(low, place)
        if low.startswith("sur", max(0, place - 3)) and place >= 3:
            yield place + 4
        elif low.startswith("nick", max(0, place - 4)) and place >= 4:
            yield place + (7 if low.startswith(" is", place + 4) else 4)
        elif match:
            yield match.end()
        if "chang" in low[max(0, place - _CHANGED_BEFORE) : place]:
            yield from _changed(low, place + 4)
        place = low.find("name", place + 4)
    place = low.find("spelled")
    while place >= 0:
        yield place + 7
        place = low.find("spelled", place + 7)


def _changed(low: str, place: int) -> Iterator[int]:
    """`change my surname to reed`, `changed her name from rose hill to banks`."""
    match = _CHANGED.match(low, place)
    for group in ("from", "to"):
        if match and match[group] and _may_name(match[group]):
            yield match.start(group) - 1


def _may_name(word: str) -> bool:
    """Whether a word after `name to` may be a name: `change the name to match` says none."""
    lists = words()
    return word not in _NO_NAMES and (
        word not in lists.common or word in lists.either or word in _FAMILY
    )


def _all_safe(names: str) -> bool:
    """`Name: Unknown`, `Surgeon: None`: one ordinary word that is no first name."""
    lists = words()
    parts = [plain_word(part.strip(".")) for part in names.split()]
    return len(parts) != 2 and all(
        part in lists.safe and part not in lists.either for part in parts
    )
