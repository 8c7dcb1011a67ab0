"""What is shown of a record acts on neither terminal nor browser."""

import errno
import os
import re
import stat
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.masking.preview import as_page, as_terminal, write_page
from client.masking.rows import Piece
from privacy.errors import ConfigError
from privacy.masking.config import ENTITY_TYPES

HOSTILE = (
    '<script>alert("x")</script><img src=http://x onerror=alert(1)>\x1b]0;title\x07\x1b[2J\u202e'
)
PIECES = [
    Piece("Call ", "Call ", None),
    Piece("(202) 555-0143", "[PHONE]", "PHONE"),
    Piece(" 张三 ", " [PERSON] ", "PERSON"),
    Piece(HOSTILE, HOSTILE, None),
]
any_pieces = st.lists(
    st.builds(Piece, st.text(), st.text(), st.none() | st.sampled_from(ENTITY_TYPES)), max_size=5
)


def columns(line: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in line
    )


@given(any_pieces, st.integers(30, 120))
def test_lines_are_no_wider_than_the_terminal_and_hold_no_control(
    pieces: list[Piece], width: int
) -> None:
    for line in as_terminal([("line 1, text", pieces)], width=width, colours=False):
        assert line.isprintable() or line == ""
        assert columns(line) <= width


def test_original_and_masked_stand_side_by_side() -> None:
    head, line, *_ = as_terminal([("line 4, text", PIECES[:2])], width=60, colours=False)
    assert head.startswith("── line 4, text ──")
    assert line == "Call (202) 555-0143          │  Call [PHONE]"


def test_colours_go_by_type_and_end_with_each_line() -> None:
    lines = list(as_terminal([("x", PIECES)], width=40, colours=True))
    codes = re.findall(r"\x1b\[97;48;5;(\d+)m", "".join(lines))
    assert len(set(codes)) == 2
    assert all(line.count("\x1b[97") == line.count("\x1b[0m") for line in lines)
    assert "\x1b[2J" not in "".join(lines)
    assert "\x07" not in "".join(lines)


class Elements(HTMLParser):
    """Names of elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        """Remember both."""
        self.seen.add(element)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, text: str) -> None:
        """Remember the text."""
        self.text += text


def test_the_page_escapes_records_and_loads_nothing() -> None:
    page = as_page([(HOSTILE, PIECES)], HOSTILE)
    elements = Elements(page)
    assert not elements.seen & {"script", "img", "link", "iframe", "object", "base", "form"}
    assert elements.attributes <= {
        "charset", "http-equiv", "content", "scope", "class", "title", "lang",
    }  # fmt: skip
    assert "default-src &#x27;none&#x27;" in page
    assert not {"\x1b", "\x07", "\u202e"} & set(page)
    assert 'alert("x")' in elements.text
    assert "(202) 555-0143" in elements.text


def test_the_page_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    left = tmp_path / "p.html.new"
    left.write_text("of a crash")
    left.chmod(0o644)
    write_page(path, as_page([("x", PIECES)], "lone \ud800"))
    assert not left.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "[PHONE]" in path.read_text()


def test_a_page_replaces_nothing(tmp_path: Path) -> None:
    path, link = tmp_path / "in.jsonl", tmp_path / "p.html"
    path.write_text("records")
    link.symlink_to(tmp_path / "nowhere")
    for taken in (path, link):
        with pytest.raises(ConfigError, match="exists already"):
            write_page(taken, "page")
    assert path.read_text() == "records"
    assert not (tmp_path / "nowhere").exists()


def test_a_page_is_not_written_through_a_planted_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "p.html.new").symlink_to(other)
    write_page(tmp_path / "p.html", "page")
    assert other.read_text() == "mine"
    assert not (tmp_path / "p.html").is_symlink()


def test_a_page_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_page(tmp_path / "p.html", "page")
    assert list(tmp_path.iterdir()) == []
