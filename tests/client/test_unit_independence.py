"""No unit's texts depend on another unit's records: sensitivity is counted on this."""

import base64
import csv
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.dataset import load
from privacy.dp.config import Unit
from tests.client.sources import config_of
from tests.client.test_dataset import KEY, tokenizer, with_unit

# What a judge of content would take for identifiers, or not, or is not there.
REMARKS = ("calls daily", "user{i}@example.org", "4111111111111111", "10.0.0.{i}", None)
COMMON = 'unit = "patient"\nprompt = "{*}"\n'
TABLE = 'unit_id = "pid"\nlabel = "{answer}"\ntext_columns = ["remark", "note", "rare"]\n'


class Row(NamedTuple):
    """A record of some unit; None where it has no value."""

    pid: str
    remark: str | None
    note: str
    rare: str | None
    answer: str


def write_csv(folder: Path, rows: Sequence[Row]) -> str:
    with (folder / "t.csv").open("w", newline="") as out:
        csv.writer(out).writerows([Row._fields, *rows])
    return 'kind = "csv"\npath = "t.csv"\n' + TABLE


def write_jsonl(folder: Path, rows: Sequence[Row]) -> str:
    with (folder / "t.jsonl").open("w") as out:
        for number, row in enumerate(rows):
            there = {name: value for name, value in row._asdict().items() if value is not None}
            # A name of its own in every object: the fields of one are no matter of another.
            out.write(json.dumps({"id": row.pid + row.note, f"x {number}": "y", **there}) + "\n")
    return 'path = "t.jsonl"\ncompletion = ""\n' + TABLE


def write_parquet(folder: Path, rows: Sequence[Row]) -> str:
    schema = pa.schema([(name, pa.string()) for name in Row._fields])
    pq.write_table(pa.Table.from_pylist([r._asdict() for r in rows], schema), folder / "t.parquet")
    return 'kind = "parquet"\npath = "t.parquet"\n' + TABLE


def write_sql(folder: Path, rows: Sequence[Row]) -> str:
    with closing(sqlite3.connect(folder / "t.db")) as connection, connection:
        connection.execute(f"CREATE TABLE t ({', '.join(Row._fields)})")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
    source = 'kind = "sql"\nurl = "sqlite:///t.db"\nquery = "SELECT * FROM t"\n'
    return source + TABLE


def write_omop(folder: Path, rows: Sequence[Row]) -> str:
    with closing(sqlite3.connect(folder / "t.db")) as connection, connection:
        connection.executescript(
            "CREATE TABLE concept (concept_id, concept_name);"
            "CREATE TABLE person (person_id, gender_concept_id, year_of_birth);"
            "CREATE TABLE note (note_id, person_id, note_date, note_title, note_text,"
            " note_class_concept_id, note_type_concept_id);"
            "INSERT INTO concept VALUES (1, 'yes'), (2, 'no'), (3, 'x');"
        )
        for pid in dict.fromkeys(row.pid for row in rows):
            connection.execute("INSERT INTO person VALUES (?, NULL, 1970)", (pid,))
        connection.executemany(
            "INSERT INTO note VALUES (?, ?, '2020-01-02', ?, ?, ?, ?)",
            [
                (i, r.pid, r.remark, r.note, 1 if r.answer == "yes" else 2, 3 if r.rare else None)
                for i, r in enumerate(rows)
            ],
        )
    columns = 'text_columns = ["note_title", "note_text", "note_type"]\n'
    return f'kind = "omop"\nurl = "sqlite:///t.db"\n{columns}'


def write_fhir(folder: Path, rows: Sequence[Row]) -> str:
    with (folder / "t.ndjson").open("w") as out:
        for number, row in enumerate(rows):
            data = base64.b64encode(row.note.encode()).decode()
            resource = {
                "resourceType": "DocumentReference",
                "id": f"d{number}",
                "subject": {"reference": f"Patient/{row.pid}"},
                "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
                "type": {"text": row.answer},
                **({"description": row.remark} if row.remark else {}),
                **({"status": row.rare} if row.rare else {}),
            }
            out.write(json.dumps(resource) + "\n")
    return (
        'kind = "fhir"\npath = "t.ndjson"\nresource = "DocumentReference"\nlabel = "{answer}"\n'
        'text_columns = ["remark", "note", "rare"]\n[data.fields]\nremark = "description"\n'
        'note = "content.attachment"\nrare = "status"\nanswer = "type.text"\n'
    )


def write_iso20022(folder: Path, rows: Sequence[Row]) -> str:
    def told(name: str, value: str | None) -> str:
        return f"<{name}>{value}</{name}>" if value else ""

    statements = "".join(
        f"<Stmt><Acct><Id><IBAN>{row.pid}</IBAN></Id></Acct><Ntry><NtryDtls><TxDtls>"
        f"<Purp><Cd>{row.answer}</Cd></Purp><RmtInf><Ustrd>{row.note}</Ustrd></RmtInf>"
        f"</TxDtls></NtryDtls></Ntry></Stmt>".replace(
            "<NtryDtls>",
            told("AddtlNtryInf", row.remark) + told("NtryRef", row.rare) + "<NtryDtls>",
        )
        for row in rows
    )
    (folder / "t.xml").write_text(
        f"<Document><BkToCstmrStmt>{statements}</BkToCstmrStmt></Document>"
    )
    return (
        'kind = "iso20022"\npath = "t.xml"\nlabel = "{purpose}"\n'
        'text_columns = ["information", "remittance", "entry"]\n'
    )


def loaded(write: Callable[[Path, Sequence[Row]], str], rows: Sequence[Row]) -> dict[str, object]:
    """All that is learnt of each unit, or measured on it."""
    with TemporaryDirectory() as name:
        lines = write(Path(name), rows)
        config = config_of(COMMON + lines, Path(name))
        data = load(config, with_unit(Unit.PATIENT), tokenizer(), holdout_key=KEY)
    found: dict[str, object] = {
        unit.unit_id: [(list(e.input_ids), e.answer_start) for e in unit.examples]
        for unit in data.train
    }
    for held_out in data.held_out:
        records = (held_out.prompt, held_out.answer, held_out.label)
        found[held_out.unit_id] = [*found.get(held_out.unit_id, []), records]  # type: ignore[misc]
    return found


def rows_of(kinds: Sequence[int], rare: frozenset[int], per_unit: int) -> list[Row]:
    return [
        Row(
            pid=f"p{i // per_unit}",
            remark=(REMARKS[kind] or "").format(i=i % 200) or None,
            note=f"note {i}",
            rare="x" if i in rare else None,
            answer=("yes", "no")[i % 2],
        )
        for i, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    "write",
    [write_csv, write_jsonl, write_parquet, write_sql, write_omop, write_fhir, write_iso20022],
)
@settings(max_examples=8, deadline=None)
@given(
    kinds=st.lists(st.integers(0, len(REMARKS) - 1), min_size=12, max_size=30),
    rare=st.frozensets(st.integers(0, 30), max_size=3),
    per_unit=st.integers(1, 2),
    gone=st.integers(0, 5),
)
# Half of the first two hundred are addresses, and one more or less would be decisive.
@example(kinds=[i % 2 if i < 200 else 0 for i in range(210)], rare=frozenset(), per_unit=1, gone=1)
# A column that among the first two hundred only the first unit has.
@example(kinds=[0] * 210, rare=frozenset({0, *range(205, 210)}), per_unit=1, gone=0)
def test_taking_one_unit_away_changes_no_text_of_another(
    write: Callable[[Path, Sequence[Row]], str],
    kinds: list[int],
    rare: frozenset[int],
    per_unit: int,
    gone: int,
) -> None:
    rows = rows_of(kinds, rare, per_unit)
    whole = loaded(write, rows)
    without = loaded(write, [row for row in rows if row.pid != f"p{gone}"])
    assert whole.keys() == {row.pid for row in rows}
    assert whole.pop(f"p{gone}")
    assert without == whole
