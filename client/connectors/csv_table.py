"""Records from CSV, TSV and their relatives, plain or gzip, one row at a time (RFC 4180).

The dialect stands in `site.toml` and is never guessed. Lines are decoded one by one, so that an
error of encoding names its line. A first row may be a record: it is quoted only once every column
that the settings name is in it.
"""

import csv
import re
from collections.abc import Iterator
from typing import IO

from client.connectors.files import opened
from client.connectors.record import Record, check_columns, make_record, named_columns
from client.sources import CsvSection
from privacy.errors import ConfigError

MAX_FIELD_CHARS = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_COLUMN = re.compile(r"[^\W\d][\w .:/()%+&#-]{0,63}")


class CsvConnector:
    """The rows of a table of text."""

    def __init__(self, data: CsvSection) -> None:
        self._data = data

    def check(self) -> str:
        """The names of the columns.

        Raises:
          ConfigError: The first row holds no names, or not all that the settings name.
        """
        with opened(self._data.path) as raw:
            _, columns = self._begin(raw)
        return f"CSV, {len(columns)} columns: {', '.join(columns)}"

    def records(self) -> Iterator[Record]:
        """The rows in order; empty lines are skipped."""
        with opened(self._data.path) as raw:
            rows, columns = self._begin(raw)
            missing = frozenset(self._data.empty)
            for number, row in rows:
                if not row:
                    continue
                place = f"{self._data.path}, row {number}"
                if len(row) != len(columns):
                    raise ConfigError(
                        f"{place}: expected {len(columns)} columns, got {len(row)}",
                        hint="check data.delimiter and data.quote, and the row",
                    )
                values = (None if value.strip() in missing else value for value in row)
                yield make_record(dict(zip(columns, values, strict=True)), self._data, place)

    def _begin(self, raw: IO[bytes]) -> tuple[Iterator[tuple[int, list[str]]], tuple[str, ...]]:
        """The numbered rows, from 1 after the names, and the names."""
        rows = self._rows(raw)
        columns = self._data.columns
        if not columns:
            _, header = next(rows, (0, []))
            columns = tuple(name.strip() for name in header)
            if not columns or not all(map(_COLUMN.fullmatch, columns)):
                raise ConfigError(
                    f"{self._data.path}: expected names of columns in the first row, "
                    "got something else",
                    hint="name them in data.columns where the file does not",
                )
            self._check_header(columns)
            rows = ((number - 1, row) for number, row in rows)
        check_columns(columns, self._data, str(self._data.path))
        return rows, columns

    def _check_header(self, columns: tuple[str, ...]) -> None:
        """Check that the first row has what the settings name, and tell no value of it if not.

        Raises:
          ConfigError: A column is not in it, or nothing says that the row holds names.
        """
        wanted = named_columns(self._data)
        found = [name for name in wanted if name in columns]
        if wanted and len(found) == len(wanted):
            return
        hint = "correct site.toml, or name the columns in data.columns where the file does not"
        place = f"{self._data.path}: "
        if not wanted:
            raise ConfigError(
                f"{place}expected a setting to name a column, got none that says whether the "
                f"first row, of {len(columns)} columns, holds names",
                hint=hint,
            )
        share = "not all of" if found else "none of"
        raise ConfigError(
            f"{place}the first row has {share} the columns {', '.join(wanted)}, "
            f"which site.toml names; it has {len(columns)} columns",
            hint=hint,
        )

    def _rows(self, raw: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
        # Of the whole process, and only ever raised: the default would refuse a long note.
        csv.field_size_limit(MAX_FIELD_CHARS)
        reader = csv.reader(
            self._lines(raw),
            delimiter=self._data.delimiter,
            quotechar=self._data.quote or None,
            quoting=csv.QUOTE_MINIMAL if self._data.quote else csv.QUOTE_NONE,
            doublequote=True,
            strict=True,
        )
        number = 0
        while True:
            number += 1
            begins = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # Its words tell of the dialect and quote nothing but the delimiter.
                raise ConfigError(
                    f"{self._data.path}, line {begins}: {error}",
                    hint="check data.delimiter and data.quote, and the line",
                ) from None
            yield number, row

    def _lines(self, raw: IO[bytes]) -> Iterator[str]:
        for number, line in enumerate(raw, start=1):
            content = line.removeprefix(_BOM) if number == 1 else line
            try:
                yield content.decode(self._data.encoding)
            except UnicodeDecodeError:
                raise ConfigError(
                    f"{self._data.path}, line {number}: expected {self._data.encoding}",
                    hint="set data.encoding to what the file was written in",
                ) from None
