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
    # Whoever asks once more must not read that something was forgotten.
    assert main(asked) == 1
    said = capsys.readouterr()
    assert f"expected openings of entry {case.approved} in" in said.err
    assert said.out == ""


def test_forget_by_commitment_needs_no_log(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openings", case.openings, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["field"], row["value"]) for row in listed] == [("by", NAME), ("reason", REASON)]
    assert main(["forget", listed[0]["commitment"], "--openings", case.openings]) == 0
    assert main(["openings", case.openings]) == 0
    assert NAME not in Path(case.openings).read_text()
    assert REASON in capsys.readouterr().out


def test_all_that_is_named_is_forgotten_or_none_of_it(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(case.openings).read_bytes()
    asked = ["forget", "--log", case.log, "--keys", case.keys, "--openings", case.openings]
    unknown = "hmac-sha256:" + "ab" * 32
    # The stranger's address is kept by the coordinator, not by this party.
    for others in ([unknown], [str(case.refused)], [unknown, str(case.refused)]):
        assert main([*asked, str(case.approved), *others]) == 1
        said = capsys.readouterr()
        names = [name if name == unknown else f"entry {name}" for name in others]
        assert f"expected openings of {', '.join(names)} in {case.openings}, got none" in said.err
        assert said.out == ""
        assert Path(case.openings).read_bytes() == before
    assert main([*asked, str(case.approved)]) == 0
    assert Path(case.openings).read_bytes() == b""


def test_an_entry_of_which_a_part_was_forgotten_is_forgotten_whole(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(Openings(Path(case.openings)).read()))
    assert main(["forget", first, "--openings", case.openings]) == 0
    asked = ["forget", str(case.approved), "--log", case.log, "--keys", case.keys]
    assert main([*asked, "--openings", case.openings]) == 0
    assert f"keeps nothing of by of entry {case.approved}" in capsys.readouterr().err
    assert Path(case.openings).read_bytes() == b""


@pytest.mark.parametrize("line", [b"", b"x", b'{"value": "Dr. Ada Marks"}', b"\xff"])
def test_a_line_that_cannot_be_read_is_named_and_nothing_is_forgotten(
    case: Case, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(case.openings)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + second)
    before = path.read_bytes()
    asked = ["--log", case.log, "--keys", case.keys, "--openings", case.openings]
    for name in (str(case.approved), json.loads(first)["commitment"]):
        assert main(["forget", name, *asked]) == 1
        said = capsys.readouterr()
        assert f"expected an opening in line 2 of {path}; nothing was forgotten" in said.err
        assert NAME not in said.err + said.out
        assert path.read_bytes() == before


def test_a_line_that_a_crash_cut_off_holds_up_no_erasure_and_is_said(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(case.openings)
    with path.open("ab") as torn:
        torn.write(b'{"commitment": "hmac-sha')
    asked = ["--log", case.log, "--keys", case.keys, "--openings", case.openings]
    assert main(["forget", str(case.approved), *asked]) == 0
    assert path.read_bytes() == b'{"commitment": "hmac-sha'
    assert "never written whole: line 1" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["99", "0", "-1", "hmac-sha256:ab", "x"])
def test_nothing_is_deleted_when_one_entry_cannot_be_meant(
    case: Case, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(case.openings).read_bytes()
    asked = ["forget", "--log", case.log, "--keys", case.keys, "--openings", case.openings, "--"]
    assert main([*asked, str(case.approved), entry]) in (1, 2)
    assert "error: expected" in capsys.readouterr().err
    assert Path(case.openings).read_bytes() == before


def test_a_number_that_no_log_reaches_is_refused(case: Case) -> None:
    before = Path(case.openings).read_bytes()
    for digits in ("9" * 19, "9" * 5000):
        arguments = ["forget", digits, "--openings", case.openings, "--log", case.log]
        assert main([*arguments, "--keys", case.keys]) == 2
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
