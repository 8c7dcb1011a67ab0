"""The PDF says what the page says, in both languages, or there is none."""

import io
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.controls import assess
from privacy.compliance.declarations import Declaration
from privacy.compliance.evidence import gather
from privacy.compliance.paper import _body, render_pdf
from privacy.compliance.queries import QUERIES
from privacy.compliance.regimes import load_regimes
from privacy.compliance.report import Extras, render_report
from privacy.compliance.words import Words
from privacy.errors import ConfigError
from tests.privacy.evidence import Federation, make_plan, quick_accountant

AT = datetime(2026, 11, 21, 9, 30, 7, 55, tzinfo=UTC)
# Each is something to typst or to HTML.
HOSTILE = '#panic("x") $x^2$ *no* _no_ `no` <b>no</b> @no // no \\u{41} #[no] "no" &amp; ~ --- @'
# The last code point for private use: no font has it.
NO_GLYPH = "\U0010fffd"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> VerifiedLog:
    folder = tmp_path_factory.mktemp("paper") / "log"
    federation = Federation(folder, plan=make_plan(num_rounds=1))
    federation.run()
    return verify_log(folder, federation.ring, accountant=quick_accountant)


def page(log: VerifiedLog, language: str = "en", said: str = HOSTILE) -> str:
    declared = {
        "gdpr-35": Declaration(control="gdpr-35", applies=True, statement=said),
    }
    regimes = load_regimes(["gdpr"], QUERIES)
    assessed = assess(gather(log), regimes, declared, Words(language))
    return render_report(log, Extras(regimes=assessed, language=language), at=AT)


def printed(
    html: str, language: str = "en", *, fonts: Path | None = None, system_fonts: bool = True
) -> bytes:
    words = Words(language)
    return render_pdf(html, "report.html", words, at=AT, fonts=fonts, system_fonts=system_fonts)


def texts(node: dict[str, Any]) -> Iterator[str]:
    """Every piece of text of the page, and nothing of its drawings."""
    for part in node["of"]:
        if isinstance(part, str):
            yield part
        else:
            yield from texts(part)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def check_same(html: str, pdf: bytes, language: str) -> None:
    on_paper = squeezed(
        "".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(pdf)).pages)
    )
    said = list(texts(_body(html, "report.html", Words(language), [])))
    assert len(said) > 300
    assert [text for text in said if squeezed(text) not in on_paper] == []


def test_every_word_of_the_page_stands_on_paper_and_none_is_read_as_code(log: VerifiedLog) -> None:
    html = page(log)
    pdf = printed(html)
    check_same(html, pdf, "en")
    whole = "".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(pdf)).pages)
    assert squeezed(HOSTILE) in squeezed(whole)


def test_every_word_of_the_chinese_page_stands_on_paper(log: VerifiedLog) -> None:
    html = page(log, "zh", "已完成。")
    try:
        pdf = printed(html, "zh")
    except ConfigError as error:
        if "glyph" not in str(error) or os.environ.get("CLOISTER_REQUIRE_CHINESE_FONT"):
            raise
        pytest.skip("no font with Chinese on this machine: make chinese-font")
    check_same(html, pdf, "zh")


@pytest.mark.parametrize(("language", "said"), [("zh", "."), ("en", NO_GLYPH), ("en", "张三")])
def test_a_character_without_a_glyph_is_one_error_and_no_boxes(
    log: VerifiedLog, language: str, said: str
) -> None:
    with pytest.raises(ConfigError, match="expected a font with a glyph for") as caught:
        printed(page(log, language, said), language, system_fonts=False)
    assert "--font DIR" in caught.value.hint


def test_a_folder_of_fonts_that_is_none_is_an_error(log: VerifiedLog, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder with fonts"):
        printed(page(log), fonts=tmp_path / "none")


def test_every_link_of_the_page_leads_to_its_entry_on_paper(log: VerifiedLog) -> None:
    html = page(log)
    reader = PdfReader(io.BytesIO(printed(html)))
    links = [
        mark
        for sheet in reader.pages
        for mark in (note.get_object() for note in sheet.get("/Annots", ()))
        if mark.get("/Subtype") == "/Link"
    ]
    # A link that breaks over two lines is two on paper.
    assert len(links) >= len(re.findall(r'<a href="#entry-', html)) > 40
    assert not [mark for mark in links if "/A" in mark and "/URI" in mark["/A"]]


def test_the_file_is_made_for_archives_and_twice_the_same(log: VerifiedLog) -> None:
    html = page(log)
    pdf = printed(html)
    assert re.search(rb'<pdfaid:part>2</pdfaid:part>|pdfaid:part="2"', pdf)
    assert not re.search(rb"/JavaScript|/Launch|/EmbeddedFile", pdf)
    assert len(pdf) < 2_000_000
    assert printed(html) == pdf
    about = PdfReader(io.BytesIO(pdf)).metadata
    assert about is not None
    assert about.title == "Evidence report: lakeside"


def test_an_element_that_has_no_form_on_paper_is_an_error(log: VerifiedLog) -> None:
    html = page(log).replace("blockquote>", "marquee>")
    with pytest.raises(ConfigError, match="without a form on paper: marquee"):
        printed(html)


def test_without_typst_the_error_says_what_to_install(
    log: VerifiedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(ConfigError, match="typst") as caught:
        printed(page(log))
    assert "cloister[pdf]" in caught.value.hint
