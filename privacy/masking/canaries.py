"""How much of planted personal data a site finds, before it trains.

A canary is a sentence with a value that is nobody's at a known place. The set is the same wherever
the same version runs: it follows from the sentences and values in `privacy.masking.planted`. Its
digest stands in the plan, so the coordinator signs it when it offers the plan and each site when
it writes what it found; a site with another set trains nothing.

A canary counts as found when every letter and digit of its value is masked, under whatever type:
what matters is that nothing of it is left but a `+` or a bracket. Recall is given with its Wilson
interval (E. B. Wilson, 1927): of 40 found in 40, the truth may still be 91 %. A site may add notes
of its own, with spans that people marked. They count too, but say something about records, so
their figures stay there.

Recall on canaries is no recall on records: it shows that each recogniser works, and no more.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import rfc8785

from privacy.errors import ConfigError, RecallError
from privacy.masking.config import ENTITY_TYPES, LANGUAGES
from privacy.masking.mask import Span
from privacy.masking.planted import chinese, english

Find = Callable[[str], Sequence[Span]]

_PLANTED = {"en": english.CANARIES, "zh": chinese.CANARIES}
# Of the standard normal distribution: 95 % lie within.
_Z = 1.959963984540054
OWN = "own"


@dataclass(frozen=True, slots=True)
class LabelledNote:
    """A text and where personal data stands in it.

    Attributes:
      source: A language, or `OWN` for a site's own notes.
      text: The text.
      spans: Start, end and type of each value.
    """

    source: str
    text: str
    spans: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True, order=True)
class Recall:
    """How many values of a type were masked whole.

    Attributes:
      entity_type: The type.
      source: A language, or `OWN`.
      num_planted: How many there were.
      num_found: How many of them were masked whole.
    """

    entity_type: str
    source: str
    num_planted: int
    num_found: int

    @property
    def share(self) -> float:
        """Recall, the best guess."""
        return self.num_found / self.num_planted

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies, with 95 % confidence."""
        return wilson(self.num_found, self.num_planted)

    def as_list(self) -> list[object]:
        """As it stands in the log."""
        return [self.entity_type, self.source, self.num_planted, self.num_found]


def wilson(num_found: int, num_planted: int) -> tuple[float, float]:
    """The 95 % score interval of a share, without continuity correction.

    Source: Wilson 1927; method 3 of Newcombe 1998.

    Raises:
      ValueError: More were found than there are, or there are none.
    """
    if not 0 <= num_found <= num_planted or num_planted == 0:
        raise ValueError(f"expected 0 to {num_planted} of at least one, got {num_found}")
    share, n = num_found / num_planted, num_planted
    middle = share + _Z * _Z / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    whole = 1 + _Z * _Z / n
    low = 0.0 if num_found == 0 else (middle - half) / whole
    high = 1.0 if num_found == n else (middle + half) / whole
    return low, high


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
def set_digest() -> str:
    """`sha256:` and the hash of all canaries of all languages, JSON after RFC 8785."""
    content = rfc8785.dumps(
        [[note.source, note.text, [list(span) for span in note.spans]] for note in _every_note()]
    )
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _every_note() -> list[LabelledNote]:
    return [note for language in LANGUAGES for note in planted(language)]


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


def measure(find: Find, notes: Iterable[LabelledNote], types: Sequence[str]) -> list[Recall]:
    """Recall of `find` on each type that is in `types` and in `notes`, by type and source.

    Raises:
      MaskingError: A recogniser failed.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    wanted = frozenset(types)
    for note in notes:
        looked_for = [span for span in note.spans if span[2] in wanted]
        if not looked_for:
            continue
        covered = {place for span in find(note.text) for place in range(span.start, span.end)}
        for start, end, entity_type in looked_for:
            count = counts.setdefault((entity_type, note.source), [0, 0])
            count[0] += 1
            count[1] += all(
                place in covered or not note.text[place].isalnum() for place in range(start, end)
            )
    return sorted(
        Recall(entity_type, source, num_planted, num_found)
        for (entity_type, source), (num_planted, num_found) in counts.items()
    )


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


def parse_recalls(rows: Iterable[Sequence[object]]) -> list[Recall]:
    """Recalls as the log has them.

    Raises:
      ValueError: A row is none.
    """
    recalls = []
    for row in rows:
        if not is_recall(row):
            raise ValueError("expected [entity type, language, planted, found]")
        entity_type, source, num_planted, num_found = row
        recalls.append(
            Recall(str(entity_type), str(source), int(str(num_planted)), int(str(num_found)))
        )
    return recalls


def is_recall(row: object) -> bool:
    """Whether `row` is `[entity type, language, planted, found]`, as the log holds it."""
    return (
        isinstance(row, list)
        and len(row) == 4
        and row[0] in ENTITY_TYPES
        and row[1] in LANGUAGES
        and type(row[2]) is int
        and type(row[3]) is int
        and 0 <= row[3] <= row[2] <= 1_000_000
        and row[2] > 0
    )


def summary(recalls: Iterable[Recall]) -> Mapping[str, list[list[object]]]:
    """Recalls of planted canaries and of own notes apart: the first may leave, the others not."""
    rows: dict[str, list[list[object]]] = {"planted": [], OWN: []}
    for recall in recalls:
        rows[OWN if recall.source == OWN else "planted"].append(recall.as_list())
    return rows
