"""From a source's columns to prompt, completion and label, by the templates of `site.toml`.

A record's texts follow from `site.toml` and that record alone: which columns are used was decided
before, by a person, in the templates and in `text_columns`. If other records had a say, one unit
could change what is learnt of all of them, and clipping would bound nothing.

A column whose name or FHIR path names a person is refused until `data.keep` lists it. What its
content says is judged at home, by `check` and `cohort`, and decides about no text here.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, assert_never

from client.connectors.csv_table import CsvConnector
from client.connectors.fhir import FhirConnector
from client.connectors.iso20022 import Iso20022Connector
from client.connectors.jsonl import JsonlConnector
from client.connectors.omop import omop_connector
from client.connectors.parquet import ParquetConnector
from client.connectors.record import SURROGATE, Connector, Fields, Record, missing_column
from client.connectors.sql import SqlConnector
from client.identifiers import find_identifiers, names_a_person
from client.sources import (
    AnyData,
    CsvSection,
    DataSection,
    FhirSection,
    Iso20022Section,
    OmopSection,
    ParquetSection,
    SqlSection,
    template_parts,
)
from privacy.errors import ConfigError

_ALL: Final = "*"
_KEYS: Final = ("prompt", "completion", "label", "text_columns")


def open_connector(data: AnyData, *, every_column: bool = False) -> Connector:
    """The connector that `[data]` describes; nothing is opened yet.

    Where the format allows it, only columns that a template uses are decoded, or `every_column`.
    """
    match data:
        case DataSection():
            return JsonlConnector(data)
        case CsvSection():
            return CsvConnector(data)
        case ParquetSection():
            wanted = used_columns(data)
            named = wanted | {data.record_id, data.unit_id} - {""}
            return ParquetConnector(data, wanted=None if every_column else frozenset(named))
        case SqlSection():
            return SqlConnector(data, data.query)
        case OmopSection():
            return omop_connector(data)
        case FhirSection():
            return FhirConnector(data)
        case Iso20022Section():
            return Iso20022Connector(data)
        case _:
            assert_never(data)


def used_columns(data: AnyData) -> frozenset[str]:
    """The columns that a text may hold: those that the templates name, and those of `{*}`."""
    named = (name for key in _KEYS for name in _named_by(data, key))
    return frozenset((*named, *(data.text_columns if data.takes_all else ())))


def compose(data: AnyData, records: Iterator[Record]) -> Iterator[Record]:
    """The records with their texts as fields: prompt, completion and label.

    Raises:
      ConfigError: A template names a column that is not there or names a person, `{*}` has no
        list, or a row has no value for a column.
    """
    for record, fields in texts(data, records):
        if fields is not None:
            yield Record(
                unit_id=record.unit_id,
                record_id=record.record_id,
                fields=fields,
                place=record.place,
            )


def texts(
    data: AnyData, records: Iterator[Record]
) -> Iterator[tuple[Record, dict[str, str] | None]]:
    """Each raw record with its texts, None where it is skipped for want of a value."""
    if data.takes_all and not data.text_columns:
        raise no_list(data, "cloister-site check proposes the list")
    templates = _Texts(data)
    try:
        first = next(records, None)
        if first is None:
            return
        if not isinstance(data, DataSection):
            # Every row has the columns of the source; a JSON object has its own.
            check_there(data, tuple(first.fields))
        for record in chain((first,), records):
            yield record, templates.render(record)
    finally:
        if isinstance(records, Generator):
            # The collector would take a database's connection before its cursor.
            records.close()


def no_list(data: AnyData, hint: str) -> ConfigError:
    """The error of a `{*}` that stands for nothing yet."""
    return ConfigError(
        f"{data.place}: expected data.text_columns, the columns that {{*}} stands for, got none",
        hint=hint,
    )


def check_there(data: AnyData, columns: Sequence[str]) -> None:
    """Check that the source has what the templates and `text_columns` name.

    Raises:
      ConfigError: It has not.
    """
    for key in _KEYS:
        for name in _named_by(data, key):
            if name not in columns:
                raise missing_column(name, tuple(columns), data.place, f"data.{key}")


def named_identifiers(data: AnyData, columns: Sequence[str]) -> dict[str, str]:
    """The columns that no text may hold whatever stands in them, each with the reason."""
    return _unless_kept(data, columns, find_identifiers(columns, (), named=_ids(data)))


def judged_identifiers(
    data: AnyData, columns: Sequence[str], rows: Sequence[Fields]
) -> dict[str, str]:
    """The same, and those that some rows speak against: for a person to decide, before training.

    Never for a text that is learnt: it would follow from the records of others.
    """
    # Texts that a person prepared are masked and not judged.
    judged = () if data.is_prepared else rows
    return _unless_kept(data, columns, find_identifiers(columns, judged, named=_ids(data)))


def refuse_dropped(data: AnyData, dropped: Mapping[str, str]) -> None:
    """Check that the templates and `text_columns` name nothing that no text may hold.

    Raises:
      ConfigError: They do.
    """
    for key in _KEYS:
        for name in _named_by(data, key):
            if name in dropped:
                raise ConfigError(
                    f"{data.place}: data.{key} names the column {name!r}, which is taken for a "
                    f"direct identifier because {dropped[name]}",
                    hint=f"leave it out of data.{key}, or list it in data.keep if it names nobody",
                )


def _ids(data: AnyData) -> list[str]:
    # What is prepared is not called after people; its ids still are no text.
    ids = [name for name in (data.record_id, data.unit_id) if name]
    return [*ids, "source"] if data.is_prepared else ids


def _unless_kept(data: AnyData, columns: Sequence[str], found: dict[str, str]) -> dict[str, str]:
    if isinstance(data, FhirSection):
        # A field's name is the site's choice; its path is not.
        found |= {
            name: f"its path is {path}"
            for name, path in data.fields.items()
            if name in columns and name not in found and names_a_person(path)
        }
    found |= {name: "data.drop lists it" for name in data.drop if name in columns}
    return {name: reason for name, reason in found.items() if name not in data.keep}


def _named_by(data: AnyData, key: str) -> tuple[str, ...]:
    if key == "text_columns":
        return data.text_columns if data.takes_all else ()
    parts = template_parts(data.templates[key])
    return tuple(name for name, is_field in parts if is_field and name != _ALL)


class _Texts:
    """The three templates; nothing of a record is kept from one to the next."""

    def __init__(self, data: AnyData) -> None:
        refuse_dropped(data, named_identifiers(data, sorted(used_columns(data))))
        self._data = data
        self._parts = {name: template_parts(template) for name, template in data.templates.items()}

    def render(self, record: Record) -> dict[str, str] | None:
        """The three texts of a record; None where it is skipped."""
        rendered: dict[str, str] = {}
        for key, parts in self._parts.items():
            pieces = []
            for name, is_field in parts:
                piece = self._value(record, name) if is_field else name
                if piece is None:
                    return None
                pieces.append(piece)
            rendered[key] = _checked("".join(pieces), key, record.place)
        return rendered

    def _value(self, record: Record, name: str) -> str | None:
        if name == _ALL:
            given = ((column, record.fields.get(column)) for column in self._data.text_columns)
            return "; ".join(f"{column}: {value}" for column, value in given if value is not None)
        value = record.fields.get(name)
        if value is not None and value.strip():
            return value
        if self._data.missing == "fill":
            return self._data.fill
        if self._data.missing == "skip":
            return None
        raise ConfigError(
            f"{record.place}: expected a value in column {name!r}, got none",
            hint='data.missing = "skip" leaves such rows out, "fill" puts data.fill in its place',
        )


def _checked(text: str, key: str, place: str) -> str:
    if not text.strip():
        raise ConfigError(f"{place}: expected {key!r} to hold text, got nothing")
    if SURROGATE.search(text):
        # Half of a character: the tokenizer would fail on it and quote the text.
        raise ConfigError(f"{place}: expected {key!r} to be Unicode, got a lone surrogate")
    return text
