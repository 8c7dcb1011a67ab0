"""cloister-audit, as an auditor types it."""

import json
import shutil
from pathlib import Path

import pytest

from privacy.audit.entry import Event
from privacy.audit.log import ENTRIES, KEYS
from privacy.cli import build_parser, main
from privacy.dp import calibrate
from tests.privacy.evidence import Federation, make_plan


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "log"
    federation = Federation(folder, plan=make_plan(num_rounds=2), accountant=calibrate.epsilon)
    federation.run()
    federation.log.close()
    return folder


@pytest.fixture
def log(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "log"))


def edit(log: Path, index: int) -> None:
    lines = (log / ENTRIES).read_bytes().split(b"\n")
    lines[index] = lines[index].replace(b"A", b"B", 1)
    (log / ENTRIES).write_bytes(b"\n".join(lines))


def test_verify_says_what_was_checked(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(log), "--keys", str(log / KEYS)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("verified: 51 entries of cloister/lakeside\n")
    assert "run       triage: 2 of 2 rounds released" in out
    assert "site      bank_a: 2 updates sent, epsilon " in out
    assert "key       coordinator: " in out
    assert err == ""


def test_verify_warns_when_the_keys_came_with_the_log(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(log)]) == 0
    assert "the keys came with the log" in capsys.readouterr().err


def test_verify_speaks_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(log), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["verified"] is True
    assert summary["entries"] == 51
    assert summary["sites"]["bank_a"]["updates"] == 2
    assert summary["keys"] == "with the log"


def test_verify_names_the_first_wrong_entry(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(log, 17)
    assert main(["verify", str(log)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: entry 17")


def test_verify_names_it_in_json_too(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(log, 17)
    assert main(["verify", str(log), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verified"], answer["entry"]) == (False, 17)


def test_a_missing_log_is_an_error_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_show_prints_one_line_an_entry(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(log)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 51
    assert out.splitlines()[0] == (
        "    0  2026-11-20T08:00:07Z  coordinator      federation-created  federation lakeside"
    )
    assert "not checked" in err


@pytest.mark.parametrize(
    ("options", "num_lines"),
    [
        (["--event", "update-sent"], 6),
        (["--site", "bank_a"], 15),
        (["--site", "bank_a", "--event", "update-sent"], 2),
        (["--run", "7", "--event", "adapter-released"], 2),
        (["--run", "8"], 0),
    ],
)
def test_show_shows_what_is_asked_for(
    log: Path, capsys: pytest.CaptureFixture[str], options: list[str], num_lines: int
) -> None:
    assert main(["show", str(log), "--json", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == num_lines
    assert all(Event(json.loads(line)["event"]) for line in lines)


def test_show_goes_on_behind_an_entry_that_is_none(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (log / ENTRIES).read_bytes().split(b"\n")
    lines[3] = b"{}"
    (log / ENTRIES).write_bytes(b"\n".join(lines))
    assert main(["show", str(log)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 50
    assert "error: entry 3: " in err


def test_report_writes_the_page(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = {"loss": 1.5, "accuracy": 0.5}
    for site in ("bank_a", "hospital_a"):
        content = {"site": site, "base": quality, "federated": quality}
        (tmp_path / f"{site}.json").write_text(json.dumps(content))
    out = tmp_path / "report.html"
    paths = [str(tmp_path / "bank_a.json"), str(tmp_path / "hospital_a.json")]
    assert main(["report", str(log), "--out", str(out), "--results", *paths]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "50.0 %" in page


def test_no_report_is_made_of_a_log_that_is_wrong(log: Path, tmp_path: Path) -> None:
    edit(log, 17)
    out = tmp_path / "report.html"
    assert main(["report", str(log), "--out", str(out)]) == 1
    assert not out.exists()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["show", "x", "--event", "y"]])
def test_wrong_use_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["verify"], ["show"], ["report"]])
def test_every_command_helps_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([*command, "--help"])
    assert caught.value.code == 0
    help_text = capsys.readouterr().out
    assert "example:\n  cloister-audit " in help_text
