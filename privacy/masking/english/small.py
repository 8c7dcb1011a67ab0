"""Names with a small letter: known ones, and in a prompt without capitals what nobody knows.

A prompt (`send 50 to kiela banks`) is a short text that writes nothing but `I` and its first word
with a capital. There an unknown word is denied as a capitalised one is elsewhere, and an ordinary
word is a name where the words on its sides say so: `to page guynn`, `owe rose hill a lot`.
"""

import re
from collections.abc import Iterator

from privacy.masking.english.cues import BEFORE_NAME
from privacy.masking.english.pairs import NO_FAMILY
from privacy.masking.english.words import Words, read_list
from privacy.masking.patterns import Place, last_word

SMALL_WORD = re.compile(r"(?<![^\W_])[a-z\u00df-\u00f6\u00f8-\u00ff\u0101-\u017f]{3,}(?![^\W_])")
_NO_MORE = r"(?![\w-]|['\u2019](?!s(?![\w])))"
SMALL_AFTER = re.compile(rf" ([a-z]{{3,24}}){_NO_MORE}")
_PROMPT, _MOST = 300, 3
_PRONOUN = re.compile(r"(?<![\w])I(?![\w])")
# A point ends a sentence, an apostrophe a name: `krylova's`.
_WORD_ENDS = re.compile(r"['\u2019]s(?![\w])|['\u2019.](?![\w'\u2019\-])")
# Beside these a stretch of small letters is part of something longer.
_INSIDE = frozenset("'\u2019-_@#.0123456789/") - {""}
_GIVEN = read_list("given") - {"may", "will"}
# Every first and last name, be it an ordinary word besides.
_FIRST = _GIVEN | read_list("either") | read_list("first")
_ALSO_LAST = (read_list("family") | read_list("surnames")) - NO_FAMILY
_LAST = (_FIRST | _ALSO_LAST | read_list("last")) - NO_FAMILY
_LAST_ONLY = (read_list("last") | read_list("first")) - read_list("common")
_PROMPTED = read_list("prompt")
# After `to` these are words all the same: `donate to charity`, `from april`.
_ALONE = _GIVEN - {
    "april", "art", "august", "autumn", "bill", "bud", "cash", "chance", "charity", "chase",
    "chip", "dot", "echo", "faith", "fern", "forest", "gold", "grant", "gray", "hope", "jan",
    "june", "justice", "major", "mark", "marsh", "mat", "mercy", "miles", "patience", "rock",
    "rod", "rusty", "silver", "skip", "sky", "spring", "star", "stone", "summer", "tab", "trace",
    "urban", "ward", "whit", "wood",
}  # fmt: skip
_CUE = re.compile(
    r"(?:^|(?<![a-z'\u2019]))(?:to|for|from|with|owe|pay|paid|named|called|wife|husband|son|daughter|"
    r"and|by|of|hi|hello|hey|dear|is|(?:it|i|you|he|she|that)['\u2019]?(?:s|m|re)|i am|name|add|"
    r"did|send) $",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"(?<![\w'\u2019@#])([a-z]{2,16}) $")
_AFTER = re.compile(rf" ([a-z]{{2,24}}){_NO_MORE}")
_PAIR = re.compile(rf"(?<![\w'\u2019@#-])([a-z]{{2,16}})(?= ([a-z]{{2,24}}){_NO_MORE})")
_INITIALLED = re.compile(rf"\. ?([a-z]{{3,24}}){_NO_MORE}")
_PAID = re.compile(
    r"(?<![a-z])(?:to|from|owe|owes|paid|pay) ([a-z]{3,16})(?=$|[,.?!]| (?:please|on|in|for|today|"
    r"tomorrow|yesterday|now|again|but|because|and|at|by|a|my|this|that|last|next)(?![\w]))"
)


def small_names(text: str, small: frozenset[str], lists: Words) -> tuple[list[Place], list[Place]]:
    """Persons and places that `text` writes small; `small` are its words in small letters.

    A name is due beside a name, beside another unknown word, and after a word such as `to`.
    """
    persons: list[Place] = []
    places: list[Place] = []
    prompt = _is_prompt(text)
    strange = (small - lists.ordinary) | (small & lists.slips)
    last_start, last_end, last_known = -2, -2, False
    for start, end, word in _where(text, strange):
        if text[start - 1 : start] in _INSIDE or (
            text[end : end + 1] in _INSIDE and not _WORD_ENDS.match(text, end)
        ):
            continue
        known = word in lists.small
        if known:
            (places if word in lists.places else persons).append((start, end))
        elif len(word) > 2:
            beside = start == last_end + 1 and text[last_end] == " "
            due = prompt or last_word(text, start).lower() in BEFORE_NAME
            if (beside and last_known) or due:
                persons.append((start, end))
                known = True
            elif beside:
                persons.append((last_start, end))
                known = True
        if known:
            persons += _after(text, start, end, lists, prompt=prompt)
        if known and prompt:
            before = _BEFORE.search(text, max(0, start - 20), start)
            if before and _is_first(text, before, lists):
                persons.append(before.span(1))
        last_start, last_end, last_known = start, end, known
    if prompt:
        persons += _ordinary(text, lists)
        persons += ((start, end) for start, end, _ in _where(text, small & _PROMPTED))
    return persons, places


def initialled(text: str, start: int) -> Place | None:
    """`J. cole`: a small last name behind the initial at `start`."""
    match = _INITIALLED.match(text, start + 1)
    return (start, match.end()) if match and match[1] in _LAST_ONLY else None


def _is_prompt(text: str) -> bool:
    if len(text) > _PROMPT:
        return False
    capitals = sum(map(str.isupper, text)) - len(_PRONOUN.findall(text))
    return capitals * 50 <= len(text) + 50


def _after(text: str, start: int, end: int, lists: Words, *, prompt: bool) -> Iterator[Place]:
    """The small words behind a name that belong to it, in a prompt one after the other."""
    first, cued = text[start:end], prompt and _is_cued(text, start)
    for _ in range(_MOST):
        after = (_AFTER if prompt else SMALL_AFTER).match(text, end)
        rare = after and cued and len(after[1]) > 3 and after[1] not in lists.common
        if after is None or not (rare or _is_last(after[1], first, lists, prompt=prompt)):
            return
        yield after.span(1)
        if not prompt:
            return
        first, end = after[1], after.end()


def _is_last(word: str, first: str, lists: Words, *, prompt: bool) -> bool:
    """Whether the small word behind a name belongs to it: `sharon smith`, `quent duke`."""
    if first in lists.first:
        if not prompt:
            return word in lists.after_first
        return word not in NO_FAMILY and (
            word in _LAST or (len(word) > 2 and word not in lists.common)
        )
    return prompt and word in _LAST


def _is_first(text: str, before: re.Match[str], lists: Words) -> bool:
    """Whether the small word before a name belongs to it: `rea cote`, `from page guynn`."""
    word = before[1]
    if word in _GIVEN:
        return True
    return (word in _FIRST or word in _ALSO_LAST or word not in lists.common) and _is_cued(
        text, before.start(1)
    )


def _is_cued(text: str, start: int) -> bool:
    """Whether the word before `start` is one behind which names stand."""
    return _CUE.search(text, max(0, start - 9), start) is not None


def _ordinary(text: str, lists: Words) -> Iterator[Place]:
    """In a prompt, words that are all ordinary: `owe rose hill a lot`, `send 50 to pearl`."""
    for match in _PAIR.finditer(text):
        if match[1] in _FIRST and match[2] in _LAST:
            whole = match.start() == 0 and match.end(2) == len(text)
            if whole or _is_cued(text, match.start()):
                yield match.start(), match.end(2)
    for match in _PAID.finditer(text):
        word = match[1]
        if word in _ALONE or (word in lists.first and word not in lists.common):
            yield match.span(1)


def _where(text: str, strange: frozenset[str]) -> list[tuple[int, int, str]]:
    """Where the words of `strange` stand, in order: few words, so that others cost nothing."""
    found = []
    for word in strange:
        if not word.islower():
            continue
        start = text.find(word)
        while start >= 0:
            end = start + len(word)
            if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
                found.append((start, end, word))
            start = text.find(word, end)
    return sorted(found)
