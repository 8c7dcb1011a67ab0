"""Whom the coordinator asks to cosign, for what, and how it says that nobody does."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import server.evidence
import server.witnesses
from privacy.audit.checkpoint import log_key
from privacy.audit.cosignature import CosigningKey
from privacy.audit.entry import Event, make_entry
from privacy.audit.note import MAX_NOTE_BYTES, Note, NoteSignature
from privacy.audit.policy import Cosigned, Policy
from privacy.audit.witness import Request, open_signed
from privacy.errors import VerificationError
from privacy.pki.identity import Algorithm, SigningKey
from server.config import FederationConfig, load, template
from server.evidence import Evidence
from server.roster import Roster
from server.watch import status_lines
from server.witnesses import POLICY, Witnesses

KEY = SigningKey.generate()


class Room:
    """A coordinator's log and roster, and sites that sign what they are asked to."""

    def __init__(self, folder: Path, rule: str = '"majority"', operators: str = "{}") -> None:
        text = template(name="regio", address="127.0.0.1:9092")
        text = text.replace('witness_quorum = "majority"', f"witness_quorum = {rule}")
        text = text.replace("\nwitness_operators = {}", f"\nwitness_operators = {operators}")
        (folder / "federation.toml").write_text(text)
        self.config: FederationConfig = load(folder)
        self.roster = Roster(self.config.roster_path)
        self.evidence = Evidence(self.config, KEY)
        self.evidence.record(Event.FEDERATION_CREATED, federation="regio")
        self.keys: dict[str, CosigningKey] = {}
        self.pens: dict[str, SigningKey] = {}

    def close(self) -> None:
        """Let go of the files."""
        self.roster.close()
        self.evidence.log.close()

    def enrol(self, name: str, *, announces: bool = True) -> None:
        """Let a site in; it announces its key."""
        pen = self.pens[name] = SigningKey.generate()
        enrolment = self.roster.add(
            name,
            node_key=name.encode(),
            signing_key=pen.public_key,
            certificate_serial="1",
            num_units=100,
            at=datetime.now(UTC),
        )
        self.evidence.enrolled(enrolment)
        if announces:
            self.announce(name)

    def announce(self, name: str) -> None:
        """Announce a fresh key."""
        pen, key = self.pens[name], CosigningKey.generate(f"cloister/regio/{name}")
        self.keys[name] = key
        line = make_entry(
            pen,
            name,
            Event.WITNESS_ANNOUNCED,
            sequence=self.evidence.log.next_sequence(pen.key_id),
            at=datetime.now(UTC),
            predicate={"witness_key": key.public.vkey},
        )
        self.evidence.extend([line])

    def witnesses(self) -> Witnesses:
        """As the coordinator makes them at its start."""
        return Witnesses(self.config, KEY.public_key, self.roster, self.evidence)

    def cosign(self, name: str, asked: str) -> str:
        """What a site answers."""
        note = Note.parse(Request.parse(asked).checkpoint)
        signature = self.keys[name].cosign(note.text, datetime.now(UTC))
        return str(Note(text=note.text, signatures=(signature,)))

    def grow(self) -> None:
        """One more entry."""
        self.evidence.record(Event.DOOR_REFUSED, rule="malformed", personal={"peer": "::1"})

    def kept(self) -> Cosigned:
        """The cosigned checkpoint on disk, as the policy there believes it."""
        policy = Policy.load(self.config.log_folder / POLICY)
        return policy.check(self.evidence.log.cosigned)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(server.witnesses, "CANDIDATE_S", 0.0)
    made = Room(tmp_path)
    for name in "abc":
        made.enrol(name)
    yield made
    made.close()


def size(asked: str) -> int:
    return int(Request.parse(asked).checkpoint.split("\n")[1])


def test_all_are_asked_for_one_checkpoint_until_the_quorum_has_signed_it(room: Room) -> None:
    witnesses = room.witnesses()
    first = room.evidence.log.size
    asked = {name: witnesses.ask(name, 0) for name in "abc"}
    room.grow()
    assert witnesses.take("a", room.cosign("a", asked["a"]))
    # The log has grown, and b is asked for what a has signed.
    assert size(witnesses.ask("b", 0)) == first
    assert witnesses.ask("a", first) == ""
    assert not witnesses.covers(first)
    assert witnesses.take("b", room.cosign("b", asked["b"]))
    assert witnesses.covers(first)
    assert sorted(room.kept().witnesses) == ["a", "b"]
    # Now the newer one; c comes too late for the first.
    assert size(witnesses.ask("a", first)) == first + 1
    assert not witnesses.take("c", room.cosign("c", asked["c"]))
    assert sorted(room.kept().witnesses) == ["a", "b"]


def test_a_quorum_on_disk_is_not_replaced_by_less(room: Room) -> None:
    witnesses = room.witnesses()
    first = room.evidence.log.size
    for name in "ab":
        witnesses.take(name, room.cosign(name, witnesses.ask(name, 0)))
    room.grow()
    witnesses.take("a", room.cosign("a", witnesses.ask("a", first)))
    assert room.kept().checkpoint.size == first
    witnesses.take("c", room.cosign("c", witnesses.ask("c", 0)))
    assert (room.kept().checkpoint.size, sorted(room.kept().witnesses)) == (first + 1, ["a", "c"])


def test_after_a_restart_the_quorum_is_known_and_lost_signatures_are_asked_for(
    room: Room,
) -> None:
    witnesses = room.witnesses()
    first = room.evidence.log.size
    for name in "ab":
        witnesses.take(name, room.cosign(name, witnesses.ask(name, 0)))
    again = room.witnesses()
    assert again.covers(first)
    assert again.ask("a", first) == ""
    room.grow()
    lone = again.ask("a", first)
    again.take("a", room.cosign("a", lone))
    third = room.witnesses()
    # What a signed alone was not written: it is asked for the same once more.
    assert third.ask("a", first + 1).startswith(f"old {first + 1}\n\n")
    assert third.covers(first)
    assert not third.covers(first + 1)


def test_a_proof_leads_from_what_the_site_saw(room: Room) -> None:
    request = Request.parse(room.witnesses().ask("a", 2))
    assert request.old_size == 2
    assert request.path
    open_signed(request.checkpoint, log_key("cloister/regio", KEY.public_key))


def test_a_site_without_an_announced_key_is_no_witness(room: Room) -> None:
    room.enrol("d", announces=False)
    witnesses = room.witnesses()
    with pytest.raises(VerificationError, match="expected d to announce"):
        witnesses.ask("d", 0)
    assert witnesses.status()["without_key"] == ["d"]
    # Three of four suffice for the majority of four, so there is a policy.
    assert Policy.load(room.config.log_folder / POLICY).groups["quorum/operators"].needed == 3


def test_a_site_that_announced_another_key_counts_with_the_newest_only(room: Room) -> None:
    witnesses = room.witnesses()
    asked = witnesses.ask("a", 0)
    old = room.cosign("a", asked)
    room.announce("a")
    with pytest.raises(VerificationError, match="by the key that a announced"):
        witnesses.take("a", old)
    assert witnesses.take("a", room.cosign("a", asked))


def test_no_more_than_one_checkpoint_at_a_time_is_shown(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.witnesses, "CANDIDATE_S", 60.0)
    witnesses = room.witnesses()
    first = room.evidence.log.size
    for name in "abc":
        witnesses.take(name, room.cosign(name, witnesses.ask(name, 0)))
    room.grow()
    assert witnesses.ask("a", first) == ""
    # Somebody waits for it: then it comes at once.
    assert not witnesses.covers(first + 1)
    assert size(witnesses.ask("a", first)) == first + 1


def test_sites_of_one_operator_count_once(tmp_path: Path) -> None:
    room = Room(tmp_path, '"all"', '{ b = "a", c = "coordinator" }')
    for name in "abcd":
        room.enrol(name)
    witnesses = room.witnesses()
    for name in "abc":
        witnesses.take(name, room.cosign(name, witnesses.ask(name, 0)))
    assert not witnesses.covers(room.evidence.log.size)
    assert witnesses.status()["missing"] == ["d"]
    witnesses.take("d", room.cosign("d", witnesses.ask("d", 0)))
    assert witnesses.covers(room.evidence.log.size)
    # The log's own site signs too; the policy does not know it.
    assert sorted(room.kept().witnesses) == ["a", "b", "d"]
    room.close()


def test_who_asks_for_nobody_waits_for_nobody(tmp_path: Path) -> None:
    room = Room(tmp_path, '"none"')
    room.enrol("a")
    witnesses = room.witnesses()
    assert witnesses.covers(10**6)
    assert witnesses.take("a", room.cosign("a", witnesses.ask("a", 0)))
    room.close()


def test_the_status_says_for_whom_the_quorum_waits(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    witnesses = room.witnesses()
    witnesses.take("a", room.cosign("a", witnesses.ask("a", 0)))
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 3600)
    found = {
        "federation": "regio",
        "address": "127.0.0.1:9092",
        "log_entries": room.evidence.log.size,
        "sites": [],
        "runs": [],
        "witnesses": witnesses.status(),
    }
    text = status_lines(found, running=True)
    assert "cosigned 0 of 7 log entries by a; quorum 2 of 3 operators" in text
    assert "NO QUORUM for 3600 s, waiting for b, c" in text
    witnesses.take("b", room.cosign("b", witnesses.ask("b", 0)))
    text = status_lines(found | {"witnesses": witnesses.status()}, running=True)
    assert "cosigned 7 of 7 log entries by a, b" in text
    assert "NO QUORUM" not in text


# -- keys that were replaced, and many of them ----------------------------------------------------


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each site cosign with the largest signatures that there are."""
    generate = CosigningKey.generate
    monkeypatch.setattr(
        CosigningKey,
        "generate",
        classmethod(lambda _cls, name: generate(name, Algorithm.ML_DSA_44)),
    )


def test_a_member_that_replaces_its_key_again_and_again_fills_no_file(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    witnesses = room.witnesses()
    asked = witnesses.ask("a", 0)
    for _ in range(5):
        room.announce("a")
        assert witnesses.take("a", room.cosign("a", asked))
    assert len(Note.parse(room.evidence.log.cosigned).signatures) == 2
    assert witnesses.take("b", room.cosign("b", witnesses.ask("b", 0)))
    assert room.witnesses().covers(size(asked))
    assert sorted(room.kept().witnesses) == ["a", "b"]


def test_a_site_announces_so_many_keys_and_no_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.evidence, "MAX_ANNOUNCED_KEYS", 3)
    room.announce("a")
    room.announce("a")
    with pytest.raises(VerificationError, match="at most 3 witness's keys of a"):
        room.announce("a")
    room.announce("b")
    assert room.evidence.announced_at("b") == room.evidence.log.size - 1


def test_forty_sites_with_the_largest_signatures_have_a_note_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.witnesses, "CANDIDATE_S", 0.0)
    large(monkeypatch)
    room = Room(tmp_path)
    names = [f"s{number}" for number in range(40)]
    for name in names:
        room.enrol(name)
    witnesses = room.witnesses()
    first = room.evidence.log.size
    for name in names:
        assert witnesses.take(name, room.cosign(name, witnesses.ask(name, 0)))
    assert len(room.kept().witnesses) == 40
    assert room.witnesses().covers(first)
    room.close()


def test_the_note_of_a_thousand_sites_is_within_the_bound() -> None:
    name = "cloister/" + "f" * 63 + "/" + "s" * 63
    # An ML-DSA-44 signature behind its time.
    line = NoteSignature(name=name, key_id=bytes(4), signature=bytes(8 + 2420)).line
    assert 1001 * len(line.encode()) < MAX_NOTE_BYTES


@pytest.mark.parametrize("spoilt", [b"nothing", b"\xff\xfe", b"a\n\n\xe2\x80\x94 b Zm9v\n"])
def test_a_spoilt_file_of_cosignatures_stops_nobody_and_is_asked_for_again(
    room: Room, spoilt: bytes
) -> None:
    (room.config.log_folder / "checkpoint.cosigned").write_bytes(spoilt)
    witnesses = room.witnesses()
    first = room.evidence.log.size
    assert not witnesses.covers(first)
    for name in "ab":
        assert witnesses.take(name, room.cosign(name, witnesses.ask(name, 0)))
    assert sorted(room.kept().witnesses) == ["a", "b"]


def test_a_signature_by_a_replaced_key_counts_for_no_quorum(room: Room) -> None:
    witnesses = room.witnesses()
    asked = witnesses.ask("a", 0)
    first = size(asked)
    witnesses.take("a", room.cosign("a", asked))
    room.announce("a")
    witnesses.write_policy()
    witnesses.take("b", room.cosign("b", asked))
    assert not witnesses.covers(first)
    assert witnesses.status()["by"] == ["b"]
    assert witnesses.status()["missing"] == ["a", "c"]
    # It is asked for the same once more, and then what is on disk has the policy's quorum.
    witnesses.take("a", room.cosign("a", witnesses.ask("a", first)))
    assert witnesses.covers(first)
    assert sorted(room.kept().witnesses) == ["a", "b"]


def test_who_begins_is_shown_a_log_with_its_own_announcement(room: Room) -> None:
    witnesses = room.witnesses()
    first = size(witnesses.ask("a", 0))
    room.enrol("d")
    assert size(witnesses.ask("d", 0)) == room.evidence.log.size
    # The others, who have not signed yet, are asked for the same.
    assert size(witnesses.ask("a", 0)) > first


def test_a_misspelt_site_among_the_operators_is_told(tmp_path: Path) -> None:
    room = Room(tmp_path, '"all"', '{ aa = "coordinator", b = "a" }')
    for name in "ab":
        room.enrol(name)
    found = room.witnesses().status()
    assert found["unknown"] == ["aa"]
    lines = status_lines(
        {
            "federation": "regio",
            "address": "127.0.0.1:9092",
            "log_entries": 1,
            "sites": [],
            "runs": [],
            "witnesses": found,
        },
        running=True,
    )
    assert "UNKNOWN SITE in witness_operators: aa" in lines
    room.close()
