"""The page on paper: a PDF that says what the HTML page says, word for word.

It is set by typst from the page itself, so nothing can stand in one and not in the other. The file
is PDF/A-2a, the form that archives keep. That form has no place for a character without a glyph:
where no font has one there is an error and no file, instead of empty boxes.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any, Final

from privacy.compliance.markup import VOID
from privacy.compliance.words import Words
from privacy.errors import ConfigError

STANDARD: Final = "a-2a"
_LATIN = "Libertinus Serif"  # comes with typst, as does DejaVu Sans Mono
# Families with Chinese, the better first; without one of them typst looks through all others.
_CHINESE = (
    "Noto Serif CJK SC", "Source Han Serif SC", "Noto Serif SC", "Noto Sans CJK SC",
    "Source Han Sans SC", "Noto Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Songti SC", "SimSun", "PingFang SC", "Microsoft YaHei",
)  # fmt: skip
_DRAWING = re.compile(r"<svg\b[^>]*>.*?</svg>", re.DOTALL)
_NO_GLYPH = re.compile(r"the text `\"(.+?)\"` could not be displayed", re.DOTALL)

Node = dict[str, Any]


def render_pdf(
    page: str,
    name: str,
    words: Words,
    *,
    at: datetime,
    fonts: Path | None = None,
    system_fonts: bool = True,
) -> bytes:
    """The page as a PDF.

    Args:
      page: As `privacy.compliance.report.render_report` returns it.
      name: The page's file name, which the PDF refers to.
      words: The page's language.
      at: When the report was made.
      fonts: A folder with more fonts.
      system_fonts: Whether the fonts of this machine may be used.

    Raises:
      ConfigError: typst is not installed, or no font has a glyph for a character of the page.
    """
    try:
        import typst
    except ImportError:
        raise ConfigError(
            "expected typst to make a PDF, it is not installed",
            hint="pip install 'cloister[pdf]', or print the HTML page from a browser",
        ) from None
    if fonts is not None and not fonts.is_dir():
        raise ConfigError(f"expected a folder with fonts, got {fonts}")
    book = typst.Fonts(system_fonts, True, [] if fonts is None else [fonts])
    families = _families(book.fonts(), fonts)
    at = at.astimezone(UTC).replace(microsecond=0)
    data = {
        "body": _body(page, name, words, families),
        "title": unescape(re.findall(r"<title>(.*?)</title>", page)[0]),
        "mark": "cloister-audit",
        "language": words.language,
        "fonts": families,
        "made": {
            "year": at.year, "month": at.month, "day": at.day,
            "hour": at.hour, "minute": at.minute, "second": at.second,
        },
    }  # fmt: skip
    folder = resources.files("privacy.compliance").joinpath("templates")
    template = folder.joinpath("report.typ").read_bytes()
    try:
        compiler = typst.Compiler(template, font_paths=book)
        made = compiler.compile(
            format="pdf",
            sys_inputs={"report": json.dumps(data, ensure_ascii=False)},
            pdf_standards=STANDARD,
            timestamp=at,
        )
    except typst.TypstError as error:
        raise _problem(error.message) from None
    if not isinstance(made, bytes):
        raise ConfigError("expected one PDF of typst, got something else")
    return made


def _problem(message: str) -> ConfigError:
    found = _NO_GLYPH.search(message)
    if found is None:
        return ConfigError(f"typst cannot set the page: {message.splitlines()[0][:200]}")
    return ConfigError(
        f"expected a font with a glyph for {found[1][:1]!r}, got none on this machine",
        hint="give a folder with one, such as Noto Sans CJK (OFL): --font DIR; Debian has it in"
        " fonts-noto-cjk",
    )


def _families(known: Sequence[Any], folder: Path | None) -> list[str]:
    """Latin first; then what the reader gave, then what is known to have Chinese."""
    given = [
        font.family
        for font in known
        if folder is not None and font.path and Path(font.path).is_relative_to(folder)
    ]
    there = {font.family for font in known}
    return list(dict.fromkeys([_LATIN, *sorted(given), *(f for f in _CHINESE if f in there)]))


class _Tree(HTMLParser):
    """The elements of a page's body as nested objects."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Node] = [{"is": "root", "of": []}]
        self.body: Node = {}

    def handle_starttag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        given = {name: value or "" for name, value in attributes if name != "is"}
        node: Node = {**given, "is": element, "of": []}
        self._open[-1]["of"].append(node)
        if element == "body":
            self.body = node
        if element not in VOID and element != "drawing":
            self._open.append(node)

    def handle_startendtag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        """An element that holds nothing."""
        given = {name: value or "" for name, value in attributes if name != "is"}
        self._open[-1]["of"].append({**given, "is": element, "of": []})

    def handle_endtag(self, _: str) -> None:
        """Close the element that is open."""
        self._open.pop()

    def handle_data(self, data: str) -> None:
        """Text as it is."""
        self._open[-1]["of"].append(data)


def _body(page: str, name: str, words: Words, families: Sequence[str]) -> Node:
    drawings: list[Node] = []
    # In a drawing the first family that is there sets all text, and others stand in one by one.
    style = _style([*families[1:], *families[:1]] if words.language == "zh" else families)

    def take(found: re.Match[str]) -> str:
        drawings.append(_drawing(found[0], style))
        return f'<drawing number="{len(drawings) - 1}">'

    tree = _Tree()
    tree.feed(_DRAWING.sub(take, page))
    tree.close()
    _put(tree.body, drawings)
    header = next(part for part in tree.body["of"] if part["is"] == "header")
    # The digest in the page is the HTML's own, which nobody could compute from the paper.
    header["of"][-1]["of"][0] = words(
        "This is {name} on paper. SHA-256 of that page, with zeros in this place: ", name=name
    )
    return tree.body


def _put(node: Node, drawings: Sequence[Node]) -> None:
    """The drawings back in their places."""
    node["of"] = [
        drawings[int(part["number"])]
        if isinstance(part, dict) and part["is"] == "drawing"
        else part
        for part in node["of"]
    ]
    for part in node["of"]:
        if isinstance(part, dict) and part["is"] != "svg":
            _put(part, drawings)


def _drawing(svg: str, style: str) -> Node:
    """A drawing that stands alone: in its own namespace, with its own style."""
    title = re.search(r"<title>(.*?)</title>", svg, re.DOTALL)
    kind = re.search(r'<svg\b[^>]*\bclass="([^"]*)"', svg)
    alone = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return {
        "is": "svg",
        "class": kind[1] if kind else "",
        "alt": unescape(title[1]) if title else "",
        "svg": re.sub(r"(<svg\b[^>]*>)", rf"\1<style>{style}</style>", alone, count=1),
        "of": [],
    }


def _style(families: Sequence[str]) -> str:
    """The page's rules for drawings, with its variables filled in."""
    folder = resources.files("privacy.compliance").joinpath("templates")
    css = folder.joinpath("report.css").read_text("utf-8")
    for name, value in re.findall(r"(--[\w-]+): (#[0-9a-f]+)", css):
        css = css.replace(f"var({name})", value)
    rules = re.findall(r"svg (text|\.[\w-]+) \{ ([^}]*) \}", css)
    named = ", ".join(f"'{family}'" for family in families)
    return f"text {{ font-family: {named} }} " + " ".join(f"{a} {{ {b} }}" for a, b in rules)
