"""The three modes: what is outside spans stays, and none is silently weaker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import MaskingError
from privacy.masking.config import ENTITY_TYPES, MODES, MaskingConfig
from privacy.masking.mask import Span, unmasked_segments
from privacy.masking.replace import Replacer
from privacy.masking.surrogates import SurrogateKey
from tests.privacy.masking.spans import texts_with_spans

KEY = SurrogateKey(bytes(32))
TEXT = "Card 4111 1111 1111 1111 of 2019-03-14 and 2019-03-20."
SPANS = [
    Span(5, 24, "CREDIT_CARD", 0.9),
    Span(28, 38, "DATE", 0.8),
    Span(43, 53, "DATE", 0.8),
]


def replacer(mode: str) -> Replacer:
    return Replacer(MaskingConfig(mode=mode), KEY if mode == "surrogate" else None)


def test_each_mode_writes_what_it_says() -> None:
    assert (
        replacer("placeholder").replace(TEXT, SPANS) == "Card [CREDIT_CARD] of [DATE] and [DATE]."
    )
    assert replacer("redact").replace(TEXT, SPANS) == "Card [...] of [...] and [...]."
    made = replacer("surrogate").replace(TEXT, SPANS, subject="p1")
    assert made.startswith("Card 0")
    assert "4111" not in made
    assert "2019-03-14" not in made


def test_surrogates_without_a_key_are_an_error() -> None:
    with pytest.raises(MaskingError, match="expected a key") as caught:
        Replacer(MaskingConfig(mode="surrogate"))
    assert "--new-key" in caught.value.hint


def test_placeholders_are_the_default_and_need_no_key() -> None:
    assert Replacer(MaskingConfig()).replace("a 1", [Span(2, 3, "AGE", 1.0)]) == "a [AGE]"


@given(st.sampled_from(MODES), texts_with_spans())
def test_only_the_spans_change_in_every_mode(mode: str, case: tuple[str, list[Span]]) -> None:
    text, spans = case
    masked = replacer(mode).replace(text, spans, subject="p")
    rest, end = masked, 0
    for span in spans:
        outside = text[end : span.start]
        assert rest.startswith(outside)
        rest, end = rest[len(outside) :], span.end
        if mode == "surrogate":
            made = replacer(mode).replace(
                text[span.start : span.end],
                [Span(0, span.end - span.start, span.entity_type, 1.0)],
                subject="p",
            )
        else:
            made = "[...]" if mode == "redact" else f"[{span.entity_type}]"
        assert rest.startswith(made)
        rest = rest[len(made) :]
    assert rest == text[end:]


@pytest.mark.parametrize("mode", MODES)
def test_spans_that_overlap_are_refused_without_quoting_text(mode: str) -> None:
    spans = [Span(0, 3, "SSN", 1.0), Span(2, 4, "SSN", 1.0)]
    with pytest.raises(ValueError, match="expected spans in order") as caught:
        replacer(mode).replace("canary", spans)
    assert "canary" not in str(caught.value)


def test_without_a_subject_each_text_is_its_own() -> None:
    dates = [Span(0, 10, "DATE", 0.9)]
    one, two = ("2019-03-14 a", "2019-03-14 b")
    made = [replacer("surrogate").replace(text, dates)[:10] for text in (one, one, two)]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_what_stands_for_a_span_is_searched_no_more() -> None:
    masked = "".join(f"[{name}]" for name in ENTITY_TYPES) + "[...]"
    assert list(unmasked_segments(masked)) == []
