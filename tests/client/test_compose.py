"""A template turns columns into texts; what names a person is left out until it is kept."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.dataset import describe, survey
from client.sources import template_parts
from privacy.errors import ConfigError
from tests.client.sources import CANARY, config_of, read, refused

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
    records = read(TABLE + 'prompt = "Client with {*}."\ntext_columns = ["age", "job"]', tmp_path)
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


def test_identifiers_are_left_out_of_the_list_that_is_proposed(tmp_path: Path) -> None:
    write(
        tmp_path,
        "id,last_name,contact,note,y",
        *(f"{i},Doe,jane{i}@example.org,fine,a" for i in range(10)),
    )
    error = refused(TABLE + 'prompt = "{*}"', tmp_path)
    assert "expected data.text_columns" in str(error)
    assert "cloister-site check" in error.hint
    table = TABLE + 'prompt = "{*}"\n'
    for more, proposed in (
        ('record_id = "id"', '["note"]'),
        ('keep = ["contact"]\ndrop = ["id"]', '["contact", "note"]'),
    ):
        with pytest.raises(ConfigError, match=r"expected data\.text_columns") as caught:
            describe(config_of(table + more, tmp_path))
        assert f"text_columns = {proposed}" in caught.value.hint
        listed = f"{table}{more}\ntext_columns = {proposed}"
        assert "left out of texts" in describe(config_of(listed, tmp_path))
        assert len(read(listed, tmp_path)) == 10
    both = table + 'keep = ["contact"]\ndrop = ["id"]\ntext_columns = ["contact", "note"]'
    assert read(both, tmp_path)[3].fields["prompt"] == "contact: jane3@example.org; note: fine"


def test_a_list_of_columns_names_what_is_there_and_is_not_learnt(tmp_path: Path) -> None:
    write(tmp_path, "a,ssn,y", "1,2,x")
    table = TABLE + 'prompt = "{*}"\ntext_columns = '
    assert "not all of the columns y, a, b" in str(refused(table + '["a", "b"]', tmp_path))
    assert "'ssn', which is taken for" in str(refused(table + '["ssn"]', tmp_path))
    assert "without what is learnt, got 'y'" in str(refused(table + '["a", "y"]', tmp_path))
    assert "got 'a' twice" in str(refused(table + '["a", "a"]', tmp_path))
    assert "got 'a' in both" in str(refused(table + '["a"]\ndrop = ["a"]', tmp_path))
    assert "got '' or '*'" in str(refused(table + '["*"]', tmp_path))


def test_a_field_is_proposed_only_where_many_objects_have_it(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": "a", "y": "b"} for i in range(30)]
    rows[3][CANARY] = "x"
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jsonl = 'path = "r.jsonl"\nlabel = "{y}"\ncompletion = ""\nprompt = "{*}"\n'
    with pytest.raises(ConfigError, match=r"expected data\.text_columns") as caught:
        describe(config_of(jsonl, tmp_path))
    assert 'text_columns = ["text"]' in caught.value.hint
    assert CANARY not in caught.value.hint
    listed = jsonl + 'text_columns = ["text", "more"]'
    assert describe(config_of(listed, tmp_path)).endswith("in none of the first 30 records: more")


@pytest.mark.parametrize(
    ("more", "column", "reason"),
    [
        ('prompt = "{ssn}"', "ssn", "of its name"),
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


@pytest.mark.parametrize(
    "more", ['prompt = "{contact}"', 'prompt = "{*}"\ntext_columns = ["note", "contact"]']
)
def test_what_stands_in_a_column_is_judged_by_a_check_and_changes_no_text(
    tmp_path: Path, more: str
) -> None:
    lines = (f"jane{i}@example.org,{CANARY},a" for i in range(10))
    write(tmp_path, "contact,note,y", *lines)
    for look in (describe, survey):
        with pytest.raises(ConfigError, match="because it holds email addresses") as caught:
            look(config_of(TABLE + more, tmp_path))
        assert "data.keep" in caught.value.hint
        assert CANARY not in str(caught.value)
    describe(config_of(TABLE + more + '\nkeep = ["contact"]', tmp_path))
    # A person wrote the name into site.toml, and no record has a say in it.
    assert "jane3@example.org" in str(read(TABLE + more, tmp_path)[3].fields["prompt"])


def test_a_column_is_kept_or_dropped_and_not_both(tmp_path: Path) -> None:
    write(tmp_path, "a,y", "1,2")
    more = 'prompt = "{a}"\nkeep = ["a"]\ndrop = ["a"]'
    assert "'a' in both" in str(refused(TABLE + more, tmp_path))


def test_an_empty_text_and_half_a_character_are_refused_by_row(tmp_path: Path) -> None:
    write(tmp_path, "a,ssn,y", "1,2,x", ",2,x")
    error = refused(TABLE + 'prompt = "{*}"\ntext_columns = ["a"]', tmp_path)
    assert "t.csv, row 2: expected 'prompt' to hold text, got nothing" in str(error)
    (tmp_path / "r.jsonl").write_text('{"id": "1", "text": "a", "y": "b", "z": "\\ud800"}\n')
    jsonl = (
        'path = "r.jsonl"\nlabel = "{y}"\ncompletion = ""\nprompt = "{*}"\ntext_columns = ["z"]\n'
    )
    error = refused(jsonl, tmp_path)
    assert "r.jsonl, line 1: expected 'prompt' to be Unicode" in str(error)
