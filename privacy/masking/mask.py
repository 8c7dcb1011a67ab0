"""Replace spans of personal data by their type: `Call 555-0100` becomes `Call [PHONE]`.

Only the type's name stays. Nothing outside the spans changes, not a space, so that what a model
learns is what the institution wrote. `privacy.masking.replace` has the other modes.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from privacy.masking.config import ENTITY_TYPES

REDACTED = "[...]"
_PLACEHOLDER = re.compile(r"\[(?:" + "|".join(ENTITY_TYPES) + r"|\.\.\.)\]")


@dataclass(frozen=True, slots=True)
class Span:
    """Where personal data stands in a text: characters `start` to `end`, `end` not included.

    Attributes:
      start: Index of the first character.
      end: Index after the last character.
      entity_type: One of `ENTITY_TYPES`.
      score: How sure the recogniser is, in (0, 1]. It decides between types, not whether to mask.
    """

    start: int
    end: int
    entity_type: str
    score: float


@dataclass(frozen=True, slots=True)
class Masked:
    """What became of a text.

    Attributes:
      text: The text that may be used.
      spans: What was replaced, by place in the text as it was.
    """

    text: str
    spans: tuple[Span, ...]


def mask(text: str, spans: Sequence[Span]) -> str:
    """`text` with each span replaced by `[TYPE]`; the rest is unchanged.

    Raises:
      ValueError: As `substitute`.
    """
    return substitute(text, spans, lambda span: f"[{span.entity_type}]")


def substitute(text: str, spans: Sequence[Span], stand_in: Callable[[Span], str]) -> str:
    """`text` with each span replaced by what `stand_in` says; the rest is unchanged.

    Raises:
      ValueError: Spans overlap, are empty, lie outside the text or are not in order. Replacing
        them anyway would leave part of one of them standing.
    """
    pieces = []
    end = 0
    for span in spans:
        if not end <= span.start < span.end <= len(text):
            raise ValueError(
                f"expected spans in order inside a text of {len(text)} characters, "
                f"got {span.start} to {span.end} after {end}"
            )
        pieces += [text[end : span.start], stand_in(span)]
        end = span.end
    return "".join([*pieces, text[end:]])


def merge(spans: Sequence[Span]) -> list[Span]:
    """`spans` in order, with overlapping ones joined into one that covers them all.

    The joined span has the type of its longest part, then of the surest: what overlaps is masked
    whole even where two recognisers disagree about it.
    """
    merged: list[Span] = []
    parts: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if parts and span.start >= max(part.end for part in parts):
            merged.append(_joined(parts))
            parts = []
        parts.append(span)
    if parts:
        merged.append(_joined(parts))
    return merged


def unmasked_segments(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of the stretches of `text` between placeholders that stand in it already."""
    start = 0
    for placeholder in _PLACEHOLDER.finditer(text):
        if placeholder.start() > start:
            yield start, placeholder.start()
        start = placeholder.end()
    if start < len(text):
        yield start, len(text)


def _joined(parts: Sequence[Span]) -> Span:
    best = max(parts, key=lambda span: (span.end - span.start, span.score, span.entity_type))
    return Span(
        min(span.start for span in parts),
        max(span.end for span in parts),
        best.entity_type,
        best.score,
    )
