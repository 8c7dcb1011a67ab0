"""Records from a JSON Lines file, plain or gzip: one object a line, read one at a time.

A record is `{id, source, prompt, completion, label}`, and `unit_id` where a patient or customer
has several; every value that is read is a string, other keys are not read. An id is one of its
source: two sources that were put together may number their records alike. An error names the file
and the line and never quotes it.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import ConfigError

FIELDS = ("prompt", "completion", "label")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One raw record. Nothing but `client.dataset` may hold it.

    Attributes:
      line_number: Where it stands in the file, from 1.
      record_id: Source and identifier in it, `source/id`; without a source the identifier.
      unit_id: Identifier of its patient or customer; `record_id` where the file names none.
      fields: `FIELDS` by name, unmasked.
    """

    line_number: int
    record_id: str
    unit_id: str
    fields: dict[str, str]


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of `path` in order; blank lines are skipped.

    Raises:
      ConfigError: The file cannot be read, or a line is no record.
    """
    for line_number, line in _read_lines(path):
        yield _parse(line, line_number=line_number, where=f"{path}, line {line_number}")


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as opened:
            is_gzip = opened.read(2) == _GZIP_MAGIC
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as lines:
            for line_number, line in enumerate(lines, start=1):
                if line.strip():
                    yield line_number, line
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", hint="correct data.path in site.toml"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}",
            hint="check that the file is readable and complete",
        ) from None


def _parse(line: bytes, *, line_number: int, where: str) -> Record:
    # `from None` throughout: these exceptions carry the line that they failed on.
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: expected UTF-8") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: expected one JSON object") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected one JSON object")
    record_id = _text(values, "id", where)
    if "source" in values:
        record_id = f"{_text(values, 'source', where)}/{record_id}"
    return Record(
        line_number=line_number,
        record_id=record_id,
        unit_id=_text(values, "unit_id", where) if "unit_id" in values else record_id,
        fields={name: _text(values, name, where) for name in FIELDS},
    )


def _text(values: dict[str, object], name: str, where: str) -> str:
    if name not in values:
        raise ConfigError(f"{where}: expected a field {name!r}, got none")
    value = values[name]
    if not isinstance(value, str):
        raise ConfigError(
            f"{where}: expected field {name!r} to be a string, got {type(value).__name__}"
        )
    if not value.strip():
        raise ConfigError(f"{where}: expected field {name!r} to hold text, got nothing")
    if any("\ud800" <= character <= "\udfff" for character in value):
        # Half of a character: the tokenizer would fail on it and quote the text.
        raise ConfigError(f"{where}: expected field {name!r} to be Unicode, got a lone surrogate")
    return value
