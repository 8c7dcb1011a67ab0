"""A Parquet file is read in batches, only the columns that are used, or refused by column."""

import datetime
import struct
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.connectors.compose import open_connector
from tests.client.sources import CANARY, check, config_of, raw, read, refused

TABLE = 'kind = "parquet"\npath = "t.parquet"\nprompt = "{note}"\nlabel = "{class}"\n'


def write(folder: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=1000)
    return folder


def test_rows_become_records_over_many_batches(tmp_path: Path) -> None:
    notes = [f"note {i}" for i in range(5000)]
    write(tmp_path, id=list(range(5000)), note=notes, **{"class": ["a", "b"] * 2500})
    records = read(TABLE + 'record_id = "id"', tmp_path)
    assert [record.fields["prompt"] for record in records] == notes
    assert records[4999].record_id == "4999"
    assert "3 columns: id (int64), note (string), class (string)" in check(TABLE, tmp_path)


def test_types_become_text_and_null_is_no_value(tmp_path: Path) -> None:
    write(
        tmp_path,
        note=["x", None],
        when=[datetime.date(2020, 2, 3), None],
        at=[datetime.datetime(2020, 2, 3, 4, 5, tzinfo=datetime.UTC), None],
        price=[Decimal("1.50"), None],
        share=[0.5, float("nan")],
        sure=[True, None],
    )
    table = TABLE.replace("{class}", "{sure}")
    assert [record.fields for record in raw(table, tmp_path)] == [
        {
            "note": "x", "when": "2020-02-03", "at": "2020-02-03T04:05:00+00:00",
            "price": "1.50", "share": "0.5", "sure": "true",
        },
        dict.fromkeys(("note", "when", "at", "price", "share", "sure")),
    ]  # fmt: skip


def test_only_the_columns_that_are_used_are_decoded(tmp_path: Path) -> None:
    write(tmp_path, id=["1"], note=["x"], other=["y"], **{"class": ["a"]})
    data = config_of(TABLE + 'record_id = "id"', tmp_path).data
    assert set(next(open_connector(data).records()).fields) == {"id", "note", "class"}


def test_a_wrong_column_is_named(tmp_path: Path) -> None:
    write(tmp_path, text=[CANARY], **{"class": ["a"]})
    error = refused(TABLE, tmp_path)
    assert "t.parquet: data.prompt names the column 'note', the source has text, class" in str(
        error
    )
    write(tmp_path, note=[[CANARY]], **{"class": ["a"]})
    assert "row 1: expected text, a number or a date in column 'note', got list" in str(
        refused(TABLE, tmp_path)
    )


def test_a_column_named_after_somebody_is_counted_and_not_shown(tmp_path: Path) -> None:
    names = [f"{CANARY} of Jane Doe", "text", *(f"c{number}" for number in range(60))]
    write(tmp_path, **{name: ["a"] for name in names})
    error = refused(TABLE, tmp_path)
    assert "the source has text, c0, c1," in str(error)
    assert str(error).endswith("c38, 22 others")


TIMES = pa.array([None] * 3000 + [2**60], pa.timestamp("us"))
DATES = pa.array([0, 2**31 - 1], pa.date32())
# Two rows, `good` and bytes that are no UTF-8 behind the canary.
BYTES = b"good" + CANARY.encode() + b"\xff"
TEXTS = pa.Array.from_buffers(
    pa.string(),
    2,
    [None, pa.py_buffer(struct.pack("<iii", 0, 4, len(BYTES))), pa.py_buffer(BYTES)],
)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (TEXTS, "row 2: expected UTF-8 in column 'note'"),
        (TIMES, "row 3001: expected a date from year 1 to 9999 in column 'note'"),
        (DATES, "row 2: expected a date from year 1 to 9999 in column 'note'"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_by_row_and_column(
    tmp_path: Path, note: pa.Array, expected: str
) -> None:
    write(tmp_path, note=note, **{"class": ["a"] * len(note)})
    assert expected in str(refused(TABLE + 'missing = "skip"', tmp_path))


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "none"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.parquet"
    write(tmp_path, note=[CANARY] * 1000, **{"class": ["a"] * 1000})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-30:]
    elif damage == "flipped":
        content[20:60] = bytes(40)
    elif damage == "other":
        content = bytearray(CANARY.encode() * 100)
    path.unlink()
    if damage != "none":
        path.write_bytes(content)
    assert "t.parquet" in str(refused(TABLE, tmp_path))


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, note=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refused(TABLE, tmp_path)
    assert "needs pyarrow" in str(error)
    assert error.hint == "pip install 'cloister[parquet]'"
