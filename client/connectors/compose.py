"""From a source's columns to prompt, completion and label, by the templates of `site.toml`.

A column that names a person directly is left out of `{*}` and refused by name, until `data.keep`
lists it; content is judged by the first rows, which are held back until it is. A name that no
column has is an error that lists the columns.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
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

JUDGED_ROWS: Final = 200
_ALL: Final = "*"


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
            everything = every_column or _ALL in wanted
            return ParquetConnector(data, wanted=None if everything else frozenset(named))
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
    """The names in the templates, with `*` where one takes all columns."""
    return frozenset(
        name
        for template in data.templates.values()
        for name, is_field in template_parts(template)
        if is_field
    )


def compose(data: AnyData, records: Iterator[Record]) -> Iterator[Record]:
    """The records with their texts as fields: prompt, completion and label.

    Raises:
      ConfigError: A template names a column that is not there or names a person, or a row has no
        value for it.
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
    first = list(islice(records, JUDGED_ROWS))
    if not first:
        return
    columns = tuple(dict.fromkeys(name for record in first for name in record.fields))
    dropped = dropped_columns(data, columns, [record.fields for record in first])
    templates = _Texts(data, columns, dropped)
    for record in chain(first, records):
        yield record, templates.render(record)


def dropped_columns(
    data: AnyData, columns: Sequence[str], rows: Sequence[Fields]
) -> dict[str, str]:
    """The columns that no text may hold, each with the reason."""
    named = [name for name in (data.record_id, data.unit_id) if name]
    if data.is_prepared:
        # Texts that a person prepared are masked and not judged; their ids still are no text.
        named.append("source")
        found = find_identifiers(columns, (), named=named)
    else:
        found = find_identifiers(columns, rows, named=named)
        if isinstance(data, FhirSection):
            # A field's name is the site's choice; its path is not.
            found |= {
                name: f"its path is {path}"
                for name, path in data.fields.items()
                if name not in found and names_a_person(path)
            }
    found |= {name: "data.drop lists it" for name in data.drop if name in columns}
    return {name: reason for name, reason in found.items() if name not in data.keep}


class _Texts:
    """The three templates over known columns."""

    def __init__(self, data: AnyData, columns: Sequence[str], dropped: dict[str, str]) -> None:
        self._data = data
        parts = {name: template_parts(template) for name, template in data.templates.items()}
        for key, found in parts.items():
            for name, is_field in found:
                if is_field and name != _ALL:
                    _check_field(name, key, columns, dropped, data)
        # What is to be learnt must not stand in what is read.
        elsewhere = {
            name
            for key in ("completion", "label")
            for name, is_field in parts[key]
            if is_field and name != _ALL
        }
        self._rest = tuple(
            name for name in columns if name not in dropped and name not in elsewhere
        )
        self._parts = parts

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
            given = ((column, record.fields.get(column)) for column in self._rest)
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


def _check_field(
    name: str, key: str, columns: Sequence[str], dropped: dict[str, str], data: AnyData
) -> None:
    if name not in columns:
        raise missing_column(name, tuple(columns), data.place, f"data.{key}")
    if name in dropped:
        raise ConfigError(
            f"{data.place}: data.{key} names the column {name!r}, which is taken for a direct "
            f"identifier because {dropped[name]}",
            hint="leave it out of the template, or list it in data.keep if it names nobody",
        )


def _checked(text: str, key: str, place: str) -> str:
    if not text.strip():
        raise ConfigError(f"{place}: expected {key!r} to hold text, got nothing")
    if SURROGATE.search(text):
        # Half of a character: the tokenizer would fail on it and quote the text.
        raise ConfigError(f"{place}: expected {key!r} to be Unicode, got a lone surrogate")
    return text
