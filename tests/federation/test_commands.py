"""Both command lines, from an empty folder to an approved plan, as an operator types them."""

import json
import threading
from pathlib import Path

import pytest

import client.cli
import server.cli
from client.home import SiteHome
from privacy import transit
from privacy.audit.entry import Entry, Event, parse_entry
from privacy.audit.opening import Openings, open_entry
from privacy.audit.verify import verify_log
from privacy.pki.identity import SigningKey
from server.app import build_app
from server.config import load
from server.control import control
from server.coordinator import Coordinator
from tests.federation.world import INITIAL, _free_port, quiet_plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    port = _free_port()
    assert server.cli.main(init_arguments(tmp_path, port)) == 0
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text("")
        arguments = ["init", "--home", str(tmp_path / name), "--name", name]
        arguments += ["--federation", "regio", "--coordinator", f"127.0.0.1:{port}"]
        arguments += ["--data", str(tmp_path / f"{name}.jsonl"), "--units", "100"]
        arguments += ["--algorithm", "ml-dsa-44" if name == "a" else "ed25519"]
        assert client.cli.main([*arguments, "--epsilon", "8", "--delta", "1e-3"]) == 0
    return tmp_path


def init_arguments(folder: Path, port: int) -> list[str]:
    address = f"127.0.0.1:{port}"
    made = ["init", "--home", str(folder / "hub"), "--name", "regio", "--plain-key"]
    return [*made, "--address", address, "--listen", address]


PERSONS = ("Dr. Ada Marks", "Bo Lindqvist", "Chen Wei")
REASONS = ("the board agreed", "no legal basis yet", "left the consortium")


def enrol(folder: Path, name: str) -> None:
    hub, kit = str(folder / "hub"), str(folder / f"{name}-kit.json")
    request = str(folder / name / "request.json")
    who = ["--by", PERSONS[2]]
    assert server.cli.main(["approve", request, "--home", hub, "--out", kit, "--yes", *who]) == 0
    assert client.cli.main(["enrol", kit, "--home", str(folder / name), "--yes"]) == 0


def test_a_federation_is_made_enrolled_and_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        enrol(folder, name)
    config = load(folder / "hub")
    credentials = transit.server_credentials(
        ca_pem=(config.keys_folder / "ca.pem").read_bytes(),
        certificate_pem=(config.keys_folder / "tls.pem").read_bytes(),
        key_pem=(config.keys_folder / "tls.key").read_bytes(),
    )
    key = SigningKey.load(config.keys_folder / "signing.key")
    coordinator = Coordinator(config, key, credentials, build_app)
    ready = threading.Event()
    thread = threading.Thread(target=coordinator.serve, args=(lambda _port: ready.set(),))
    thread.start()
    try:
        assert ready.wait(10)
        # While it runs, too.
        enrol(folder, "c")
        plan = quiet_plan("commands")
        coordinator.registry.release(plan.tensors, INITIAL, plan.adapter, plan.base.name)
        control(config, "Offer", plan=plan.canonical().decode(), wait_s=30.0)
        capsys.readouterr()
        home = ["--home", str(folder / "a")]
        who = ["--by", PERSONS[0], "--reason", REASONS[0]]
        assert client.cli.main(["approve-plan", "--yes", "--json", *home, *who]) == 0
        assert json.loads(capsys.readouterr().out) == {"plan": plan.digest, "approved": True}
        home = ["--home", str(folder / "b")]
        who = ["--by", PERSONS[1], "--reason", REASONS[1]]
        assert client.cli.main(["approve-plan", "--refuse", *home, *who]) == 0
        # What a person can repair is no refusal: nothing is decided and nothing is signed.
        settings = folder / "c" / "site.toml"
        sound = settings.read_text()
        wrong = sound.replace('labelled_notes = ""', 'labelled_notes = "mistyped.jsonl"')
        settings.write_text(wrong)
        assert client.cli.main(["approve-plan", "--yes", "--home", str(folder / "c")]) == 1
        assert "masking.labelled_notes" in capsys.readouterr().err
        journal = SiteHome(folder / "c").journal()
        assert journal.decision(plan.digest) is None
        assert journal.lines() == []
        journal.close()
        # Nor is what its own notes decide: a refusal would tell something about records.
        notes = {"text": "Seen: zebra #123", "spans": [{"start": 6, "end": 16, "type": "EMAIL"}]}
        (folder / "c" / "notes.jsonl").write_text(json.dumps(notes) + "\n")
        settings.write_text(wrong.replace("mistyped", "notes"))
        assert client.cli.main(["approve-plan", "--yes", "--home", str(folder / "c")]) == 1
        said = capsys.readouterr().err
        assert "EMAIL (own)" in said
        assert "your own labelled notes: nothing was decided" in said
        assert "zebra" not in said
        journal = SiteHome(folder / "c").journal()
        assert journal.decision(plan.digest) is None
        assert journal.lines() == []
        journal.close()
        settings.write_text(sound)
        # Nobody said yes, and nobody is there to ask.
        assert client.cli.main(["approve-plan", "--home", str(folder / "c")]) == 1
        capsys.readouterr()
        assert server.cli.main(["status", "--home", str(folder / "hub"), "--json"]) == 0
        (run,) = json.loads(capsys.readouterr().out)["runs"]
        assert (run["approved"], run["refused"]) == (["a"], ["b"])
        home = ["--home", str(folder / "hub")]
        who = ["--by", PERSONS[2], "--reason", "two\nlines"]
        # What cannot be kept is refused before anything is done.
        assert server.cli.main(["revoke", "b", *home, *who]) == 1
        who[-1] = REASONS[2]
        assert server.cli.main(["revoke", "b", *home, *who]) == 0
        assert client.cli.main(["approve-plan", "--home", str(folder / "b")]) == 1
        said = capsys.readouterr().err
        assert "does not let this site in" in said
        assert "hint:" in said
        assert server.cli.main(["stop", "--home", str(folder / "hub")]) == 0
    finally:
        coordinator.stop()
        thread.join(20)
    lines = (config.log_folder / "entries.jsonl").read_bytes().splitlines()
    entries = [parse_entry(line) for line in lines]
    events = [entry.event for entry in entries]
    assert events.count(Event.SITE_ENROLLED) == 3
    assert Event.SITE_REVOKED in events
    verify_log(config.log_folder)
    check_persons(folder, entries)


def check_persons(folder: Path, entries: list[Entry]) -> None:
    """Who decided can be opened by the party that acted, and stands nowhere else."""
    kept = {
        folder / "a" / "openings.jsonl": {PERSONS[0], REASONS[0]},
        folder / "b" / "openings.jsonl": {PERSONS[1], REASONS[1]},
        folder / "hub" / "state" / "openings.jsonl": {PERSONS[2], REASONS[2]},
    }
    for path, values in kept.items():
        openings = Openings(path).read()
        opened = [open_entry(entry, openings) for entry in entries]
        found = {value for fields in opened for value in fields.values()}
        # The coordinator also keeps the address of whoever it refused.
        assert {value for value in found if not value.startswith("ipv")} == values
    for path in folder.rglob("*"):
        if path.is_file() and path not in kept:
            content = path.read_bytes()
            assert not any(text.encode() in content for text in PERSONS + REASONS), path


def test_a_new_site_has_spent_and_sent_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert client.cli.main(["budget", "--home", str(folder / "a"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["epsilon"], said["budget_epsilon"], said["rounds"]) == (0.0, 8.0, [])
    assert client.cli.main(["sent", "--home", str(folder / "a"), "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize("program", [client.cli.main, server.cli.main])
def test_init_never_overwrites(program: object, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if program is server.cli.main:
        assert server.cli.main(init_arguments(folder, 9092)) == 1
    else:
        arguments = ["init", "--home", str(folder / "a"), "--name", "a", "--federation", "x"]
        arguments += ["--coordinator", "h:1", "--data", "x.jsonl", "--units", "5"]
        assert client.cli.main([*arguments, "--delta", "1e-3"]) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_wrong_fingerprint_enrols_nobody(folder: Path) -> None:
    hub, request = str(folder / "hub"), str(folder / "a" / "request.json")
    wrong = ["approve", request, "--home", hub, "--fingerprint", "0000 0000"]
    assert server.cli.main(wrong) == 1
    assert not (folder / "hub" / "kits").exists()
    assert server.cli.main(["approve", request, "--home", hub]) == 1


def test_commands_that_need_a_coordinator_say_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = ["--home", str(folder / "hub")]
    assert server.cli.main(["stop", *hub]) == 1
    assert "running coordinator" in capsys.readouterr().err
    assert server.cli.main(["status", *hub, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"] is False
    assert client.cli.main(["stop", "--home", str(folder / "a")]) == 1
    assert client.cli.main(["start", "--home", str(folder / "a")]) == 1
    assert "kit" in capsys.readouterr().err
