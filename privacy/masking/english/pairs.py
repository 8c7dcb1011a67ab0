"""Full names of two ordinary words: `Mark White`, `HOPE BUTCHER`, `STONE, MARY`.

Each word alone says nothing, and so both stand among the safe words; side by side and both with a
capital they are a name. After a cue (`spoke with`) rarer words are enough. In capitals, where
every word looks like a name, only lines that are capitals throughout are read.
"""

import re
from collections.abc import Iterator, Sequence

from privacy.masking.english.areas import Capitalised
from privacy.masking.english.words import Words, plain_word, read_list, words
from privacy.masking.patterns import Place

_GIVEN = read_list("given")
_FAMILY = read_list("family")
# Stand in the lists of surnames of the world, and after a first word of a sentence.
NO_FAMILY = read_list("no_names") | {
    "an", "are", "asks", "back", "company", "date", "each", "else", "ever", "held", "hence",
    "list", "loan", "made", "more", "must", "put", "said", "sales", "soon", "such", "the",
    "too", "unknown", "were",
}  # fmt: skip
_ALLOWED = read_list("allowed") | read_list("brands")
# Too ordinary at the start of a sentence for a word that is in no list of last names.
_NO_GIVEN = frozenset({"art", "cash", "chance", "jan", "mark", "may", "will"})
# A look-ahead: in `Patient Mark Brown` the first word must not take the second one with it.
_PAIR = re.compile(
    r"(?<![\w'\u2019@#-])([A-Z][A-Za-z]+)(?= {1,2}(?:[A-Z]\.? )?([A-Z][A-Za-z]+)(?![\w@]))"
)
_REVERSED = re.compile(
    r"(?<![\w'\u2019@#-])([A-Z][A-Z'\u2019-]+), {0,2}([A-Z][A-Z-]+)(?![\w'\u2019])"
)
_CUE = re.compile(
    r"(?i)(?<![a-z])(?:patient|sp(?:oke|oken|eak|eaking) (?:with|to)|this is) {1,2}$"
)


def paired_names(text: str, capitalised: Sequence[Capitalised]) -> Iterator[Place]:
    """Two neighbouring capitalised words that are a first and a last name."""
    lists = words()
    for start, end, word, first in capitalised:
        if text[end : end + 1] == "," and word.isupper():
            yield from _reversed(text, start, lists)
        if first not in _GIVEN and first not in lists.first and first not in lists.either:
            continue
        match = _PAIR.match(text, start)
        if match is None:
            continue
        last = match[2].lower()
        if (first, last) in lists.phrases or match[1].isupper() != match[2].isupper():
            continue
        if match[1].isupper():
            if not _in_capitals(text, match.start()):
                continue
        elif first in lists.first:
            # `names.py` knows these with small letters after the capital.
            continue
        cued = _CUE.search(text, max(0, match.start() - 20), match.start())
        rare = first in _GIVEN and first not in _NO_GIVEN and match[2][1:].islower()
        if _is_last(last, lists, cued=bool(cued), rare=rare) and (
            cued or first in _GIVEN or first in lists.first
        ):
            yield match.start(1), match.end(2)


def _reversed(text: str, start: int, lists: Words) -> Iterator[Place]:
    match = _REVERSED.match(text, start)
    if match is None:
        return
    last, first = plain_word(match[1]), plain_word(match[2])
    if (
        (first in _GIVEN or first in lists.first)
        and _is_last(last, lists, cued=False)
        and _in_capitals(text, start)
    ):
        yield match.span(1)
        yield match.span(2)


def _is_last(word: str, lists: Words, *, cued: bool, rare: bool = False) -> bool:
    if word in _FAMILY or word in lists.last or word in lists.first:
        return True
    if rare and word not in lists.common and word not in _ALLOWED:
        return True
    return cued and word not in NO_FAMILY and (word in lists.either or word in lists.surnames)


def _in_capitals(text: str, place: int) -> bool:
    end = text.find("\n", place)
    return text[text.rfind("\n", 0, place) + 1 : end if end >= 0 else len(text)].isupper()
