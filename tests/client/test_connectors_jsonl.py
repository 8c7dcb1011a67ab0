"""A file of records is read whole, or refused by file and line without a word of its content."""

import gzip
import json
from pathlib import Path

import pytest

from client.connectors.jsonl import JsonlConnector
from client.connectors.record import Record
from client.sources import DataSection
from privacy.errors import ConfigError
from tests.client.sources import CANARY, check
from tests.client.sources import refused as refused_source

GOOD = {"id": "a", "source": "s", "prompt": "p q", "completion": "c", "label": "l"}


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def good(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def read_records(path: Path, **settings: object) -> list[Record]:
    data = DataSection.model_validate({"path": path, "num_units": 10, **settings})
    return list(JsonlConnector(data).records())


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_records(path)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_records_are_read_in_order(tmp_path: Path, suffix: str) -> None:
    content = b"\xef\xbb\xbf" + good() + b"\r\n\n  \n" + good(id="b", unit_id="u", extra=[1])
    path = tmp_path / f"records{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    fields = {"prompt": "p q", "completion": "c", "label": "l"}
    first, second = read_records(path)
    assert (first.record_id, first.unit_id) == ("s/a", "s/a")
    assert (second.record_id, second.unit_id) == ("s/b", "u")
    for record, line in ((first, 1), (second, 4)):
        assert record.place == f"{path}, line {line}"
        assert {name: record.fields[name] for name in fields} == fields
        assert "extra" not in record.fields


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"id": "' + CANARY.encode(), "one JSON object"),
        (b'["' + CANARY.encode() + b'"]', "one JSON object"),
        (b"[" * 100_000, "one JSON object"),
        (b'{"id": "\xff' + CANARY.encode() + b'"}', "UTF-8"),
        (json.dumps({"id": CANARY, "prompt": CANARY}).encode(), "'completion'|'prompt'"),
        (good(id=CANARY, prompt=[CANARY]), "'prompt' to be a string, got list"),
        (good(source=None), "'source' to be a string"),
        (good(label=None), "'label' to be a string, got NoneType"),
        (good(id=7), "'id' to be a string, got int"),
        (good(unit_id=7), "'unit_id' to be a string, got int"),
        (good(unit_id=""), "'unit_id' to hold text"),
        (good(completion="  \n"), "'completion' to hold text"),
        (good(prompt=CANARY + "\ud800"), "lone surrogate"),
    ],
)
def test_a_line_that_is_no_record_is_named_by_file_and_number(
    tmp_path: Path, line: bytes, expected: str
) -> None:
    path = write(tmp_path / "records.jsonl", good(), line, good(id="c"))
    error = refused(path)
    assert f"{path}, line 2: expected " in str(error)
    assert any(part in str(error) for part in expected.split("|"))


def test_a_missing_file_says_where_to_correct_it(tmp_path: Path) -> None:
    assert "data.path" in refused(tmp_path / "none.jsonl").hint


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(b"\n".join(good(id=str(i)) for i in range(100))))
    if damage == "cut":
        del content[-20:]
    else:
        content[len(content) // 2] ^= 0xFF
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(content)
    assert "cannot read" in str(refused(path)) or "line" in str(refused(path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "IsADirectoryError" in str(refused(tmp_path))


def test_a_key_that_not_every_record_has_is_counted_and_not_shown(tmp_path: Path) -> None:
    data = f'path = "{tmp_path / "r.jsonl"}"'
    lines = [good(id=str(number), ward="w", **{f"JaneDoe{number}": 1}) for number in range(12)]
    write(tmp_path / "r.jsonl", *lines)
    said = check(data, tmp_path)
    assert "fields prompt, completion, label, id, source, ward and 12 more in some" in said
    # So few may all be of one person.
    write(tmp_path / "r.jsonl", *lines[:2])
    assert "ward" not in check(data, tmp_path)
    assert "JaneDoe" not in check(data, tmp_path)


@pytest.mark.parametrize("more", ['prompt = "{text}"', 'label = "{text}"', 'record_id = "nr"'])
def test_no_key_of_a_record_is_in_an_error(tmp_path: Path, more: str) -> None:
    write(tmp_path / "r.jsonl", good(**{CANARY: 1}))
    assert "line 1: expected a field" in str(refused_source(f'path = "r.jsonl"\n{more}', tmp_path))


def test_other_fields_are_named_in_the_settings(tmp_path: Path) -> None:
    line = json.dumps({"nr": "7", "kunde": "k", "text": "hello", "grade": 3, "class": "x"})
    settings = {"record_id": "nr", "unit_id": "kunde", "prompt": "{text}", "label": "{class}"}
    [record] = read_records(write(tmp_path / "r.jsonl", line.encode()), **settings, completion="")
    assert (record.record_id, record.unit_id) == ("7", "k")
    assert record.fields == {
        "text": "hello", "class": "x", "nr": "7", "kunde": "k", "grade": "3",
    }  # fmt: skip
