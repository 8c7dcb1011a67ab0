"""A template turns columns into texts; what names a person is left out until it is kept."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.sources import template_parts
from tests.client.sources import CANARY, read, refused

TABLE = 'kind = "csv"\npath = "t.csv"\nlabel = "{y}"\n'


def write(folder: Path, header: str, *rows: str) -> Path:
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_names_stand_for_columns_and_doubled_braces_for_themselves() -> None:
    assert template_parts("a {b c} {{d}} {*}") == (
        ("a ", False), ("b c", True), (" ", False), ("{", False), ("d", False), ("}", False),
        (" ", False), ("*", True),
    )  # fmt: skip


@pytest.mark.parametrize("template", ["{", "a}", "{a", "{}", "{a{b}}", "}{"])
def test_a_brace_alone_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="brace alone"):
        template_parts(template)


@given(st.text())
def test_any_text_can_be_written_as_a_template(text: str) -> None:
    parts = template_parts(text.replace("{", "{{").replace("}", "}}"))
    assert "".join(part for part, _ in parts) == text
    assert not any(is_field for _, is_field in parts)


def test_a_table_becomes_text_without_its_label(tmp_path: Path) -> None:
    write(tmp_path, "age,job,y", "58,manager,no", "44,,yes")
    records = read(TABLE + 'prompt = "Client with {*}."', tmp_path)
    assert [r.fields["prompt"] for r in records] == [
        "Client with age: 58; job: manager.",
        "Client with age: 44.",
    ]
    assert [r.fields["completion"] for r in records] == ["no", "yes"]


def test_a_value_is_never_read_as_a_template(tmp_path: Path) -> None:
    write(tmp_path, "note,ssn,y", "see {ssn} and {{x}},1,a")
    assert read(TABLE + 'prompt = "{note}"', tmp_path)[0].fields["prompt"] == (
        "see {ssn} and {{x}}"
    )


def test_identifiers_are_left_out_of_a_whole_row_by_name_and_content(tmp_path: Path) -> None:
    write(
        tmp_path,
        "id,last_name,contact,note,y",
        *(f"{i},Doe,jane{i}@example.org,fine,a" for i in range(10)),
    )
    for record in read(TABLE + 'prompt = "{*}"\nrecord_id = "id"', tmp_path):
        assert record.fields["prompt"] == "note: fine"
    kept = read(TABLE + 'prompt = "{*}"\nkeep = ["contact"]\ndrop = ["id"]', tmp_path)
    assert kept[3].fields["prompt"] == "contact: jane3@example.org; note: fine"


@pytest.mark.parametrize(
    ("more", "column", "reason"),
    [
        ('prompt = "{ssn}"', "ssn", "of its name"),
        ('prompt = "{contact}"', "contact", "it holds email addresses"),
        ('prompt = "{nr}"\nrecord_id = "nr"', "nr", "it names the record or the unit"),
        ('prompt = "{note}"\ndrop = ["note"]', "note", "data.drop lists it"),
    ],
)
def test_an_identifier_that_a_template_names_is_refused_until_it_is_kept(
    tmp_path: Path, more: str, column: str, reason: str
) -> None:
    lines = (f"{i},{CANARY},jane{i}@example.org,fine,a" for i in range(10))
    write(tmp_path, "nr,ssn,contact,note,y", *lines)
    error = refused(TABLE + more, tmp_path)
    assert f"names the column {column!r}" in str(error)
    assert reason in str(error)
    assert "data.keep" in error.hint
    if "drop" not in more:
        assert len(read(TABLE + more + f'\nkeep = ["{column}"]', tmp_path)) == 10


def test_a_column_is_kept_or_dropped_and_not_both(tmp_path: Path) -> None:
    write(tmp_path, "a,y", "1,2")
    more = 'prompt = "{a}"\nkeep = ["a"]\ndrop = ["a"]'
    assert "'a' in both" in str(refused(TABLE + more, tmp_path))


def test_an_empty_text_and_half_a_character_are_refused_by_row(tmp_path: Path) -> None:
    write(tmp_path, "a,ssn,y", "1,2,x", ",2,x")
    error = refused(TABLE + 'prompt = "{*}"', tmp_path)
    assert "t.csv, row 2: expected 'prompt' to hold text, got nothing" in str(error)
    (tmp_path / "r.jsonl").write_text('{"id": "1", "text": "a", "y": "b", "z": "\\ud800"}\n')
    jsonl = 'path = "r.jsonl"\nlabel = "{y}"\ncompletion = ""\nprompt = "{*}"\n'
    error = refused(jsonl, tmp_path)
    assert "r.jsonl, line 1: expected 'prompt' to be Unicode" in str(error)
