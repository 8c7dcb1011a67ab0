"""cloister-audit, as an auditor types it."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privacy.audit.cosignature import CosigningKey
from privacy.audit.entry import Event
from privacy.audit.log import ENTRIES, KEYS
from privacy.audit.note import Note
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
    assert out.startswith("verified: 52 entries of cloister/lakeside\n")
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
    assert summary["entries"] == 52
    assert summary["sites"]["bank_a"]["updates"] == 2
    assert summary["keys"] == "with the log"


def test_verify_shows_each_run_when_two_plans_share_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = Federation(tmp_path / "log", accountant=calibrate.epsilon)
    federation.begin()
    federation.plan, federation.run_id = make_plan(num_rounds=2), "8"
    federation.offer()
    for site in federation.sites:
        federation.approve(site)
    federation.start()
    federation.log.close()
    assert main(["verify", str(tmp_path / "log"), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run_id: (run["run"], run["rounds"]) for run_id, run in runs.items()} == {
        "7": ("triage", 3),
        "8": ("triage", 2),
    }
    assert main(["verify", str(tmp_path / "log")]) == 0
    out = capsys.readouterr().out
    assert "run       triage: 0 of 3 rounds released (7)" in out
    assert "run       triage: 0 of 2 rounds released (8)" in out


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


@pytest.mark.parametrize(
    "command",
    [
        ["verify"],
        ["policy"],
        ["compare"],
        ["report", "--regime", "gdpr", "--out", "page.html"],
        ["declarations", "--regime", "gdpr", "--out", "sheet.toml"],
        ["show"],
        ["sample", "--seed", "1", "--count", "1"],
        ["prove", "1"],
        ["tiles", "--out", "tiles"],
    ],
)
def test_a_folder_that_is_no_log_is_said_to_be_none(
    command: list[str],
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    more = [str(log)] if command == ["compare"] else []
    for folder in ("none", "nowhere"):
        assert main([command[0], folder, *more, *command[1:]]) == 1
        err = capsys.readouterr().err
        assert f"error: expected a log's folder, got {folder}: cannot read {folder}/" in err
        assert "hint: a log's folder holds entries.jsonl, checkpoint and keys.json" in err


def test_a_log_without_keys_asks_for_them(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (log / KEYS).unlink()
    assert main(["verify", str(log)]) == 1
    err = capsys.readouterr().err
    assert f"expected the parties' public keys in {log / KEYS}, got no file" in err
    assert "--keys" in err


def test_show_prints_one_line_an_entry(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(log)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 52
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
        (["--since", "2026-11-20"], 52),
        (["--since", "2026-11-21"], 0),
        (["--until", "2026-11-20"], 52),
        (["--until", "2026-11-19"], 0),
        (["--since", "2026-11-20T08:00:14Z", "--until", "2026-11-20T08:00:21Z"], 2),
        (["--since", "2026-11-20T09:00:14+01:00", "--until", "2026-11-20T08:00:21"], 2),
    ],
)
def test_show_shows_what_is_asked_for(
    log: Path, capsys: pytest.CaptureFixture[str], options: list[str], num_lines: int
) -> None:
    assert main(["show", str(log), "--json", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == num_lines
    assert all(Event(json.loads(line)["event"]) for line in lines)


def test_a_time_that_is_none_is_wrong_use(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(log), "--since", "yesterday"]) == 2
    assert "expected a day as 2026-11-20" in capsys.readouterr().err


def test_a_sample_is_the_same_for_everyone(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(log), "--seed", "audit 7", "--count", "5", "--json"]) == 0
    first = capsys.readouterr().out
    assert main(["sample", str(log), "--seed", "audit 7", "--count", "5", "--json"]) == 0
    assert capsys.readouterr().out == first
    assert len(first.splitlines()) == 5
    options = ["--seed", "audit 7", "--count", "99", "--event", "update-sent"]
    assert main(["sample", str(log), *options, "--json"]) == 0
    drawn = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["event"] for entry in drawn] == ["update-sent"] * 6
    assert main(["sample", str(log), "--seed", "s", "--count", "0"]) == 2


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("entry", [0, 17, 51])
def test_a_proof_is_enough_to_show_an_entry(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: int, tiles: bool
) -> None:
    keys = Path(shutil.copy(log / KEYS, tmp_path / "keys.json"))
    proof = tmp_path / "entry.tlog-proof"
    if not tiles:
        shutil.rmtree(log / "tile")
    assert main(["prove", str(log), str(entry), "--out", str(proof)]) == 0
    assert capsys.readouterr().out == f"{proof}\n"
    shutil.rmtree(log)
    assert main(["check-proof", str(proof), "--keys", str(keys)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"verified: entry {entry} of cloister/lakeside, which had 52\n")
    assert main(["check-proof", str(proof), "--keys", str(keys), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entry"]["entry"] == entry


def test_a_changed_proof_is_found(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = tmp_path / "entry.tlog-proof"
    assert main(["prove", str(log), "17", "--out", str(proof)]) == 0
    text = proof.read_text(encoding="utf-8")
    for changed in (
        text.replace("index 17", "index 18"),
        text.replace("\n52\n", "\n51\n"),
        text.replace("extra ey", "extra fy"),
        text[: len(text) // 2],
        "c2sp.org/tlog-proof@v1\n",
        "",
    ):
        proof.write_text(changed, encoding="utf-8")
        assert main(["check-proof", str(proof), "--keys", str(log / KEYS)]) == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_no_proof_is_made_from_a_log_that_is_wrong(log: Path, tmp_path: Path) -> None:
    edit(log, 17)
    out = tmp_path / "entry.tlog-proof"
    assert main(["prove", str(log), "17", "--out", str(out)]) == 1
    assert not out.exists()
    assert main(["prove", str(log), "52", "--out", str(out)]) == 1


def cosigned(log: Path, tmp_path: Path, *names: str) -> Path:
    """A policy of two of three witnesses, and the log cosigned by some of them."""
    keys = {name: CosigningKey.generate(f"example.com/{name}") for name in ("w1", "w2", "w3")}
    note = Note.parse((log / "checkpoint").read_text(encoding="utf-8"))
    at = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
    signed = note.with_signatures(tuple(keys[name].cosign(note.text, at) for name in names))
    (log / "checkpoint.cosigned").write_text(str(signed), encoding="utf-8")
    lines = [f"witness {name} {key.public.vkey}" for name, key in keys.items()]
    policy = tmp_path / "policy"
    policy.write_text("\n".join([*lines, "group all3 2 w1 w2 w3", "quorum all3", ""]))
    return policy


def test_verify_asks_for_the_quorum_of_a_policy(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = cosigned(log, tmp_path, "w1", "w3")
    arguments = [str(log), "--keys", str(log / KEYS), "--policy", str(policy)]
    assert main(["verify", *arguments]) == 0
    assert "cosigned  w1: 2026-11-20T09:00:00+00:00\n" in capsys.readouterr().out
    proof = str(tmp_path / "p.tlog-proof")
    assert main(["prove", str(log), "3", "--out", proof]) == 0
    assert main(["check-proof", proof, *arguments[1:]]) == 0
    assert "cosigned  w1, w3\n" in capsys.readouterr().out
    policy = cosigned(log, tmp_path, "w2")
    arguments[-1] = str(policy)
    assert main(["verify", *arguments]) == 1
    assert "lacks its quorum 'all3': cosigned by w2" in capsys.readouterr().err
    policy.write_text("witness w1\n")
    assert main(["verify", *arguments]) == 1
    assert f"{policy}: line 1: expected" in capsys.readouterr().err


def test_compare_names_the_first_difference(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(log, tmp_path / "other"))
    assert main(["compare", str(log), str(other)]) == 0
    assert capsys.readouterr().out.startswith("same: 52 entries with root ")
    assert main(["compare", str(log), str(other / "checkpoint")]) == 0
    capsys.readouterr()
    edit(other, 17)
    assert main(["compare", str(log), str(other), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["first_difference"] == 17
    assert json.loads(out)["fork"] is False
    assert json.loads(out)["same"] is False
    assert f"{other} does not hold what its checkpoint is over" in err


def test_compare_does_not_call_two_copies_the_same_that_are_both_broken(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(log, 17)
    other = Path(shutil.copytree(log, tmp_path / "other"))
    assert main(["compare", str(log), str(other), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["fork"], found["first_difference"]) == (False, False, None)


def test_tiles_are_written_for_other_programs(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "public"
    assert main(["tiles", str(log), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    bundle = (out / "tile/entries/000.p/52").read_bytes()
    lines = (log / ENTRIES).read_bytes().split(b"\n")[:-1]
    assert bundle == b"".join(len(line).to_bytes(2, "big") + line for line in lines)
    assert len((out / "tile/0/000.p/52").read_bytes()) == 52 * 32
    assert (out / "checkpoint").read_bytes() == (log / "checkpoint").read_bytes()
    assert main(["tiles", str(log), "--out", str(out)]) == 1
    assert "not empty" in capsys.readouterr().err
    edit(log, 17)
    assert main(["tiles", str(log), "--out", str(tmp_path / "other")]) == 1


def test_show_goes_on_behind_an_entry_that_is_none(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (log / ENTRIES).read_bytes().split(b"\n")
    lines[3] = b"{}"
    (log / ENTRIES).write_bytes(b"\n".join(lines))
    assert main(["show", str(log)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 51
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


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["verify"],
        ["show"],
        ["report", "--regime", "gdpr", "--out", "page.html"],
        ["sample"],
        ["prove"],
        ["check-proof"],
        ["compare"],
        ["tiles"],
    ],
)
def test_every_command_helps_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([*command, "--help"])
    assert caught.value.code == 0
    help_text = capsys.readouterr().out
    assert "example:\n  cloister-audit " in help_text
