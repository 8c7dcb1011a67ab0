"""HTML that cannot be broken by what it shows: text is escaped unless it was built here."""

import html
from typing import Final


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


NOTHING: Final = Html("")
VOID = {"meta", "line", "path", "rect", "circle", "polyline", "br", "hr"}


def escaped(text: object) -> Html:
    """`text` as HTML; quotes too, so that it may stand in an attribute."""
    return text if isinstance(text, Html) else Html(html.escape(str(text), quote=True))


def join(*parts: object) -> Html:
    """Parts one after the other, each escaped where it is plain text."""
    return Html("".join(escaped(part) for part in parts))


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """An element. `class_` is `class`, other underscores are hyphens; None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in VOID and not children:
        return Html(f"<{element}{given}/>")
    return Html(f"<{element}{given}>{join(*children)}</{element}>")
