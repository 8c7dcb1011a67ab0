"""The measurement of masking counts what it says."""

import gzip
import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.masking import Text, half_of, measure, over_masking, read
from bench.masking_notes_en import notes

TEXT = Text("call Mary Jones on 2019-03-14", ((5, 15, "PERSON"), (19, 29, "DATE")), "a")


def test_recall_characters_and_whole_spans_are_counted_apart() -> None:
    rows = {
        row.entity_type: row
        for row in measure("s", "test", "x", [TEXT], lambda _: [(5, 9, "PERSON"), (0, 4, "AGE")])
    }
    person = rows["PERSON"]
    assert person.recall == 0
    assert person.character_recall == 4 / 9
    assert person.fully_masked == 0
    assert person.precision == 1
    assert rows["ALL"].precision == 0.5
    assert rows["ALL"].character_recall == 4 / 17
    assert rows["STRUCTURED"].spans == 1


def test_a_label_without_a_digit_is_no_number() -> None:
    text = Text("id 4711, unmarried", ((3, 7, "RECORD_NUMBER"), (9, 18, "RECORD_NUMBER")), "a")
    rows = {row.entity_type: row for row in measure("s", "test", "x", [text], lambda _: [])}
    assert rows["STRUCTURED"].spans == 2
    assert rows["WITH_DIGIT"].spans == 1


def test_over_masking_is_a_share_of_letters_and_digits() -> None:
    row = over_masking("s", "test", "x", [Text("ab cd", (), "a")], lambda _: [(0, 3, "PERSON")])
    assert row.over_masked == 0.5
    assert row.characters_per_cpu_s is not None


@pytest.mark.parametrize("unseen", [False, True])
def test_notes_say_where_each_value_stands(unseen: bool) -> None:
    for text, spans in notes(16, 3, unseen=unseen):
        assert spans
        assert all(0 <= start < end <= len(text) for start, end, _ in spans)
    assert list(notes(4, 3)) == list(notes(4, 3))


def test_halves_are_disjoint_and_together_the_set(tmp_path: Path) -> None:
    _write(tmp_path)
    dev, test = (read(tmp_path, "nlupp_banking", half) for half in ("dev", "test"))
    assert dev
    assert test
    assert len(dev) + len(test) == 40
    assert not {text.group for text in dev} & {text.group for text in test}
    assert half_of("a") == half_of("a")


def test_no_set_at_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masking", "--data", str(tmp_path)]) == 1
    assert "expected one of the sets" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_set_is_measured_beside_presidio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path)
    assert main(["masking", "--data", str(tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    assert "skipped mtsamples" in capsys.readouterr().err
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["rows"]
    assert {row["system"] for row in rows} == {"bundled", "cloister", "presidio"}
    assert all(row["half"] == "test" for row in rows)


def _write(folder: Path) -> None:
    (folder / "nlupp_banking").mkdir()
    with gzip.open(folder / "nlupp_banking" / "nlupp_banking.jsonl.gz", "wt") as lines:
        for i in range(40):
            row = {
                "id": str(i),
                "fold": i % 20,
                "text": "send it to mary jones",
                "slots": [["person_name", [11, 21], "mary jones"]],
            }
            lines.write(json.dumps(row) + "\n")
