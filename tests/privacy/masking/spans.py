"""Texts with spans in them, and what masking leaves of a text."""

from hypothesis import strategies as st

from privacy.masking.config import ENTITY_TYPES
from privacy.masking.mask import Span, mask, merge
from privacy.masking.recognisers import find

TYPES = st.sampled_from(ENTITY_TYPES)


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[str, list[Span]]:
    """A text, and spans in order that do not overlap."""
    pieces = draw(st.lists(st.tuples(st.text(), st.text(min_size=1), TYPES), max_size=5))
    text, spans = "", []
    for before, inside, entity_type in pieces:
        start = len(text) + len(before)
        text += before + inside
        spans.append(Span(start, len(text), entity_type, 0.5))
    return text + draw(st.text()), spans


def masked(text: str) -> str:
    """A text with all that the rules find in it taken out."""
    return mask(text, merge(find(text, ENTITY_TYPES)))
