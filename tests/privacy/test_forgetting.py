"""What a person said can be shown by its party, and forgotten without a trace in the log."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from privacy.audit.entry import Event
from privacy.audit.keys import KeyRing
from privacy.audit.log import ENTRIES
from privacy.audit.opening import Openings
from privacy.cli import main
from tests.privacy.evidence import COORDINATOR, Federation

NAME, REASON = "Dr. Ada Marks", "agreed by the board"
PEER = "ipv4:203.0.113.9"


class Case:
    """A log in which two people decided and a stranger was refused."""

    def __init__(self, folder: Path) -> None:
        federation = Federation(folder / "log")
        site, hub = Openings(folder / "openings.jsonl"), Openings(folder / "hub.jsonl")
        federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
        federation.enrol("bank_a")
        federation.offer()
        said = site.commit("bank_a", Event.PLAN_APPROVED, {"by": NAME, "reason": REASON})
        plan = {"plan": federation.plan.digest}
        self.approved = federation.say("bank_a", Event.PLAN_APPROVED, plan, **said)
        met: dict[str, Any] = hub.commit(COORDINATOR, Event.DOOR_REFUSED, {"peer": PEER})
        met["rule"] = "no-cert"
        self.refused = federation.say(COORDINATOR, Event.DOOR_REFUSED, **met)
        federation.log.close()
        self.log, self.openings, self.hub = str(folder / "log"), str(site.path), str(hub.path)
        self.keys = str(folder / "keys.json")
        Path(self.keys).write_text(federation.ring.dump())

    def verify(self) -> int:
        """Exit code of verification."""
        return main(["verify", self.log, "--keys", self.keys])


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_show_opens_what_the_party_kept_and_checks_it(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", case.log, "--event", "plan-approved"]) == 0
    assert NAME not in capsys.readouterr().out
    assert main(["show", case.log, "--openings", case.openings]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[case.approved].endswith(f"[by '{NAME}', reason '{REASON}']")
    assert lines[case.refused].endswith("[peer: not opened]")
    assert main(["show", case.log, "--openings", case.hub, "--json"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert entries[case.refused]["opened"] == {"peer": PEER}
    assert "opened" not in entries[case.approved]


def test_a_changed_opening_is_never_shown_as_the_truth(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(case.openings)
    path.write_text(path.read_text().replace(NAME, "Mallory"))
    assert main(["show", case.log, "--openings", case.openings]) == 1
    said = capsys.readouterr()
    assert "do not open its commitment" in said.err
    assert "Mallory" not in said.out + said.err


def test_forget_by_number_leaves_a_log_that_verifies(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path(case.log).rglob("*") if path.is_file()}
    assert case.verify() == 0
    asked = [
        "forget", str(case.approved), "--log", case.log, "--keys", case.keys,
        "--openings", case.openings,
    ]  # fmt: skip
    capsys.readouterr()
    assert main([*asked, "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["forgotten"]) == 2
    assert NAME not in said.out + said.err
    assert "backups" in said.err
    assert Path(case.openings).read_bytes() == b""
    assert case.verify() == 0
    assert before == {path: path.read_bytes() for path in before}
    assert main(["show", case.log, "--openings", case.openings]) == 0
    assert "[by: not opened, reason: not opened]" in capsys.readouterr().out
    # Once more is no error, and says that nothing is there.
    assert main(asked) == 0
    assert "keeps nothing of by of entry" in capsys.readouterr().err


def test_forget_by_commitment_needs_no_log(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openings", case.openings, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["field"], row["value"]) for row in listed] == [("by", NAME), ("reason", REASON)]
    assert main(["forget", listed[0]["commitment"], "--openings", case.openings]) == 0
    assert main(["openings", case.openings]) == 0
    assert NAME not in Path(case.openings).read_text()
    assert REASON in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["99", "0", "-1", "hmac-sha256:ab", "x"])
def test_nothing_is_deleted_when_one_entry_cannot_be_meant(
    case: Case, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(case.openings).read_bytes()
    asked = ["forget", "--log", case.log, "--keys", case.keys, "--openings", case.openings, "--"]
    assert main([*asked, str(case.approved), entry]) in (1, 2)
    assert "error: expected" in capsys.readouterr().err
    assert Path(case.openings).read_bytes() == before


def test_a_mistyped_file_does_not_read_as_nothing_kept(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["forget", str(case.approved), "--log", case.log, "--keys", case.keys, "--openings"]
    assert main([*asked, str(tmp_path / "opening.jsonl")]) == 1
    assert "expected a file of openings, got none" in capsys.readouterr().err
    assert main(["forget", str(case.approved), "--openings", case.openings]) == 2
    assert "expected --log LOG" in capsys.readouterr().err


def test_a_number_in_a_log_that_the_party_did_not_sign_deletes_nothing(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(case.log) / ENTRIES
    lines = path.read_bytes().splitlines(keepends=True)
    envelope = json.loads(lines[case.approved])
    signature = envelope["signatures"][0]
    signature["sig"] = base64.b64encode(bytes(64)).decode()
    lines[case.approved] = json.dumps(envelope).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    before = Path(case.openings).read_bytes()
    asked = ["forget", str(case.approved), "--log", case.log, "--openings", case.openings]
    assert main([*asked, "--keys", case.keys]) == 1
    assert f"entry {case.approved}: " in capsys.readouterr().err
    strangers = tmp_path / "strangers.json"
    strangers.write_text(KeyRing().dump())
    assert main([*asked, "--keys", str(strangers)]) == 1
    assert Path(case.openings).read_bytes() == before
