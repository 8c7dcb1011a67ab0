"""Places of several words, ordinary ones among them, and names inside hashtags."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from privacy.masking.english.words import Words
from privacy.masking.patterns import Place, lowered


def _ranges(category: str) -> str:
    """A character class of the letters of `category` in Latin, Greek, Cyrillic and Armenian."""
    codes = [code for code in range(0x80, 0x2000) if unicodedata.category(chr(code)) == category]
    return "".join(f"\\u{code:04x}" for code in codes)


CAPITAL = "A-Z" + _ranges("Lu") + _ranges("Lt")
# A capitalised word: start, end, the word, the word in small letters.
Capitalised = tuple[int, int, str, str]
MARKS = "\u0300-\u036f"


def in_hashtags(text: str, lists: Words) -> Iterator[Place]:
    """`#JaneDoe`, `#nairobi`: a word without spaces in which a name is written."""
    for match in _HASHTAG.finditer(text):
        for part in _HASHTAG_WORD.findall(match[1]):
            stays = lists.ordinary if part.islower() else lists.stays
            least = 2 if len(match[1]) > len(part) else 3
            if len(part) > least and (part.lower() in lists.small or part.lower() not in stays):
                yield match.span(1)
                break


_HASHTAG = re.compile(r"(?<![\w&/#])#([^\W\d_]{3,})")
_HASHTAG_WORD = re.compile(rf"[{CAPITAL}]?[^\W\d_{CAPITAL}]+|[{CAPITAL}]+")


def areas(text: str, capitalised: Sequence[Capitalised], lists: Words) -> Iterator[Place]:
    """`Salt Lake City`, `Czech Republic`: places of several words, ordinary ones among them."""
    low = lowered(text)
    for start, end, _, key in capitalised:
        rests = lists.areas.get(key)
        if rests and not text[start - 1 : start].isalnum():
            stop = _area_end(text, low, end, rests)
            if stop:
                yield start, stop


def _area_end(text: str, low: str, end: int, rests: tuple[str, ...]) -> int:
    """Where the name of an area ends whose first word ends at `end`; 0 if it is none."""
    for rest in rests:
        if low.startswith(rest, end):
            stop = end + len(rest)
            if text[low.rfind(" ", 0, stop) + 1].isupper() and not text[stop : stop + 1].isalnum():
                return stop
    return 0
