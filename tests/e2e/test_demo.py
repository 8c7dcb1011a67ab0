"""`make demo`: stopped in the middle, begun again in its folder, and kept off other folders."""

from concurrent.futures import Future
from pathlib import Path

import pytest

from deploy.demo.run import main
from privacy.audit.entry import Event
from tests.e2e.consortium import SITES, rows, write_rows
from tests.e2e.demos import Stops


def test_ctrl_c_ends_every_process(demo_stops: Future[Stops]) -> None:
    stops = demo_stops.result()
    # The coordinator, its `run`, two agents, and at least one training process.
    assert stops.num_processes > 4
    assert stops.statuses == (130, 130)
    assert stops.left == []
    assert stops.said.count("stopped") == 2
    assert "Traceback" not in stops.said
    assert "ignored" not in stops.said


def test_a_second_demo_starts_clean(demo_stops: Future[Stops]) -> None:
    stops = demo_stops.result()
    assert not stops.kept
    # Sites are let in before the coordinator starts, or while it does.
    assert stops.events.count(Event.FEDERATION_CREATED) == 1
    assert stops.events.count(Event.SITE_ENROLLED) == len(SITES)
    assert stops.events.count(Event.COORDINATOR_STARTED) == 1
    assert len(stops.events) == 2 + len(SITES)


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_signals: None
) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("twelve years")
    assert main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: expected an empty folder")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert precious.read_text() == "twelve years"


def test_records_in_the_folder_that_is_cleaned_are_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_signals: None
) -> None:
    out = tmp_path / "out"
    write_rows(out / "data" / "clinic.jsonl.gz", rows(0))
    (out / ".cloister-demo").touch()
    before = (out / "data" / "clinic.jsonl.gz").read_bytes()
    assert main(["--out", str(out), "--data", str(out / "data")]) == 1
    assert "error: " in capsys.readouterr().err
    assert (out / "data" / "clinic.jsonl.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sites", "clinic,bnak"], "bnak.jsonl.gz"),
        (["--sites", "clinic"], "at least two sites"),
        (["--data", "nowhere"], "no folder"),
    ],
)
def test_a_wrong_call_is_refused_before_an_earlier_demo_is_cleaned_away(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    restored_signals: None,
    arguments: list[str],
    message: str,
) -> None:
    for index, name in enumerate(SITES):
        write_rows(tmp_path / "parties" / f"{name}.jsonl.gz", rows(index))
    out = tmp_path / "out"
    out.mkdir()
    (out / ".cloister-demo").touch()
    (out / "report.html").touch()
    call = ["--out", str(out), "--data", str(tmp_path / "parties"), *arguments]
    assert main(call) == 1
    assert message in capsys.readouterr().err
    assert (out / "report.html").exists()


def test_sites_that_are_not_generated_are_refused_and_an_earlier_demo_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_signals: None
) -> None:
    (tmp_path / ".cloister-demo").touch()
    (tmp_path / "report.html").touch()
    assert main(["--out", str(tmp_path), "--sites", "clinic,bank"]) == 1
    assert "expected sites from hospital_a" in capsys.readouterr().err
    assert (tmp_path / "report.html").exists()
