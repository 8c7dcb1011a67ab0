"""How much of planted personal data a site finds, and how much else it masks, before it trains.

A canary is a sentence with a value that is nobody's at a known place; a clean sentence has none.
The set is the same wherever the same version runs: it follows from the sentences and values in
`privacy.masking.planted`. Its digest stands in the plan, so the coordinator signs it when it
offers the plan and each site when it writes what it found; a site with another set trains nothing.

Each sentence is masked the way that records are. A canary counts as found when every letter and
digit of its value is covered, under whatever type, and the value no longer stands in the masked
text: nothing of it is left but a `+` or a bracket. How many were found under their own type is a
second figure, which no floor binds. A clean sentence counts as masked when any letter or digit of
it is: a detector that masks everything finds every canary and fails here.

A site may add notes of its own, with spans that people marked, or with none where there is
nothing to mask. They count too, but say something about records, so their figures stay there.

Recall on canaries is no recall on records: it shows that each recogniser works, and no more.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import rfc8785

from privacy.errors import ConfigError, OverMaskingError, RecallError
from privacy.masking.config import ENTITY_TYPES, LANGUAGES, MaskingConfig
from privacy.masking.figures import OWN, OverMasking, Recall
from privacy.masking.mask import Masked, Span
from privacy.masking.plain import plain
from privacy.masking.planted import chinese, english
from privacy.masking.planted.clean import CLEAN

Mask = Callable[[str], Masked]

_PLANTED = {"en": english.CANARIES, "zh": chinese.CANARIES}
# A shorter value may stand in another word by chance.
_TELLING = 4


@dataclass(frozen=True, slots=True)
class LabelledNote:
    """A text and where personal data stands in it.

    Attributes:
      source: A language, or `OWN` for a site's own notes.
      text: The text.
      spans: Start, end and type of each value; none: there is nothing to mask in it.
    """

    source: str
    text: str
    spans: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of canaries and clean sentences.

    Attributes:
      recalls: By type and source.
      over_masking: By source.
    """

    recalls: tuple[Recall, ...] = ()
    over_masking: tuple[OverMasking, ...] = ()

    def of(self, *, own: bool) -> "Measured":
        """The figures of a site's own notes, or those of the planted set, which may leave."""
        return Measured(
            tuple(recall for recall in self.recalls if (recall.source == OWN) == own),
            tuple(figure for figure in self.over_masking if (figure.source == OWN) == own),
        )


@cache
def planted(language: str) -> tuple[LabelledNote, ...]:
    """The canaries of a language: each value in each sentence of its type."""
    notes = []
    for entity_type, (values, sentences) in _PLANTED[language].items():
        for sentence in sentences:
            head, _, tail = sentence.partition("{}")
            for value in values:
                span = (len(head), len(head) + len(value), entity_type)
                notes.append(LabelledNote(language, head + value + tail, (span,)))
    return tuple(notes)


@cache
def clean(language: str) -> tuple[LabelledNote, ...]:
    """The sentences of a language in which nothing is to be masked."""
    return tuple(LabelledNote(language, text, ()) for text in CLEAN[language])


@cache
def set_digest() -> str:
    """`sha256:` and the hash of all sentences of all languages, JSON after RFC 8785."""
    content = rfc8785.dumps(
        [
            [note.source, note.text, [list(span) for span in note.spans]]
            for note in notes_of(LANGUAGES)
        ]
    )
    return "sha256:" + hashlib.sha256(content).hexdigest()


def notes_of(languages: Iterable[str]) -> list[LabelledNote]:
    """All canaries and clean sentences of some languages."""
    return [note for language in languages for note in (*planted(language), *clean(language))]


def num_planted(languages: Iterable[str], types: Iterable[str]) -> dict[tuple[str, str], int]:
    """How many values of each type and language a site has to look for."""
    wanted = frozenset(types)
    counts: dict[tuple[str, str], int] = {}
    for language in languages:
        for note in planted(language):
            for _, _, entity_type in note.spans:
                if entity_type in wanted:
                    pair = entity_type, language
                    counts[pair] = counts.get(pair, 0) + 1
    return counts


def num_clean(languages: Iterable[str]) -> dict[str, int]:
    """How many clean sentences of each language a site has to leave alone."""
    return {language: len(clean(language)) for language in languages}


def measure(mask: Mask, notes: Iterable[LabelledNote], types: Sequence[str]) -> Measured:
    """What `mask` makes of each type that is in `types` and in `notes`, and of clean notes.

    Raises:
      MaskingError: A recogniser failed.
    """
    found: dict[tuple[str, str], list[int]] = {}
    over: dict[str, list[int]] = {}
    wanted = frozenset(types)
    for note in notes:
        looked_for = [span for span in note.spans if span[2] in wanted]
        if note.spans and not looked_for:
            continue
        masked = mask(note.text)
        if not note.spans:
            count = over.setdefault(note.source, [0, 0])
            count[0] += 1
            count[1] += any(
                sign.isalnum()
                for span in masked.spans
                for sign in note.text[span.start : span.end]
            )
        for start, end, entity_type in looked_for:
            count = found.setdefault((entity_type, note.source), [0, 0, 0])
            count[0] += 1
            if not _covers(masked.spans, note.text, start, end):
                continue
            if stands_in(note.text[start:end], masked.text):
                continue
            count[1] += 1
            own = [span for span in masked.spans if span.entity_type == entity_type]
            count[2] += _covers(own, note.text, start, end)
    return Measured(
        tuple(sorted(Recall(*key, *counts) for key, counts in found.items())),
        tuple(sorted(OverMasking(source, *counts) for source, counts in over.items())),
    )


def _covers(spans: Iterable[Span], text: str, start: int, end: int) -> bool:
    covered = {place for span in spans for place in range(span.start, span.end)}
    return all(place in covered or not text[place].isalnum() for place in range(start, end))


def stands_in(value: str, text: str) -> bool:
    """Whether `value` stands in `text`, however its letters and digits are set apart."""
    said, searched = (plain(part)[0].casefold() for part in (value, text))
    signs = [re.escape(sign) for sign in said if sign.isalnum()]
    if not signs:
        return False
    between = r"[\W_]*".join(signs)
    if len(signs) < _TELLING:
        between = rf"(?<![0-9a-z]){between}(?![0-9a-z])"
    return re.search(between, searched) is not None


def check_recall(recalls: Sequence[Recall], floor: float) -> None:
    """Check that every type is found often enough.

    Raises:
      RecallError: One is below the floor, or nothing was measured. Names the worst.
    """
    if not recalls:
        raise RecallError(
            "expected planted examples of the plan's types, got none",
            hint="ask for a plan whose types are planted in its languages",
        )
    low = sorted((r for r in recalls if r.share < floor), key=lambda recall: recall.share)
    if low:
        worst = low[0]
        others = f" and {len(low) - 1} more below" if len(low) > 1 else ""
        begin, end = worst.interval
        raise RecallError(
            f"expected at least {floor:g} of planted {worst.entity_type} ({worst.source}) to be"
            f" masked, got {worst.share:.3f} [{begin:.3f}, {end:.3f}],"
            f" {worst.num_found} of {worst.num_planted}{others}",
            hint="no record was read; repair the recognisers, or lower [policy] recall_floor and"
            " ask for a plan with a lower recall_floor",
        )


def check_over_masking(figures: Sequence[OverMasking], ceiling: float) -> None:
    """Check that little is masked where there is nothing to mask.

    Raises:
      OverMaskingError: A source is above the ceiling, or nothing was measured. Names the worst.
    """
    if not figures:
        raise OverMaskingError("expected clean sentences of the plan's languages, got none")
    worst = max(figures, key=lambda figure: figure.share)
    if worst.share > ceiling:
        begin, end = worst.interval
        raise OverMaskingError(
            f"expected something masked in at most {ceiling:g} of clean sentences"
            f" ({worst.source}), got {worst.share:.3f} [{begin:.3f}, {end:.3f}],"
            f" {worst.num_masked} of {worst.num_clean}",
            hint="no record was read; a model in [masking] ner may mask too much; else raise"
            " [policy] max_over_masking and ask for a plan with a higher max_over_masking",
        )


def check_said(
    recalls: Sequence[Recall],
    over_masking: Sequence[OverMasking],
    masking: MaskingConfig,
    *,
    is_known: bool = True,
) -> None:
    """Check figures that somebody says of planted examples against what a plan asks for.

    A site's agent asks before it signs what its training process says, which only has to say how
    many it found, and an auditor of what was signed.

    Args:
      recalls: By type and language, sorted.
      over_masking: By language, sorted.
      masking: The plan's.
      is_known: Whether the plan's set is this version's. Of another one only the digest is known,
        so not how many examples there are of what.

    Raises:
      ValueError: They are of other examples, or leave some out, or too few were found, or too many
        clean sentences masked.
    """
    if is_known:
        # A type that is not named is one that nobody looked for.
        found = [((recall.entity_type, recall.source), recall.num_planted) for recall in recalls]
        if found != sorted(num_planted(masking.languages, masking.entity_types).items()):
            raise ValueError(
                "expected recall of each planted type and language, and of all examples"
            )
        looked = [(figure.source, figure.num_clean) for figure in over_masking]
        if looked != sorted(num_clean(masking.languages).items()):
            raise ValueError(
                "expected over-masking of each of the plan's languages, and of all sentences"
            )
    for recall in recalls:
        if recall.entity_type not in masking.entity_types or recall.share < masking.recall_floor:
            raise ValueError(
                f"expected recall of {recall.entity_type} at or above the plan's floor of"
                f" {masking.recall_floor:g}, got {recall.share:.3f}"
            )
    for figure in over_masking:
        if figure.share > masking.max_over_masking:
            raise ValueError(
                f"expected over-masking ({figure.source}) of at most the plan's"
                f" {masking.max_over_masking:g}, got {figure.share:.3f}"
            )


def read_notes(path: Path) -> list[LabelledNote]:
    """A site's own notes: JSON Lines of `{text, spans: [{start, end, type}]}`.

    Raises:
      ConfigError: The file cannot be read, a line is no such note, or there is none. Names the
        line and quotes nothing of it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            hint="correct masking.labelled_notes in site.toml",
        ) from None
    notes = [
        _read_note(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not any(note.spans for note in notes):
        raise ConfigError(f"{path}: expected at least one note with a span, got none")
    return notes


def _read_note(line: bytes, where: str) -> LabelledNote:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        text, spans = row["text"], row["spans"]
        marked = tuple((span["start"], span["end"], span["type"]) for span in spans)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(
            f"{where}: expected {{text, spans: [{{start, end, type}}]}} as one JSON object"
        ) from None
    if not isinstance(text, str) or not all(_is_span(span, text) for span in marked):
        raise ConfigError(
            f"{where}: expected spans inside the text, of the types {', '.join(ENTITY_TYPES)}"
        )
    return LabelledNote(OWN, text, marked)


def _is_span(span: tuple[object, object, object], text: str) -> bool:
    start, end, entity_type = span
    return (
        type(start) is int
        and type(end) is int
        and 0 <= start < end <= len(text)
        and entity_type in ENTITY_TYPES
    )
