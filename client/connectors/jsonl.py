"""Records from a JSON Lines file, plain or gzip: one object a line, read one at a time.

A record is `{id, source, prompt, completion, label}`, and `unit_id` where a patient or customer
has several; `site.toml` may name other fields. Every value that is used must be a string. An id is
one of its source: two sources that were put together may number their records alike. An error
names the file and the line and never quotes it, nor the name of a field that site.toml does not
name: a key may be text of the record.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from client.connectors.files import opened
from client.connectors.record import SURROGATE, Fields, Record, shown_columns
from client.sources import DataSection, template_parts
from privacy.errors import ConfigError

_FIRST_ROWS: Final = 200
# A name that so many records share is a name of the file's form.
_ENOUGH_ROWS: Final = 11


class JsonlConnector:
    """The records of a JSON Lines file."""

    def __init__(self, data: DataSection) -> None:
        self._data = data
        # In the templates' order: an error names the first one that is missing.
        self._needed = tuple(
            dict.fromkeys(
                name
                for template in data.templates.values()
                for name, is_field in template_parts(template)
                if is_field and name != "*"
            )
        )

    def check(self) -> str:
        """The fields that all of the first records have; another may be called after a person."""
        first = list(islice(self.records(), _FIRST_ROWS))
        if not first:
            return "JSON Lines, no record"
        everywhere = [
            name
            for name in first[0].fields
            if name in self._needed or _in_all(name, [record.fields for record in first])
        ]
        num_others = len({name for record in first for name in record.fields} - {*everywhere})
        others = f" and {num_others} more in some" if num_others else ""
        return f"JSON Lines, fields {shown_columns(everywhere)}{others}"

    def records(self) -> Iterator[Record]:
        """The records in order; blank lines are skipped."""
        for line_number, line in _read_lines(self._data.path):
            yield self._parse(line, place=f"{self._data.path}, line {line_number}")

    def _parse(self, line: bytes, *, place: str) -> Record:
        values = parse_object(line, place)
        record_id = _text(values, self._data.record_id, place)
        if "source" in values:
            record_id = f"{_text(values, 'source', place)}/{record_id}"
        unit_id = self._data.unit_id
        filled = self._data.missing == "refuse"
        fields: dict[str, str | None] = {
            name: _text(values, name, place) if filled else _optional(values, name, place)
            for name in self._needed
        }
        # What no template uses is seen by the cohort and by {*}, as far as it is plain.
        fields |= {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
            if name not in fields and isinstance(value, str | int | float)
        }
        return Record(
            unit_id=_text(values, unit_id, place) if unit_id in values else record_id,
            record_id=record_id,
            fields=fields,
            place=place,
        )


def _in_all(name: str, rows: list[Fields]) -> bool:
    return len(rows) >= _ENOUGH_ROWS and all(name in row for row in rows)


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with opened(path) as lines:
        for line_number, line in enumerate(lines, start=1):
            if line.strip():
                yield line_number, line


def parse_object(line: bytes, place: str) -> dict[str, object]:
    """The JSON object of a line.

    Raises:
      ConfigError: It is none.
    """
    # `from None` throughout: these exceptions carry the line that they failed on.
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError(f"{place}: expected UTF-8") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: expected one JSON object") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: expected one JSON object")
    return values


def _optional(values: dict[str, object], name: str, place: str) -> str | None:
    value = values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return _text(values, name, place)


def _text(values: dict[str, object], name: str, place: str) -> str:
    if name not in values:
        raise ConfigError(f"{place}: expected a field {name!r}, got none")
    value = values[name]
    if not isinstance(value, str):
        raise ConfigError(
            f"{place}: expected field {name!r} to be a string, got {type(value).__name__}"
        )
    if not value.strip():
        raise ConfigError(f"{place}: expected field {name!r} to hold text, got nothing")
    if SURROGATE.search(value):
        # Half of a character: the tokenizer would fail on it and quote the text.
        raise ConfigError(f"{place}: expected field {name!r} to be Unicode, got a lone surrogate")
    return value
