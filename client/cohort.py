"""What a site's records are like, without showing one: `cloister-site cohort`.

Units, classes, missing values, duplicates, lengths and months, counted in one pass. Counts of few
units are left out, and so is what would give them away (`client/suppression.py`); ends of ranges
lie where enough units are beyond them. A label is shown as a category, when enough units have it;
no other value of a record is shown.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from client.anonymity import Anonymity, Classes
from client.sources import AnyData, template_parts
from client.suppression import Cell, Table, suppress
from privacy.errors import ConfigError

MAX_LABELS: Final = 30
MAX_LABEL_CHARS: Final = 60
MAX_DISTINCT: Final = 10_000
MAX_TYPED_CHARS: Final = 40
_QUANTILES: Final = (0.05, 0.5, 0.95)
_MONTH: Final = re.compile(r"((?:1[89]|2[01])\d\d)[-/.](0?[1-9]|1[0-2])(?:[-/.]\d{1,2}(?:\D.*)?)?")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSummary:
    """One column of the source.

    Attributes:
      name: Its name.
      kind: text, number, date, mixed or empty.
      missing: Records without a value; None where they are few, or those with one are.
      distinct: Different values; None where there are more than are counted, or nearly as many
        as records with one, because the difference would count the few that repeat another.
      months: First and last month with enough units at or beyond it, for dates.
      dropped: Why no text holds it; nothing else is said of such a column.
    """

    name: str
    kind: str
    missing: int | None
    distinct: int | None
    months: tuple[str, str] | None
    dropped: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """A summary that shows no record and no small count.

    Attributes:
      source: Kind and place of the source.
      min_cell: Counts of fewer units than this are None or left out.
      num_records: Records read.
      num_units: Units they belong to, by unit_id where the source names one; None where nearly
        every unit has one record, because the difference would count the few that have more.
      records_per_unit: Quantiles, rounded.
      labels: Records by label; small classes are left out.
      num_hidden_labels: Labels that are left out, rows without text counted as one.
      hidden_label_records: Records with those labels together.
      without_text: Records that have no value for a template; None when left out.
      duplicate_rows: Records that equal an earlier one but for their identifier.
      duplicate_prompts: Records whose prompt an earlier one has.
      prompt_chars: Quantiles of the prompt's length in characters, rounded.
      completion_chars: The same of the completion's.
      columns: The source's columns.
      anonymity: k-anonymity and l-diversity, where quasi-identifiers are configured.
      proposed_text_columns: What `{*}` was counted with where site.toml has no list yet.
    """

    source: str
    min_cell: int
    num_records: int
    num_units: int | None
    records_per_unit: dict[str, int]
    labels: dict[str, int]
    num_hidden_labels: int
    hidden_label_records: int
    without_text: int | None
    duplicate_rows: int | None
    duplicate_prompts: int | None
    prompt_chars: dict[str, int]
    completion_chars: dict[str, int]
    columns: tuple[ColumnSummary, ...]
    anonymity: Anonymity | None
    proposed_text_columns: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The summary for a program."""
        return asdict(self)


class Survey:
    """Counts records one by one; holds digests of units and rows, and the labels."""

    def __init__(self, data: AnyData) -> None:
        self._data = data
        self._min_cell = data.min_cell
        self._records_of_unit: Counter[int] = Counter()
        self._labels: dict[str | None, Cell] = {}
        self._columns: dict[str, _Column] = {}
        self._rows, self._prompts = _Repeats(data.min_cell), _Repeats(data.min_cell)
        self._chars: dict[str, Counter[int]] = {"prompt": Counter(), "completion": Counter()}
        self._sensitive = data.sensitive or ("label",)
        self._classes = Classes(data.quasi_identifiers, self._sensitive, data.min_cell)

    def add(
        self, unit_id: str, fields: Mapping[str, str | None], texts: Mapping[str, str] | None
    ) -> None:
        """Count one record, with its texts or None where it has no value for one."""
        # Python's hash is keyed anew in each process: what is counted cannot be looked up.
        unit = hash(unit_id)
        for name in fields:
            if name not in self._columns:
                # A column that appears late was missing until now.
                self._columns[name] = _Column(self._min_cell, self._records_of_unit)
        self._records_of_unit[unit] += 1
        for name, column in self._columns.items():
            column.add(unit, fields.get(name))
        record_id = self._data.record_id
        self._rows.add(unit, *((k, v) for k, v in sorted(fields.items()) if k != record_id))
        label = None if texts is None else texts["label"]
        self._labels.setdefault(label, Cell(self._min_cell)).add(unit)
        if texts is not None:
            self._prompts.add(unit, texts["prompt"])
            for name, lengths in self._chars.items():
                lengths[len(texts[name])] += 1
        if self._data.quasi_identifiers:
            self._add_to_classes(unit, fields, label)

    def _add_to_classes(
        self, unit: int, fields: Mapping[str, str | None], label: str | None
    ) -> None:
        wanted = (*self._data.quasi_identifiers, *self._data.sensitive)
        unknown = next((name for name in wanted if name not in fields), None)
        if unknown is not None:
            raise ConfigError(
                f"{self._data.place}: data.quasi_identifiers or data.sensitive names the column "
                f"{unknown!r}, the source has {', '.join(fields)}",
                hint="correct it in site.toml",
            )
        quasi = tuple(fields[name] for name in self._data.quasi_identifiers)
        sensitive = tuple(fields[name] for name in self._data.sensitive) or (label,)
        self._classes.add(unit, quasi, sensitive)

    def finish(self, dropped: Mapping[str, str], proposed: tuple[str, ...] = ()) -> Cohort:
        """The summary.

        Args:
          dropped: Columns that no text holds, with the reason.
          proposed: Columns that `{*}` was taken for, where nobody has said which.

        Raises:
          ConfigError: So few units that every figure would point at somebody.
        """
        num_records, num_units = self._records_of_unit.total(), len(self._records_of_unit)
        if num_units < self._min_cell:
            raise ConfigError(
                f"{self._data.place}: expected at least {self._min_cell} units to tell anything "
                "about, got fewer",
                hint="data.min_cell in site.toml is the smallest count that is shown",
            )
        labels = suppress(self._labels, self._min_cell)
        shown: Counter[str] = Counter()
        for label, count in labels.shown.items():
            if label is not None:
                # Two long labels may look alike once they are cut.
                shown[_category(label)] += count
        columns = self._summaries(dropped, labels)
        return Cohort(
            source=f"{self._data.kind} {self._data.place}",
            min_cell=self._min_cell,
            num_records=num_records,
            num_units=None if 0 < num_records - num_units < self._min_cell else num_units,
            records_per_unit=self._quantiles(Counter(self._records_of_unit.values())),
            labels=dict(shown),
            num_hidden_labels=labels.num_hidden,
            hidden_label_records=labels.hidden_records,
            without_text=self._without_text(labels, columns),
            duplicate_rows=self._rows.repeated.count,
            duplicate_prompts=self._prompts.repeated.count,
            prompt_chars=self._quantiles(self._chars["prompt"]),
            completion_chars=self._quantiles(self._chars["completion"]),
            columns=columns,
            anonymity=self._classes.measure(),
            proposed_text_columns=proposed,
        )

    def _summaries(
        self, dropped: Mapping[str, str], labels: Table[str | None]
    ) -> tuple[ColumnSummary, ...]:
        # Where a class is hidden, the count of rows without a label would tell of it; where the
        # rows without text are, the count of any column that a text needs.
        told = {"label"} if labels.num_hidden else set()
        if None in self._labels and None not in labels.shown:
            told = set(self._data.templates)
        silent = {
            name
            for key in told
            for name, is_field in template_parts(self._data.templates[key])
            if is_field
        }
        return tuple(
            column.summary(name, dropped.get(name, ""), is_silent=name in silent)
            for name, column in self._columns.items()
        )

    def _without_text(
        self, labels: Table[str | None], columns: tuple[ColumnSummary, ...]
    ) -> int | None:
        """Records without text, None where a column's missing values would tell of a few."""
        without = labels.shown.get(None, None if None in self._labels else 0)
        missing = [column.missing for column in columns if column.missing is not None]
        if without is None or any(0 < abs(without - m) < self._min_cell for m in missing):
            return None
        return without

    def _quantiles(self, counts: Counter[int]) -> dict[str, int]:
        """Quantiles with enough records on both sides, rounded to two digits."""
        total = counts.total()
        wanted = [q for q in _QUANTILES if min(q, 1 - q) * total >= self._min_cell]
        found, below = {}, 0
        for value in sorted(counts):
            below += counts[value]
            while wanted and below >= wanted[0] * total:
                found[f"p{round(100 * wanted.pop(0)):02d}"] = _rounded(value)
        return found


class _Repeats:
    """Counts what was seen before, by its hash."""

    def __init__(self, min_cell: int) -> None:
        self._seen: set[int] = set()
        self.repeated = Cell(min_cell)

    def add(self, unit: int, *parts: object) -> None:
        hashed = hash(parts)
        if hashed in self._seen:
            self.repeated.add(unit)
        self._seen.add(hashed)


class _Column:
    """What is kept of a column: no value, only counts, hashes and months."""

    def __init__(self, min_cell: int, before: Counter[int]) -> None:
        self._min_cell = min_cell
        self._present = Cell(min_cell)
        self._missing = Cell(min_cell, before.total(), set(islice(before, min_cell)))
        self._seen: dict[int, str] = {}
        self._kinds: Counter[str] = Counter()
        self._months: dict[str, set[int]] = {}

    def add(self, unit: int, value: str | None) -> None:
        if value is None or not value.strip():
            self._missing.add(unit)
            return
        self._present.add(unit)
        hashed = hash(value)
        kind = self._seen.get(hashed) or _kind(value)
        if len(self._seen) <= MAX_DISTINCT:
            self._seen[hashed] = kind
        if kind in ("number", "text"):
            self._kinds[kind] += 1
            return
        self._kinds["date"] += 1
        units = self._months.setdefault(kind, set())
        if len(units) < self._min_cell:
            units.add(unit)

    def summary(self, name: str, dropped: str, *, is_silent: bool) -> ColumnSummary:
        kind = "empty"
        if self._kinds:
            kind, count = self._kinds.most_common(1)[0]
            # A few values of another kind must not be told by their number.
            kind = kind if count >= 0.9 * self._kinds.total() else "mixed"
        if dropped:
            return ColumnSummary(
                name=name, kind=kind, missing=None, distinct=None, months=None, dropped=dropped
            )
        table = suppress({True: self._missing, False: self._present}, self._min_cell)
        missing = table.shown.get(True, None if self._missing.num_records else 0)
        return ColumnSummary(
            name=name,
            kind=kind,
            missing=None if is_silent and missing else missing,
            distinct=self._distinct(),
            months=self._range() if kind == "date" else None,
            dropped="",
        )

    def _distinct(self) -> int | None:
        present = self._present.num_records
        # Those that repeat another, and together with those that are missing.
        gaps = (present - len(self._seen), present + self._missing.num_records - len(self._seen))
        is_few = any(0 < gap < self._min_cell for gap in gaps)
        return None if is_few or len(self._seen) > MAX_DISTINCT else len(self._seen)

    def _range(self) -> tuple[str, str] | None:
        months = sorted(self._months)
        first = self._reached(months)
        last = self._reached(months[::-1])
        return (first, last) if first and last and first <= last else None

    def _reached(self, months: Sequence[str]) -> str:
        """The month by which enough units have been met."""
        units: set[int] = set()
        for month in months:
            units |= self._months[month]
            if len(units) >= self._min_cell:
                return month
        return ""


def _kind(value: str) -> str:
    """number, text, or the month of a date."""
    short = value.strip()
    if len(short) > MAX_TYPED_CHARS:
        return "text"
    month = _MONTH.fullmatch(short)
    if month:
        return f"{month[1]}-{int(month[2]):02d}"
    return "number" if _NUMBER.fullmatch(short) else "text"


def format_cohort(cohort: Cohort) -> list[str]:
    """The summary for a person, line by line."""
    few = f"fewer than {cohort.min_cell} units"

    def count(value: int | None) -> str:
        return f"not shown ({few})" if value is None else f"{value:,}"

    lines = [
        f"source              {cohort.source}",
        f"records             {cohort.num_records:,}",
        f"units               {_units(cohort)}",
        f"records of a unit   {_spread(cohort.records_per_unit)}",
        f"without text        {count(cohort.without_text)}",
        f"equal rows          {count(cohort.duplicate_rows)}",
        f"equal prompts       {count(cohort.duplicate_prompts)}",
        f"prompt, characters  {_spread(cohort.prompt_chars)}",
        f"completion          {_spread(cohort.completion_chars)}",
        "",
        f"classes ({few} are left out, and others where they would give those away)",
    ]
    for label, number in list(cohort.labels.items())[:MAX_LABELS]:
        lines.append(f"  {number:>9,}  {number / cohort.num_records:6.1%}  {label}")
    if len(cohort.labels) > MAX_LABELS:
        lines.append(f"  and {len(cohort.labels) - MAX_LABELS} more; --json has them all")
    if cohort.num_hidden_labels:
        lines.append(
            f"  {cohort.hidden_label_records:>9,}  in {cohort.num_hidden_labels} classes left out"
        )
    lines += ["", "columns"]
    if cohort.proposed_text_columns:
        lines.append(f"  {{*}} was counted with {', '.join(cohort.proposed_text_columns)}")
    width = max((len(column.name) for column in cohort.columns), default=0)
    for column in cohort.columns:
        lines.append(f"  {column.name:<{width}}  {_column_words(column, count(column.missing))}")
    if cohort.anonymity is not None:
        small = count(cohort.anonymity.small_records)
        lines += ["", *_anonymity_lines(cohort.anonymity, small, cohort.min_cell)]
    return lines


def _units(cohort: Cohort) -> str:
    if cohort.num_units is not None:
        return f"{cohort.num_units:,}"
    return f"not shown (fewer than {cohort.min_cell} records more than units)"


def _column_words(column: ColumnSummary, missing: str) -> str:
    if column.dropped:
        return f"{column.kind:<6}  dropped: {column.dropped}"
    distinct = "not shown" if column.distinct is None else f"{column.distinct:,}"
    months = f"  {column.months[0]} to {column.months[1]}" if column.months else ""
    return f"{column.kind:<6}  missing {missing}  different {distinct}{months}"


def _anonymity_lines(anonymity: Anonymity, small: str, min_cell: int) -> list[str]:
    k = f"below {min_cell}" if anonymity.k is None else f"{anonymity.k:,}"
    diversity = ", ".join(f"{name} {value}" for name, value in anonymity.diversity.items())
    return [
        f"quasi-identifiers   {', '.join(anonymity.quasi_identifiers)}: "
        f"{anonymity.num_classes:,} combinations",
        f"k-anonymity         k = {k}; records in small classes: {small}",
        f"l-diversity         l = {diversity}",
        "                    a measure of this table, not a guarantee",
    ]


def _spread(quantiles: Mapping[str, int]) -> str:
    words = (f"{name} {value:,}" for name, value in quantiles.items())
    return ", ".join(words) or "too few records to tell"


def _category(label: str) -> str:
    """A label as it may stand on a screen: one line, no control characters."""
    printable = "".join(c if c.isprintable() else " " for c in label)
    return (
        printable if len(printable) <= MAX_LABEL_CHARS else printable[: MAX_LABEL_CHARS - 1] + "…"
    )


def _rounded(value: int) -> int:
    """Two digits: the exact length of one text is nobody's business."""
    scale = max(0, len(str(value)) - 2)
    return int(round(value, -scale))
