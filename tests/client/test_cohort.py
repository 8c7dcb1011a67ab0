"""The cohort tells what records are like, and nothing about a few of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cli import main
from client.cohort import Cohort, ColumnSummary, Survey, format_cohort
from client.dataset import describe, survey
from client.sources import DataSection
from privacy.errors import ConfigError
from tests.client.sources import CANARY, config_of

TABLE = """
kind = "csv"
path = "t.csv"
prompt = "{*}"
label = "{class}"
unit_id = "patient"
unit = "patient"
min_cell = 5
quasi_identifiers = ["sex", "ward"]
"""


def rows(num: int = 40) -> list[str]:
    return [
        f"p{i},{'fm'[i % 2]},w{i % 4},2020-{i % 12 + 1:02d}-05,note {CANARY} {i},"
        f"{'flu' if i % 3 else 'cold'}"
        for i in range(num)
    ]


def look(folder: Path, lines: list[str], table: str = TABLE) -> Cohort:
    header = "patient,sex,ward,seen,note,class"
    (folder / "t.csv").write_text("\n".join([header, *lines]) + "\n")
    return survey(config_of(table, folder))


def column(cohort: Cohort, name: str) -> ColumnSummary:
    return next(column for column in cohort.columns if column.name == name)


def test_units_classes_and_columns_are_counted(tmp_path: Path) -> None:
    cohort = look(tmp_path, rows())
    assert (cohort.num_records, cohort.num_units) == (40, 40)
    assert cohort.labels == {"flu": 26, "cold": 14}
    assert cohort.without_text == cohort.duplicate_rows == 0
    assert column(cohort, "sex") == ColumnSummary(
        name="sex", kind="text", missing=0, distinct=2, months=None, dropped=""
    )
    assert column(cohort, "seen").kind == "date"
    assert column(cohort, "patient").dropped == "it names the record or the unit"
    assert cohort.anonymity is not None
    assert cohort.anonymity.num_classes == 4
    assert cohort.anonymity.k == 10


def test_no_text_of_a_record_is_in_it(tmp_path: Path) -> None:
    cohort = look(tmp_path, [*rows(), f"p99,f,w1,2020-01-05,{CANARY},{CANARY}"])
    for text in ("\n".join(format_cohort(cohort)), json.dumps(cohort.to_json())):
        assert CANARY not in text
        assert "p99" not in text


def test_a_rare_class_is_left_out_together_with_another(tmp_path: Path) -> None:
    more = [f"q{i},f,w1,2020-01-05,n{i},oddity" for i in range(2)]
    cohort = look(tmp_path, rows() + more)
    assert cohort.labels == {"flu": 26}
    assert cohort.num_hidden_labels == 2
    assert cohort.hidden_label_records == 16
    assert "oddity" not in "\n".join(format_cohort(cohort))


@pytest.mark.parametrize("unit", ["patient", "record"])
def test_many_rows_of_few_patients_are_a_small_cell(tmp_path: Path, unit: str) -> None:
    more = [f"q{i % 2},f,w1,2020-01-05,n{i},oddity" for i in range(50)]
    table = TABLE.replace('unit = "patient"', f'unit = "{unit}"')
    cohort = look(tmp_path, rows() + more, table)
    assert "oddity" not in cohort.labels


def test_rows_without_a_label_are_a_class_of_their_own(tmp_path: Path) -> None:
    few = look(tmp_path, rows() + [f"q{i},f,w1,2020-01-05,n{i}," for i in range(2)])
    # One small count left out would be the total less the classes: a class goes with it.
    assert few.without_text is None
    assert few.labels == {"flu": 26}
    assert column(few, "class").missing is None
    many = look(tmp_path, rows() + [f"q{i},f,w1,2020-01-05,n{i}," for i in range(9)])
    assert many.without_text == 9
    assert column(many, "class").missing == 9
    assert many.labels == {"flu": 26, "cold": 14}


@pytest.mark.parametrize(("num", "expected"), [(0, 0), (2, None), (9, 9), (39, None), (40, 40)])
def test_missing_values_are_counted_unless_they_or_the_rest_are_few(
    tmp_path: Path, num: int, expected: int | None
) -> None:
    table = TABLE.replace('"{*}"', '"{note}"').replace('["sex", "ward"]', "[]")
    lines = [
        line.replace(",f,", ",,").replace(",m,", ",,") if i < num else line
        for i, line in enumerate(rows())
    ]
    assert column(look(tmp_path, lines, table), "sex").missing == expected


def test_the_ends_of_a_range_have_enough_units_beyond_them(tmp_path: Path) -> None:
    early = ["q1,f,w1,1931-01-05,n,flu", "q2,f,w1,2099-01-05,n,flu"]
    months = column(look(tmp_path, rows() + early), "seen").months
    assert months == ("2020-01", "2020-11")


def test_repeats_are_counted_unless_they_are_few(tmp_path: Path) -> None:
    assert look(tmp_path, rows() + rows(2)).duplicate_rows is None
    cohort = look(tmp_path, rows() + rows(8))
    assert cohort.duplicate_rows == cohort.duplicate_prompts == 8
    assert look(tmp_path, rows() + rows(2)).num_units is None


def test_too_few_units_are_told_nothing_about(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 5 units"):
        look(tmp_path, rows(4))


def test_an_unknown_quasi_identifier_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'postcode', the source has patient, sex"):
        look(tmp_path, rows(), TABLE.replace('"ward"', '"postcode"'))


def test_a_label_cannot_write_on_the_screen(tmp_path: Path) -> None:
    lines = [line.replace(",flu", ",\x1b[31mflu" + "x" * 100) for line in rows()]
    [long, _] = look(tmp_path, lines).labels
    assert long.isprintable()
    assert len(long) == 60


def test_the_command_shows_a_summary_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look(tmp_path, rows())
    site = '[site]\nname = "s"\ncoordinator = "h:1"\n[data]\nnum_units = 100\n'
    (tmp_path / "site.toml").write_text(site + TABLE + "[budget]\nepsilon = 8\ndelta = 1e-5\n")
    assert main(["cohort", "--home", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "26   65.0%  flu" in out
    assert "k-anonymity         k = 10" in out
    assert main(["cohort", "--home", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["labels"] == {"flu": 26, "cold": 14}
    # A program gets the list that a person is pointed at.
    assert shown["proposed_text_columns"] == ["sex", "ward", "seen", "note"]
    settings = tmp_path / "site.toml"
    listed = settings.read_text().replace(
        'unit_id = "patient"', 'unit_id = "patient"\ntext_columns = ["note"]'
    )
    settings.write_text(listed)
    assert main(["cohort", "--home", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proposed_text_columns"] == []


def test_a_description_names_what_is_left_out_of_texts(tmp_path: Path) -> None:
    look(tmp_path, rows())
    seen = describe(config_of(TABLE + 'text_columns = ["sex", "note"]\ndrop = ["ward"]', tmp_path))
    assert seen.endswith("left out of texts: patient, ward")


def cohort_of(rows: Sequence[tuple[str | None, str | None]], min_cell: int = 5) -> Cohort:
    """The cohort of prompts and labels, each of a unit of its own."""
    data = DataSection(
        path=Path("x"),
        num_units=10,
        missing="skip",
        completion="{label}",
        min_cell=min_cell,
        quasi_identifiers=("label",),
    )
    counted = Survey(data)
    for number, (prompt, label) in enumerate(rows):
        texts = None
        if prompt is not None and label is not None:
            texts = {"prompt": prompt, "completion": label, "label": label}
        counted.add(str(number), {"prompt": prompt, "label": label}, texts)
    return counted.finish({})


def test_columns_of_a_text_are_silent_where_rows_without_text_are_hidden() -> None:
    cohort = cohort_of(
        [(f"p{i}", "common") for i in range(100)]
        + [(f"q{i}", "HIV") for i in range(3)]
        + [(None, "common")] * 20
    )
    assert cohort.without_text is None
    assert column(cohort, "prompt").missing is None
    assert column(cohort, "label").missing == 0
    assert cohort.anonymity is not None
    assert cohort.anonymity.k is None
    assert "k = below 5" in "\n".join(format_cohort(cohort))


def test_rows_without_text_less_a_columns_missing_values_are_not_few() -> None:
    cohort = cohort_of(
        [(f"p{i}", "a") for i in range(100)] + [(None, "a")] * 12 + [("z", None)] * 3
    )
    assert cohort.without_text is None or column(cohort, "prompt").missing is None


def test_different_values_do_not_tell_of_few_that_repeat() -> None:
    cohort = cohort_of([(f"p{i}", "a") for i in range(97)] + [("p0", "a")] * 3)
    assert cohort.duplicate_prompts is None
    assert column(cohort, "prompt").distinct is None


@given(
    st.lists(st.integers(0, 12), min_size=6, max_size=6),
    st.lists(st.integers(0, 4), min_size=2, max_size=2),
)
def test_no_two_figures_of_a_cohort_differ_by_a_few(sizes: list[int], repeats: list[int]) -> None:
    a, b, no_prompt, no_label, neither, more = sizes
    rows: list[tuple[str | None, str | None]] = [(f"a{i}", "a") for i in range(10 + a + more)]
    rows += [(f"b{i}", "b") for i in range(b)] + [("a0", "a")] * repeats[0]
    rows += [("a1", "b")] * repeats[1] + [(None, "a")] * no_prompt
    rows += [(f"n{i}", None) for i in range(no_label)] + [(None, None)] * neither
    cohort = cohort_of(rows)
    assert all(count >= 5 for count in cohort.labels.values())
    shown = {"records": cohort.num_records, "without": cohort.without_text}
    for name in ("prompt", "label"):
        found = column(cohort, name)
        shown[f"{name} missing"] = found.missing
        shown[f"{name} different"] = found.distinct
        if found.missing is not None:
            shown[f"{name} present"] = cohort.num_records - found.missing
    # Pairs of which one counts a part of what the other does; the others' difference is nobody's.
    pairs = [("records", "without"), ("records", "prompt different")]
    for name in ("prompt", "label"):
        pairs += [("records", f"{name} missing"), ("without", f"{name} missing")]
    pairs.append(("prompt present", "prompt different"))
    for whole, part in pairs:
        first, second = shown.get(whole), shown.get(part)
        if first is not None and second is not None:
            assert not 0 < first - second < 5, (whole, part, shown)
    if cohort.anonymity is not None:
        assert cohort.anonymity.k is None or cohort.anonymity.k >= 5
