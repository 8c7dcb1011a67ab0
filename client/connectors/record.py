"""What every connector yields, and how a row gets its names.

A value is text or None, which means that there is none. An error names the place and the column
and never the value.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from client.sources import SourceSection, template_parts
from privacy.errors import ConfigError

Fields = Mapping[str, str | None]
SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN_COLUMNS = 40
_COLUMN = re.compile(r"[^\W\d][\w.-]{0,63}")
"""Half of a character, which no text may hold: it cannot be written as UTF-8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One raw record. Nothing but `client.dataset` may hold it.

    Attributes:
      unit_id: Identifier of its patient or customer; `record_id` where the source names none.
      record_id: Identifier in its source.
      fields: Text by column, unmasked; None where there is no value.
      place: Where it stands, for an error: file and line, or row of the query.
    """

    unit_id: str
    record_id: str
    fields: Fields
    place: str


class Connector(Protocol):
    """A source of records: opened anew by each call, read one record at a time."""

    def check(self) -> str:
        """What can be seen of the source without reading records: format, columns, role.

        Raises:
          ConfigError: It cannot be reached or is not what `site.toml` says.
        """

    def records(self) -> Iterator[Record]:
        """The records, in the source's order.

        Raises:
          ConfigError: It cannot be read, or a row is no record.
        """


def make_record(fields: Fields, data: SourceSection, place: str) -> Record:
    """A row as a record, named by the columns that the settings name.

    Without `record_id` a row's name is the digest of what it says: then the order of the rows
    decides nothing, and two equal rows are one unit and not two.

    Raises:
      ConfigError: The row has no such column, or no value in it.
    """
    record_id = (
        _name(fields, data.record_id, "record_id", place) if data.record_id else _digest(fields)
    )
    return Record(
        unit_id=_name(fields, data.unit_id, "unit_id", place) if data.unit_id else record_id,
        record_id=record_id,
        fields=fields,
        place=place,
    )


def check_columns(columns: tuple[str, ...], data: SourceSection, place: str) -> None:
    """Check that the columns that the settings name are there, before a row is read.

    Raises:
      ConfigError: One is missing, or two have the same name.
    """
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise ConfigError(f"{place}: expected each column once, got {repeated[0]!r} twice")
    for key in ("record_id", "unit_id"):
        name = getattr(data, key)
        if name and name not in columns:
            raise missing_column(name, columns, place, f"data.{key}")


def named_columns(data: SourceSection) -> tuple[str, ...]:
    """The columns that templates, `{*}`, `record_id` and `unit_id` name, each once."""
    used = (
        name
        for template in data.templates.values()
        for name, is_field in template_parts(template)
        if is_field and name != "*"
    )
    listed = data.text_columns if data.takes_all else ()
    names = dict.fromkeys((*used, *listed, data.record_id, data.unit_id))
    return tuple(name for name in names if name)


def missing_column(name: str, columns: tuple[str, ...], place: str, key: str) -> ConfigError:
    """The error of a setting that names a column which is not there."""
    return ConfigError(
        f"{place}: {key} names the column {name!r}, the source has {shown_columns(columns)}",
        hint=f"correct {key} in site.toml",
    )


def shown_columns(columns: Sequence[str]) -> str:
    """Names of a schema for an error: words of a program only, and not too many.

    A column may be called after a person or a sentence where a table was turned on its side, so
    what does not look like a name of a program is counted and not shown.
    """
    shown = [name for name in columns if _COLUMN.fullmatch(name)][:_SHOWN_COLUMNS]
    others = len(columns) - len(shown)
    return ", ".join([*shown, *([f"{others} others"] if others else [])])


def as_text(value: object, *, place: str, column: str) -> str | None:
    """A value of a typed source as text: numbers as they are written, times in ISO 8601.

    Raises:
      ConfigError: It is binary or nested.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # No number, as data frames write a missing value.
        return None if value != value else repr(value)
    if isinstance(value, str):
        return value or None
    if isinstance(value, int | Decimal | UUID | datetime.timedelta):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise ConfigError(
        f"{place}: expected text, a number or a date in column {column!r}, "
        f"got {type(value).__name__}",
        hint="leave the column out of the query, or convert it",
    )


def _name(fields: Fields, column: str, key: str, place: str) -> str:
    if column not in fields:
        raise missing_column(column, tuple(fields), place, f"data.{key}")
    name = fields[column]
    if name is None or not name.strip():
        raise ConfigError(f"{place}: expected a value in column {column!r}, the {key}, got none")
    if SURROGATE.search(name):
        raise ConfigError(
            f"{place}: expected column {column!r}, the {key}, to be Unicode, got a lone surrogate"
        )
    return name


def _digest(fields: Fields) -> str:
    # A lone surrogate cannot be encoded, and must not stop the digest before it is reported.
    text = json.dumps(dict(fields), ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
