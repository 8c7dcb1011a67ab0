"""The comparison's command line, with both sides replaced by figures."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import stock
from bench.__main__ import main


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
