"""The detector as records meet it: through Presidio, over any text, closed when broken."""

import subprocess
import sys
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import MaskingError
from privacy.masking import recognisers
from privacy.masking.config import ENTITY_TYPES, MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import mask

PIECES = (
    "4111 1111 1111 1111",
    "GB82 WEST 1234 5698 7654 32",
    "078-05-1120",
    "jane.doe@example.org",
    "https://example.org/a?b=",
    "www.",
    "192.0.2.44",
    "fe80::1",
    "2019-03-14",
    "14 March",
    "(202) 555-0143",
    "account no ",
    "MRN: ",
    "ending in ",
    "[PHONE]",
    "[RECORD_NUMBER",
    "SSN]",
    "[**Name**]",
    "XX/XX/2019",
    " ",
    ", ",
    "-",
    ".",
    ":",
    "卡",
    "é",
    "\u200b",
    "\uff14",
    "7",
    "2024",
)
ANY_TEXT = st.one_of(
    st.text(),
    st.text(alphabet=st.characters()),  # lone surrogates too
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join),
)


@cache
def detector() -> Detector:
    return Detector(MaskingConfig())


@pytest.fixture(scope="module", autouse=True)
def _words_are_read() -> None:
    detector()


def masked(text: str) -> str:
    return mask(text, detector().find(text))


@given(ANY_TEXT)
def test_masking_twice_is_masking_once(text: str) -> None:
    once = masked(text)
    assert masked(once) == once


@given(ANY_TEXT)
def test_spans_lie_in_the_text_in_order_and_the_rest_is_unchanged(text: str) -> None:
    spans = detector().find(text)
    pieces, end = [], 0
    for span in spans:
        assert end <= span.start < span.end <= len(text)
        assert span.entity_type in ENTITY_TYPES
        pieces += [text[end : span.start], f"[{span.entity_type}]"]
        end = span.end
    assert mask(text, spans) == "".join(pieces) + text[end:]


@given(st.sampled_from(PIECES[:3] + PIECES[6:11]), ANY_TEXT, ANY_TEXT)
def test_an_identifier_stands_in_no_masked_text(identifier: str, left: str, right: str) -> None:
    assert f" {identifier} " not in masked(f"{left}  {identifier}  {right}")


def test_what_came_masked_passes_unharmed() -> None:
    text = "[**Name**] of [PHONE], XXXX on XX/XX/23 for {$3.00} by [SSN][DATE]"
    assert masked(text) == text


def test_only_the_types_of_the_plan_are_masked() -> None:
    dates = Detector(MaskingConfig(entity_types=("DATE",)))
    text = "jane@example.org on 2019-03-14"
    assert mask(text, dates.find(text)) == "jane@example.org on [DATE]"


def test_what_a_neighbour_hid_is_found_once_the_neighbour_is_gone() -> None:
    text = "10.0.0.1.2019-03-14.192.0.2.44"
    assert masked(masked(text)) == masked(text)
    assert "192.0.2.44" not in masked(text)


@pytest.mark.parametrize("blind", ENTITY_TYPES)
def test_a_blind_recogniser_is_never_built(blind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for rules in (recognisers.EVERY_LANGUAGE, recognisers.LANGUAGE_RULES["en"]):
        monkeypatch.setitem(rules, blind, ())
    with pytest.raises(MaskingError, match=blind):
        Detector(MaskingConfig(entity_types=(blind,)))


def test_a_missing_presidio_is_a_masking_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "privacy.masking.presidio", None)
    with pytest.raises(MaskingError, match="ModuleNotFoundError") as caught:
        Detector(MaskingConfig())
    assert caught.value.hint


def test_a_failing_recogniser_stops_the_record_and_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = Detector(MaskingConfig())

    def fail(text: str, entities: list[str], languages: tuple[str, ...]) -> None:
        raise ValueError(text)

    monkeypatch.setattr(recognisers, "find", fail)
    with pytest.raises(MaskingError) as caught:
        broken.find("canary 4111 1111 1111 1111")
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_rules_and_masking_need_no_torch_and_no_presidio() -> None:
    program = (
        "import sys, privacy.masking.recognisers, privacy.masking.detect\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'spacy', 'presidio_analyzer')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
