"""Text in plain characters: what is searched, whatever a page or a keyboard made of it.

Other scripts' digits, full-width characters, and unusual spaces and hyphens become their ASCII
likes and invisible characters go, so that a number pasted from a web page is still a number.
"""

import unicodedata
from collections.abc import Sequence


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
        elif category == "Cf":
            plain = _INVISIBLE
        else:
            plain = code
        self[code] = plain
        return plain


_INVISIBLE = 0x200B
_PLAIN = _PlainCharacters()


def plain(text: str) -> tuple[str, Sequence[int]]:
    """`text` in plain characters, and for each of them its position in `text`."""
    if text.isascii():
        return text, range(len(text))
    plain = text.translate(_PLAIN)
    if chr(_INVISIBLE) not in plain:
        return plain, range(len(plain))
    positions = [place for place, character in enumerate(plain) if ord(character) != _INVISIBLE]
    return "".join(plain[place] for place in positions), positions
