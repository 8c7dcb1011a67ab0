"""Replacing spans changes the spans and nothing else."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.masking.mask import Span, mask, merge, unmasked_segments
from tests.privacy.masking.spans import TYPES, texts_with_spans


@given(texts_with_spans())
def test_only_the_spans_change(case: tuple[str, list[Span]]) -> None:
    text, spans = case
    masked = mask(text, spans)
    start = end = 0
    for span in spans:
        outside, placeholder = text[end : span.start], f"[{span.entity_type}]"
        assert masked[start:].startswith(outside + placeholder)
        start += len(outside) + len(placeholder)
        end = span.end
    assert masked[start:] == text[end:]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10), TYPES)))
def test_merged_spans_cover_what_the_spans_covered_and_do_not_overlap(
    cases: list[tuple[int, int, str]],
) -> None:
    spans = [Span(start, start + length, kind, 0.5) for start, length, kind in cases]
    merged = merge(spans)
    assert {place for span in merged for place in range(span.start, span.end)} == {
        place for span in spans for place in range(span.start, span.end)
    }
    assert all(left.end <= right.start for left, right in pairwise(merged))
    mask("x" * 60, merged)


def test_the_longer_span_names_what_overlaps() -> None:
    spans = [Span(0, 8, "DATE", 0.9), Span(4, 20, "PHONE", 0.4)]
    assert merge(spans) == [Span(0, 20, "PHONE", 0.4)]


@pytest.mark.parametrize(
    "spans",
    [
        [Span(0, 3, "SSN", 1.0), Span(2, 4, "SSN", 1.0)],
        [Span(2, 3, "SSN", 1.0), Span(0, 1, "SSN", 1.0)],
        [Span(0, 0, "SSN", 1.0)],
        [Span(0, 9, "SSN", 1.0)],
        [Span(-1, 2, "SSN", 1.0)],
    ],
)
def test_spans_that_cannot_be_replaced_whole_are_refused_without_quoting_text(
    spans: list[Span],
) -> None:
    with pytest.raises(ValueError, match="expected spans in order") as caught:
        mask("canary", spans)
    assert "canary" not in str(caught.value)


def test_placeholders_divide_a_text() -> None:
    text = "[SSN]a [PHONE][DATE] b[XXX][EMAIL"
    assert [text[a:b] for a, b in unmasked_segments(text)] == ["a ", " b[XXX][EMAIL"]
