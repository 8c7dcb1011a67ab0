"""Text in plain characters: what is searched, whatever a page or a keyboard made of it.

Other scripts' digits, full-width characters, and unusual spaces and hyphens become their ASCII
likes and invisible characters go, so that a number pasted from a web page is still a number.
Marks on a digit go too: `4` with an accent is read as 4.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

# Default_Ignorable_Code_Point beyond category Cf (Unicode 15, DerivedCoreProperties.txt).
_IGNORABLE = frozenset(
    code
    for first, last in (
        (0x034F, 0x034F),
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x2065, 0x2065),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFFA0, 0xFFA0),
        (0xFFF0, 0xFFF8),
        (0xE0000, 0xE0FFF),
    )
    for code in range(first, last + 1)
)


class _PlainCharacters(dict[int, int]):
    """Code point to its ASCII like, filled as characters are met; itself where there is none."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        decimal = unicodedata.decimal(character, None)
        category = unicodedata.category(character)
        if decimal is not None:
            plain = ord("0") + decimal
        elif 0xFF01 <= code <= 0xFF5E:
            plain = code - 0xFF01 + 0x21
        elif category == "Zs":
            plain = ord(" ")
        elif category == "Pd" or code == 0x2212:
            plain = ord("-")
        elif category == "Cf" or code in _IGNORABLE:
            plain = _INVISIBLE
        else:
            plain = code
        self[code] = plain
        return plain


_INVISIBLE = 0x200B
_HIDDEN = re.compile(chr(_INVISIBLE))
_PLAIN = _PlainCharacters()


def plain(text: str) -> tuple[str, Sequence[int]]:
    """`text` in plain characters, and for each of them its position in `text`."""
    if text.isascii():
        return text, range(len(text))
    plain = text.translate(_PLAIN)
    hidden = {match.start() for match in _HIDDEN.finditer(plain)}
    hidden.update(_marks_on_digits(plain))
    if not hidden:
        return plain, range(len(plain))
    positions = [place for place in range(len(plain)) if place not in hidden]
    return "".join(plain[place] for place in positions), positions


def _marks_on_digits(plain: str) -> Iterator[int]:
    """Places of the marks that stand on a digit, invisible characters between them or not."""
    for match in _AFTER_DIGIT.finditer(plain):
        for place in range(match.start(1), match.end(1)):
            if unicodedata.category(plain[place]) not in ("Mn", "Me"):
                if ord(plain[place]) == _INVISIBLE:
                    continue
                break
            yield place


_AFTER_DIGIT = re.compile(r"[0-9]([^\x00-\x7f]+)")
