"""Records from a Parquet file, a batch of rows at a time (Apache Parquet, read by pyarrow).

Only the columns that are used are decoded. Memory is bounded by one row group of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from client.connectors.extras import needs
from client.connectors.record import Record, as_text, check_columns, make_record
from client.sources import ParquetSection
from privacy.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow.parquet

BATCH_ROWS = 1024


class ParquetConnector:
    """The rows of a Parquet file."""

    def __init__(self, data: ParquetSection, *, wanted: frozenset[str] | None = None) -> None:
        """Read the columns `wanted`, or every one where a row is named by all that it says."""
        self._data = data
        self._wanted = wanted if data.record_id else None

    def check(self) -> str:
        """Rows, columns and their types."""
        with self._opened() as table:
            schema = table.schema_arrow
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            return f"Parquet, {len(schema)} columns: {columns}"

    def records(self) -> Iterator[Record]:
        """The rows in order."""
        with self._opened() as table:
            columns = [
                name
                for name in table.schema_arrow.names
                if self._wanted is None or name in self._wanted
            ]
            number = 0
            for batch in table.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                names = batch.schema.names
                columns_of_batch = [
                    _values(column, f"{self._data.path}, row", number + 1, name)
                    for name, column in zip(names, batch.columns, strict=True)
                ]
                for row in zip(*columns_of_batch, strict=True):
                    number += 1
                    place = f"{self._data.path}, row {number}"
                    fields = {
                        name: as_text(value, place=place, column=name)
                        for name, value in zip(names, row, strict=True)
                    }
                    yield make_record(fields, self._data, place)

    @contextmanager
    def _opened(self) -> "Iterator[pyarrow.parquet.ParquetFile]":
        with needs("parquet", "pyarrow"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        path = self._data.path
        # The other pools reserve memory ahead, which a training process with a limit cannot.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            with path.open("rb") as raw, pq.ParquetFile(raw, pre_buffer=False) as table:
                check_columns(tuple(table.schema_arrow.names), self._data, str(path))
                yield table
        except FileNotFoundError:
            raise ConfigError(
                f"{path} does not exist", hint="correct data.path in site.toml"
            ) from None
        except (pa.ArrowException, OSError) as error:
            # Its text may quote a value.
            raise ConfigError(
                f"cannot read {path} as Parquet: {type(error).__name__}",
                hint="check that the file is readable and complete",
            ) from None


def _values(column: "pyarrow.Array", place: str, first: int, name: str) -> list[Any]:
    """The values of a column of a batch whose first row has number `first`.

    Raises:
      ConfigError: One is no text in UTF-8, or a time that no calendar has.
    """
    number = first
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        # Such an error holds the bytes that it failed on: which row it was is looked for apart.
        pass
    try:
        for number, value in enumerate(column, start=first):  # noqa: B007 - told when it fails
            value.as_py()
    except (ValueError, OverflowError) as error:
        expected = "UTF-8" if isinstance(error, UnicodeError) else "a date from year 1 to 9999"
        raise ConfigError(
            f"{place} {number}: expected {expected} in column {name!r}, got something else",
            hint="correct the value, or leave the column out of the templates",
        ) from None
    raise ConfigError(f"{place} {first} or after it: cannot read column {name!r}")
