"""One row of a file: every text in it masked, or one field masked beside the original.

A row is a JSON object. Every string in it is masked at any depth, and every number in which
personal data is found becomes a masked string; only fields that the operator names are left as
they are. A value is searched alone and behind the name of its field, which says what a bare number
is. Names of fields are not masked: a row with personal data in one is refused. With a field for
spans the row is kept as it is instead, and gets `masked` and `spans`.

An error names the file and the line and never quotes it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache

from privacy.errors import ConfigError, MaskingError
from privacy.masking.config import MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import Span
from privacy.masking.replace import Replacer
from privacy.masking.surrogates import SurrogateKey

_MAX_QUOTED_NAME = 60
_SHORT_TEXT = 40
_CACHED_TEXTS = 4096
# `account_number`, `CVV`: such names are headings, whatever a rule takes them for.
_IDENTIFIER = re.compile(r"[a-z]+(?:[_A-Z][a-z]*)*|[A-Z]+(?:_[A-Z]+)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSettings:
    """How rows are masked.

    Attributes:
      masking: Types, languages and mode.
      key: The site's key, for mode `surrogate`.
      keep: Fields at the top of a row that are left as they are.
      subject: Field that says whose row it is; empty: `unit_id` where there is one, else the row.
      spans_of: Field that is masked beside the original, with its spans; empty: rows are masked.
      ner: The site's model beside the rules.
      source: What errors call the input.
    """

    masking: MaskingConfig
    key: SurrogateKey | None = None
    keep: tuple[str, ...] = ()
    subject: str = ""
    spans_of: str = ""
    ner: str = "none"
    source: str = "input"

    def describe(self) -> dict[str, object]:
        """Everything that the output depends on, without the key itself."""
        return {
            "masking": asdict(self.masking),
            "ner": self.ner,
            "key_id": self.key.key_id if self.key else "",
            "keep": list(self.keep),
            "subject": self.subject,
            "spans_of": self.spans_of,
        }


@dataclass(kw_only=True, slots=True)
class RowStats:
    """What was masked, summed over rows."""

    num_rows: int = 0
    num_characters: int = 0
    num_masked_characters: int = 0
    num_masked: Counter[str] = field(default_factory=Counter)

    def add(self, other: "RowStats") -> None:
        """Add the figures of other rows."""
        self.num_rows += other.num_rows
        self.num_characters += other.num_characters
        self.num_masked_characters += other.num_masked_characters
        self.num_masked.update(other.num_masked)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text: what it was, what stands there now, and its type if it was masked."""

    original: str
    masked: str
    entity_type: str | None


class RowMasker:
    """Masks rows; builds the recognisers once."""

    def __init__(self, settings: RowSettings) -> None:
        """Build the recognisers.

        Raises:
          MaskingError: They cannot be built, or a key is missing.
        """
        self._settings = settings
        self._detector = Detector(settings.masking, ner=settings.ner)
        self._replacer = Replacer(settings.masking, settings.key)
        # Labels, codes and flags repeat; to look through one costs a call of all recognisers.
        self._find_short = lru_cache(maxsize=_CACHED_TEXTS)(self._detector.find)

    def mask_line(self, line: bytes, number: int, stats: RowStats) -> bytes:
        """The masked row as one line with its end.

        Raises:
          ConfigError: The line is no row, or lacks a field.
          MaskingError: A recogniser failed on it.
        """
        where = f"{self._settings.source}, line {number}"
        row = parse_row(line, where)
        subject = self._subject(row, where)
        try:
            if self._settings.spans_of:
                self._add_spans(row, subject, where, stats)
            else:
                for name, value in row.items():
                    if name not in self._settings.keep:
                        self._check_name(name, where)
                        row[name] = self._mask_value(value, name, subject, where, stats)
        except MaskingError as error:
            raise MaskingError(f"{where}: {error}", hint=error.hint) from None
        stats.num_rows += 1
        try:
            # Lone halves of characters and numbers beyond JSON's were refused with the line.
            written = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise ConfigError(f"{where}: expected numbers that JSON can hold") from None
        return written.encode() + b"\n"

    def _find(self, text: str, name: str = "") -> list[Span]:
        find = self._find_short if len(text) <= _SHORT_TEXT else self._detector.find
        return find(text, name)

    def _check_name(self, name: str, where: str) -> None:
        """Raise where a field's name holds personal data; what reads as an identifier does not."""
        if not _IDENTIFIER.fullmatch(name) and self._find(name):
            raise ConfigError(
                f"{where}: expected names of fields without personal data, got one with some",
                hint="make it a value, or name the field with --keep if it stands at the top",
            )

    def pieces(self, text: str, subject: str, name: str = "") -> list[Piece]:
        """`text` of the field `name` cut where masking begins and ends."""
        pieces, end = [], 0
        for span in self._find(text, name):
            value = text[span.start : span.end]
            whole = [Span(0, len(value), span.entity_type, span.score)]
            pieces += [
                Piece(text[end : span.start], text[end : span.start], None),
                Piece(
                    value, self._replacer.replace(value, whole, subject=subject), span.entity_type
                ),
            ]
            end = span.end
        pieces.append(Piece(text[end:], text[end:], None))
        return [piece for piece in pieces if piece.original]

    def preview(self, line: bytes, number: int) -> Iterator[tuple[str, list[Piece]]]:
        """Place and pieces of each text of a row at any depth, the kept ones left out.

        A place is written `patient.notes[0]`. Numbers are shown where they are masked.

        Raises:
          ConfigError: The line is no row, or one that would not be masked.
          MaskingError: A recogniser failed on it.
        """
        where = f"{self._settings.source}, line {number}"
        row = parse_row(line, where)
        subject = self._subject(row, where)
        for name, value in row.items():
            if self._settings.spans_of not in ("", name) or name in self._settings.keep:
                continue
            if not self._settings.spans_of:
                self._check_name(name, where)
            for place, inner_name, text in self._texts(value, name, name, where):
                yield place, self.pieces(text, subject, inner_name)

    def _texts(
        self, value: object, place: str, name: str, where: str
    ) -> Iterator[tuple[str, str, str]]:
        """Place, field and text of everything in `value` that is masked."""
        if isinstance(value, dict):
            for inner_name, inner in value.items():
                self._check_name(inner_name, where)
                yield from self._texts(inner, f"{place}.{inner_name}", inner_name, where)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from self._texts(inner, f"{place}[{number}]", name, where)
        elif isinstance(value, str) and value:
            yield place, name, value
        elif (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and self._find(repr(value), name)
        ):
            yield place, name, repr(value)

    def _subject(self, row: dict[str, object], where: str) -> str:
        name = self._settings.subject or ("unit_id" if "unit_id" in row else "")
        if not name:
            # Each row is a subject of its own: the same row has the same offset on each run.
            return json.dumps(row, sort_keys=True)
        if name not in row or not isinstance(row[name], str | int):
            raise ConfigError(f"{where}: expected field {_short(name)} to name the subject")
        return str(row[name])

    def _add_spans(
        self, row: dict[str, object], subject: str, where: str, stats: RowStats
    ) -> None:
        name = self._settings.spans_of
        text = row.get(name)
        if not isinstance(text, str):
            raise ConfigError(
                f"{where}: expected field {_short(name)} to be a string,"
                f" got {'none' if name not in row else type(text).__name__}"
            )
        taken = sorted({"masked", "spans"} & set(row))
        if taken:
            raise ConfigError(
                f"{where}: expected no field {taken[0]}, got one",
                hint="this file was masked already; begin from the original",
            )
        spans = self._find(text, name)
        _count(stats, text, spans)
        row["masked"] = self._replacer.replace(text, spans, subject=subject)
        row["spans"] = [
            {"start": s.start, "end": s.end, "type": s.entity_type, "score": s.score}
            for s in spans
        ]

    def _mask_value(
        self, value: object, name: str, subject: str, where: str, stats: RowStats
    ) -> object:
        if isinstance(value, str):
            return self._mask_text(value, name, subject, stats)
        if isinstance(value, dict):
            for inner_name in value:
                self._check_name(inner_name, where)
            return {
                inner_name: self._mask_value(inner, inner_name, subject, where, stats)
                for inner_name, inner in value.items()
            }
        if isinstance(value, list):
            return [self._mask_value(inner, name, subject, where, stats) for inner in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            # An account number that is no string is an account number.
            text = repr(value)
            masked = self._mask_text(text, name, subject, stats)
            return value if masked == text else masked
        return value

    def _mask_text(self, text: str, name: str, subject: str, stats: RowStats) -> str:
        spans = self._find(text, name)
        _count(stats, text, spans)
        return self._replacer.replace(text, spans, subject=subject)


def parse_row(line: bytes, where: str) -> dict[str, object]:
    """A line as a JSON object.

    Raises:
      ConfigError: It is none, or holds half of a character.
    """
    # `from None` throughout: these exceptions carry the line that they failed on.
    try:
        text = line.decode("utf-8-sig")
        row = json.loads(text, parse_constant=_refuse_constant)
        # A lone half of a character can be written in JSON, and in no file after.
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeError:
        raise ConfigError(f"{where}: expected UTF-8 without lone surrogates") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: expected one JSON object") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected one JSON object")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _short(name: str) -> str:
    return repr(name[:_MAX_QUOTED_NAME])


def _count(stats: RowStats, text: str, spans: Sequence[Span]) -> None:
    stats.num_characters += len(text)
    stats.num_masked_characters += sum(span.end - span.start for span in spans)
    stats.num_masked.update(span.entity_type for span in spans)
