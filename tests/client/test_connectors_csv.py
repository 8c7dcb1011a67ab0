"""A table of text is read in the dialect that is written down, or refused by row and column."""

import csv
import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError
from tests.client.sources import CANARY, check, config_of, raw, read, refused

TABLE = 'kind = "csv"\npath = "t.csv"\nprompt = "{note}"\nlabel = "{class}"\n'
GOOD = b"id,note,class\n1,one,a\n2,two,b\n"


def write(folder: Path, content: bytes) -> Path:
    (folder / "t.csv").write_bytes(content)
    return folder


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_rows_become_records(tmp_path: Path, pack: type[bytes]) -> None:
    content = b'\xef\xbb\xbfid,note,class\r\n7,"a ""quoted"",\nlong note",x\r\n\r\n8,b,y\r\n'
    records = read(TABLE + 'record_id = "id"', write(tmp_path, pack(content)))
    assert [record.record_id for record in records] == ["7", "8"]
    assert records[0].fields == {
        "prompt": 'a "quoted",\nlong note',
        "completion": "x",
        "label": "x",
    }
    assert "CSV, 3 columns: id, note, class" in check(TABLE, tmp_path)


@pytest.mark.parametrize(
    ("more", "content"),
    [
        ('delimiter = "\\t"', b"id\tnote\tclass\n1\tone, two\ta\n"),
        ('delimiter = ";"\nquote = "\'"', b"id;note;class\n1;'one, two';a\n"),
        ('quote = ""\ndelimiter = "|"', b'id|note|class\n1|one, two|a\n2|5" wide|b\n'),
        ('columns = ["id", "note", "class"]\ndelimiter = ";"', b"1;one, two;a\n"),
        ('encoding = "gb18030"', '"id",note,class\n1,"one, two",诊断\n'.encode("gb18030")),
        ('encoding = "cp1252"', 'id,note,class\n1,"one, two",café\n'.encode("cp1252")),
    ],
)
def test_the_dialect_is_what_the_settings_say(tmp_path: Path, more: str, content: bytes) -> None:
    assert read(TABLE + more, write(tmp_path, content))[0].fields["prompt"] == "one, two"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD + f"3,{CANARY}\n".encode(), "t.csv, row 3: expected 3 columns, got 2"),
        (GOOD + f"3,{CANARY},a,b\n".encode(), "t.csv, row 3: expected 3 columns, got 4"),
        (GOOD + f"3,\xff{CANARY},a\n".encode("latin-1"), "t.csv, line 4: expected utf-8"),
        (GOOD + f'3,"{CANARY}"x,a\n'.encode(), "t.csv, line 4: "),
        (GOOD + f'3,"{CANARY}\n4,five,a\n'.encode(), "t.csv, line 4: unexpected end of data"),
        (GOOD + f"3,,{CANARY}\n".encode(), "t.csv, row 3: expected a value in column 'note'"),
        (f"{CANARY} Jane,1960-01-01,4\n".encode() + GOOD, "names of columns in the first row"),
        (b"", "names of columns in the first row"),
        (b"id,note,note,class\n", "'note' twice"),
        (f"id,text,class\n1,{CANARY},a\n".encode(), "the first row has not all of"),
        (gzip.compress(GOOD, mtime=0)[:-6], "cannot read"),
    ],
)
def test_what_is_wrong_is_named_by_row_or_column(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    assert expected in str(refused(TABLE, write(tmp_path, content)))


@pytest.mark.parametrize("more", ["", 'record_id = "key"\nunit_id = "person"'])
def test_a_record_in_the_place_of_the_names_is_never_quoted(tmp_path: Path, more: str) -> None:
    write(tmp_path, f"Jane {CANARY},note {CANARY},flu\n".encode())
    expected = "the first row has none of the columns note, class"
    assert expected in str(refused(TABLE + more, tmp_path))
    with pytest.raises(ConfigError) as caught:
        check(TABLE + more, tmp_path)
    assert expected in str(caught.value)
    assert "it has 3 columns" in str(caught.value)
    assert CANARY not in str(caught.value) + caught.value.hint


def test_the_first_row_is_quoted_only_when_every_named_column_is_in_it(tmp_path: Path) -> None:
    # A value of a record may be the name of a column.
    write(tmp_path, f"{CANARY},note,x {CANARY}\n{CANARY},note,y\n".encode())
    for more in ("", 'unit_id = "person"'):
        error = refused(TABLE + more, tmp_path)
        assert "the first row has not all of the columns note, class" in str(error)
    # A repeated value is not told before either.
    write(tmp_path, f"{CANARY},{CANARY},note\n".encode())
    refused(TABLE, tmp_path)
    write(tmp_path, GOOD)
    assert "not all of the columns note, class, person" in str(
        refused(TABLE + 'unit_id = "person"', tmp_path)
    )


def test_settings_that_name_no_column_cannot_tell_names_from_a_record(tmp_path: Path) -> None:
    table = TABLE.replace("{note}", "{*}").replace("{class}", "all")
    write(tmp_path, f"Jane {CANARY},note {CANARY},flu\n".encode())
    with pytest.raises(ConfigError, match="expected a setting to name a column") as caught:
        raw(table, tmp_path)
    assert CANARY not in str(caught.value)
    named = 'text_columns = ["note"]\ncolumns = ["id", "note", "class"]'
    assert "note: note" in str(read(table + named, tmp_path)[0].fields["prompt"])


def test_a_long_note_is_read_and_a_quote_that_never_ends_does_not_fill_the_memory(
    tmp_path: Path,
) -> None:
    note = "x" * 1_000_000
    write(tmp_path, f"id,note,class\n1,{note},a\n".encode())
    assert read(TABLE, tmp_path)[0].fields["prompt"] == note
    write(tmp_path, b'id,note,class\n1,"' + b"x\n" * 10_000_000)
    assert "line 2: field larger than field limit" in str(refused(TABLE, tmp_path))


def test_a_row_without_an_id_is_named_by_what_it_says(tmp_path: Path) -> None:
    first = raw(TABLE, write(tmp_path, b"id,note,class\n1,one,a\n2,two,b\n1,one,a\n"))
    second = raw(TABLE, write(tmp_path, b"id,note,class\n2,two,b\n1,one,a\n"))
    assert first[0].unit_id == first[2].unit_id == second[1].unit_id
    assert first[1].unit_id == second[0].unit_id != first[0].unit_id


def test_missing_values_are_refused_skipped_or_filled(tmp_path: Path) -> None:
    write(tmp_path, b"id,note,class\n1,one,a\n2,NA,b\n3,three,\n")
    table = TABLE + 'empty = ["", "NA"]\n'
    assert "row 2: expected a value in column 'note'" in str(refused(table, tmp_path))
    assert len(read(table + 'missing = "skip"', tmp_path)) == 1
    filled = read(table + 'missing = "fill"\nfill = "?"', tmp_path)
    assert [r.fields["prompt"] for r in filled] == ["one", "?", "three"]
    assert [r.fields["label"] for r in filled] == ["a", "b", "?"]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20),
            st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20),
        ),
        max_size=5,
    )
)
def test_any_table_that_is_written_is_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([("note", "class"), *rows])
    found = [tuple(record.fields.values()) for record in raw(TABLE, folder)]
    assert found == [tuple(value if value.strip() else None for value in row) for row in rows]


def test_a_unit_of_people_needs_a_column(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert config_of(TABLE + 'unit = "patient"\nunit_id = "id"').data.unit_id == "id"
    assert "expected unit_id" in str(refused(TABLE + 'unit = "patient"', tmp_path))
