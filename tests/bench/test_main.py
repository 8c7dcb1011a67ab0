"""The comparison's command line, with both sides replaced by figures."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import steps, stock
from bench.__main__ import main
from bench.steps import Case
from model.base import load_base, nano_folder
from model.tokenizer import Example


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ModuleType("bench.ours")
    monkeypatch.setattr(ours, "rounds", lambda *_: [0.5, 0.1, 0.2], raising=False)
    monkeypatch.setitem(sys.modules, "bench.ours", ours)
    monkeypatch.setattr(sys.modules["bench"], "ours", ours, raising=False)
    monkeypatch.setattr(stock, "rounds", lambda *_, **__: [9.0, 8.0, 10.0])


@pytest.mark.usefixtures("measured")
def test_the_medians_of_both_sides_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["round", "--rounds", "3", "--json", str(tmp_path / "round.json")]) == 0
    content = json.loads((tmp_path / "round.json").read_text())
    assert set(content) == {"machine", "rows"}
    (row,) = content["rows"]
    assert (row["ours"], row["other"]) == (0.2, 9.0)
    assert row["ratio"] == pytest.approx(0.2 / 9)
    assert row["case"] in capsys.readouterr().out


def test_a_side_that_fails_is_an_error_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> list[float]:
        raise RuntimeError("the SuperLink did not listen")

    monkeypatch.setattr(stock, "rounds", fail)
    assert main(["round"]) == 1
    assert capsys.readouterr().err.endswith("error: the SuperLink did not listen\n")


def test_no_rounds_cannot_be_measured() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["round", "--rounds", "0"])
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["dp_step", "expert_lora", "memory"])
def test_steps_are_compared_case_by_case(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    answers = {"private": 2.0, "plain": 1.0, "peft-eager": 4.0, "peft-grouped": 2.0}
    monkeypatch.setattr(
        "bench.pair.subprocess.Popen", lambda arguments, **_: Told(answers[arguments[3]])
    )
    assert main([command, "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    ratios = {row["ratio"] for row in rows}
    private, ours = {2.0}, {0.25, 0.5}
    expected = {"dp_step": private, "expert_lora": ours, "memory": private | ours}
    assert ratios == expected[command]


class Told:
    """A side that answers with the same number whatever it is asked."""

    def __init__(self, answer: float) -> None:
        self.stdin = io.StringIO()
        self.stdout = self
        self._answer = answer

    def readline(self) -> str:
        """Its answer."""
        return f"{self._answer * 2**20}\n"

    def kill(self) -> None:
        """It is no process."""

    communicate = kill


def test_a_case_survives_the_command_line() -> None:
    case = Case(base="olmoe", num_examples=3, num_tokens=5, train="AB", targets=("experts",))
    assert Case.decode(case.encode()) == case


def test_private_and_plain_steps_train_the_same_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "make_units", lambda _case: [[Example([5, 6, 7, 8], 2)]])
    monkeypatch.setattr(steps, "make_base", lambda _name: load_base(nano_folder(), None)[0])
    case = Case(base="nano", num_examples=1, num_tokens=4)
    for name in ("private", "plain"):
        assert steps.timed(steps.SIDES[name](case)) > 0


def test_evidence_is_measured_beside_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit.json"
    sizes = ["--entries", "300", "--signed", "20", "--batch", "10"]
    assert main(["audit", *sizes, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["unit"] for row in rows[:3]] == ["entries/s"] * 3
    assert all(row["ours"] > 0 for row in rows)
    beside = [row for row in rows[:6] if row["other"] is not None]
    assert len(beside) == 3
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["other"]) for row in beside)
    assert rows[0]["case"] in capsys.readouterr().out


def test_an_empty_log_cannot_be_measured() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["audit", "--signed", "0"])
    assert caught.value.code == 2
