"""Original and masked text side by side, for the operator's own terminal and browser.

It shows records to the person who asked for it and to nobody else: nothing of it goes into a log.
What a record holds cannot act on the terminal, because control characters are shown as dots, nor
on the browser, because the page holds no script and loads nothing.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from client.masking.private import replace_private
from client.masking.rows import Piece
from privacy.compliance.markup import Html, join, tag
from privacy.errors import ConfigError
from privacy.masking.config import ENTITY_TYPES

_GAP = "  │  "
_RESET = "\033[0m"
# Of the 256 colours, dark ones that white letters stand out from.
_COLOURS = (
    "22", "23", "24", "25", "52", "53", "54", "55", "57", "58", "60", "64", "88", "89", "90", "91",
    "94", "95", "96", "124", "125", "126", "130", "131", "161", "166",
)  # fmt: skip
_CSS = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}
table{border-collapse:collapse;width:100%;table-layout:fixed}
td,th{border:1px solid #ccc;padding:.5rem;text-align:left;vertical-align:top;
overflow-wrap:anywhere;white-space:pre-wrap}
th.where{width:9rem}
mark{border-radius:.2rem;padding:0 .2rem;color:#000}
"""

Row = tuple[str, list[Piece]]


def as_terminal(rows: Sequence[Row], *, width: int, colours: bool) -> Iterator[str]:
    """Lines of the preview, at most `width` columns wide."""
    half = max(10, (width - len(_GAP)) // 2)
    for where, pieces in rows:
        yield f"── {_plain(where)} ".ljust(width, "─")
        left = _wrapped([(piece.original, piece.entity_type) for piece in pieces], half)
        right = _wrapped([(piece.masked, piece.entity_type) for piece in pieces], half)
        for number in range(max(len(left), len(right))):
            cells = [
                _line(column[number] if number < len(column) else [], half, colours=colours)
                for column in (left, right)
            ]
            yield _GAP.join(cells).rstrip()


def _wrapped(
    parts: list[tuple[str, str | None]], width: int
) -> list[list[tuple[str, str | None]]]:
    """Characters with their types, cut into lines of at most `width` columns."""
    lines: list[list[tuple[str, str | None]]] = [[]]
    used = 0
    for text, entity_type in parts:
        for character in text:
            if character == "\n":
                lines.append([])
                used = 0
                continue
            shown = _shown(character)
            columns = _columns(shown)
            if used + columns > width:
                lines.append([])
                used = 0
            lines[-1].append((shown, entity_type))
            used += columns
    return lines


def _shown(character: str) -> str:
    """A character that cannot act on a terminal."""
    if character == "\t":
        return " "
    harmless = character.isprintable() and unicodedata.bidirectional(character) not in (
        "RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI",
    )  # fmt: skip
    return character if harmless else "·"


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _line(cells: list[tuple[str, str | None]], width: int, *, colours: bool) -> str:
    text, current = "", None
    for character, entity_type in cells:
        if colours and entity_type != current:
            text += _RESET if current else ""
            text += f"\033[97;48;5;{_colour(entity_type)}m" if entity_type else ""
            current = entity_type
        text += character
    text += _RESET if colours and current else ""
    return text + " " * (width - sum(_columns(character) for character, _ in cells))


def _colour(entity_type: str) -> str:
    return _COLOURS[ENTITY_TYPES.index(entity_type) % len(_COLOURS)]


def as_page(rows: Sequence[Row], title: str) -> str:
    """One HTML page that needs nothing beside it."""
    title = _plain(title)
    hues = "".join(
        f".t{number}{{background:hsl({number * 47 % 360} 75% 82%)}}"
        for number in range(len(ENTITY_TYPES))
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        tag("title", title),
        tag("style", Html(_CSS + hues)),
    )
    body = [
        tag(
            "tr",
            tag("th", _plain(where), scope="row"),
            tag("td", *(_marked(piece.original, piece) for piece in pieces)),
            tag("td", *(_marked(piece.masked, piece) for piece in pieces)),
        )
        for where, pieces in rows
    ]
    columns = tag(
        "tr",
        tag("th", "", class_="where", scope="col"),
        tag("th", "Original", scope="col"),
        tag("th", "Masked", scope="col"),
    )
    warning = "This page holds records, unmasked: it is as confidential as they are."
    page = join(
        tag("h1", title),
        tag("p", warning),
        tag("table", tag("thead", columns), tag("tbody", *body)),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{page}</body></html>\n'


def _plain(text: str) -> str:
    return "".join(_shown(character) for character in text)


def _marked(text: str, piece: Piece) -> Html:
    shown = "".join(c if c == "\n" else _shown(c) for c in text)
    if piece.entity_type is None:
        return join(shown)
    number = ENTITY_TYPES.index(piece.entity_type)
    return tag("mark", shown, class_=f"t{number}", title=piece.entity_type)


def write_page(path: Path, page: str) -> None:
    """Write the page for its owner only (mode 0600).

    Raises:
      ConfigError: Something stands there already, the input perhaps, or it cannot be written.
    """
    refuse_existing(path)
    try:
        replace_private(path, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def refuse_existing(path: Path) -> None:
    """Check that nothing has the page's name.

    Raises:
      ConfigError: Something has, a link that leads nowhere included.
    """
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already", hint="choose another --html")
