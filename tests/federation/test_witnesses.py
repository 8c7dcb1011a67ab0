"""Sites cosign the running log of a real coordinator, and two histories are caught."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from client.agent import Agent
from client.check import check_evidence
from client.cli import main as site_main
from client.link import Link
from client.witness import REFUSED, SEEN, StoppedError
from privacy.audit.checkpoint import parse_checkpoint
from privacy.audit.cosignature import CosigningKey
from privacy.audit.entry import Event, make_entry
from privacy.audit.keys import KeyRing, PartyKey, Role
from privacy.audit.log import COSIGNED, KEYS, Log
from privacy.audit.note import Note, NoteKey, SignatureType
from privacy.audit.policy import Policy
from privacy.audit.verify import verify_log
from privacy.cli import main as audit_main
from privacy.errors import ConfigError, VerificationError
from server.config import load
from server.control import control
from server.evidence import PARTY
from server.witnesses import POLICY
from tests.federation.world import Federation, Site, quiet_plan
from tests.privacy.evidence import runs_on

_Found = TypeVar("_Found")


@pytest.fixture
def all_of_two(tmp_path: Path) -> Iterator[Federation]:
    """A coordinator that asks all sites, and the sites a and b, not started."""
    made = Federation(tmp_path)
    path = made.home / "federation.toml"
    path.write_text(path.read_text().replace('= "majority"', '= "all"'))
    made.config = load(made.home)
    with made.serving():
        made.enrol("a", 1.0)
        made.enrol("b", 2.0)
        yield made


def start(federation: Federation) -> None:
    for site in federation.sites.values():
        site.start()


def until(done: Callable[[], _Found], timeout_s: float = 30.0) -> _Found:
    """Wait until `done` gives something true."""
    pause = threading.Event()
    deadline = datetime.now(UTC) + timedelta(seconds=timeout_s)
    while not (found := done()):
        assert datetime.now(UTC) < deadline, "it did not come to that"
        pause.wait(0.05)
    return found


def seen(site: Site) -> int:
    """How many entries a site has cosigned."""
    path = site.home.witness_folder / "memory.json"
    return int(json.loads(path.read_text())["size"]) if path.exists() else 0


def status(federation: Federation) -> dict[str, Any]:
    found: dict[str, Any] = control(federation.config, "Status")
    return found


def hand_out(site: Site, path: Path) -> Path:
    """What the site's operator gives to others."""
    assert site_main(["witness", "--home", str(site.home.folder), "--out", str(path)]) in (0, 1)
    return path


def compare(
    capsys: pytest.CaptureFixture[str], federation: Federation, *paths: Path
) -> tuple[int, Any]:
    """What an auditor's comparison says."""
    keys = str(federation.config.log_folder / KEYS)
    capsys.readouterr()
    code = audit_main(["compare", *map(str, paths), "--keys", keys, "--json"])
    return code, json.loads(capsys.readouterr().out)


class TwoFaced:
    """A coordinator that shows b another history than a, with every signature of its own right."""

    def __init__(self, federation: Federation, folder: Path) -> None:
        assert federation.coordinator is not None
        self._coordinator = federation.coordinator
        shutil.copytree(federation.config.log_folder, folder)
        own = PartyKey(party=PARTY, role=Role.COORDINATOR, public_key=federation.key.public_key)
        self.folder = folder
        self.log = Log(folder, federation.key, "cloister/regio", [own])
        self._key = federation.key
        self.log.append(self._entry("a"))
        self._honest = self._coordinator.checkpoint
        self._honest_take = self._coordinator.cosigned

    def _entry(self, peer: str) -> bytes:
        return make_entry(
            self._key,
            PARTY,
            Event.DOOR_REFUSED,
            sequence=self.log.next_sequence(self._key.key_id),
            at=datetime.now(UTC),
            predicate={
                "rule": "malformed",
                "peer": "hmac-sha256:" + hashlib.sha256(peer.encode()).hexdigest(),
            },
        )

    def begin(self) -> None:
        """From now on b is shown the other history, and everybody else the first."""
        self._coordinator.evidence.record(
            Event.DOOR_REFUSED, rule="malformed", personal={"peer": "::1"}
        )

        def checkpoint(site: str, old_size: int) -> str:
            if site != "b":
                return self._honest(site, old_size)
            return str(self.log.request(old_size)) if old_size < self.log.size else ""

        def cosigned(site: str, note: str) -> bool:
            if site != "b":
                return self._honest_take(site, note)
            key = self._coordinator.evidence.witnesses()["b"]
            self.log.add_cosignatures(note, Note.parse(note).signatures, [key])
            return True

        self._coordinator.checkpoint = checkpoint  # type: ignore[method-assign]
        self._coordinator.cosigned = cosigned  # type: ignore[method-assign]

    def end(self) -> None:
        """Show everybody the first history."""
        self._coordinator.checkpoint = self._honest  # type: ignore[method-assign]
        self._coordinator.cosigned = self._honest_take  # type: ignore[method-assign]
        self.log.close()


def test_a_run_s_log_is_cosigned_by_its_sites_and_verifies_with_the_policy(
    federation: Federation,
) -> None:
    for number, name in enumerate("abc"):
        federation.enrol(name, float(number + 1)).start()
    assert federation.run(quiet_plan("witnessed")).state == "finished"
    folder = federation.config.log_folder
    assert parse_checkpoint(Note.parse((folder / COSIGNED).read_text()).text).size == len(
        federation.log()
    )
    found = verify_log(folder, policy=Policy.load(folder / POLICY))
    assert found.cosigned is not None
    assert len(found.cosigned.witnesses) >= 2
    assert sorted(found.witnesses) == ["a", "b", "c"]
    # The policy that an auditor makes from the sites' own words is the coordinator's.
    out = federation.folder / "own"
    assert audit_main(["policy", str(folder), "--out", str(out)]) == 0
    assert out.read_text() == (folder / POLICY).read_text()
    witnesses = status(federation)["witnesses"]
    assert (witnesses["needed"], witnesses["operators"]) == (2, 3)
    assert witnesses["without_key"] == []


def test_two_histories_are_caught_by_comparing_and_by_the_witnesses(
    all_of_two: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = all_of_two
    a, b = federation.sites.values()
    start(federation)
    size = until(lambda: (n := len(federation.log())) == seen(a) == seen(b) and n)
    liar = TwoFaced(federation, tmp_path / "other")
    liar.begin()
    until(lambda: seen(a) == seen(b) == size + 1)
    # Each has cosigned what it was shown. What they hand out proves that these were two.
    notes = [hand_out(site, tmp_path / f"{site.name}.checkpoint") for site in (a, b)]
    code, found = compare(capsys, federation, *notes)
    assert (code, found["fork"], found["sizes"]) == (1, True, [size + 1, size + 1])
    code, found = compare(capsys, federation, federation.config.log_folder, notes[1])
    assert (code, found["fork"]) == (1, True)
    code, found = compare(capsys, federation, federation.config.log_folder, liar.folder)
    assert (code, found["fork"], found["first_difference"]) == (1, True, size)
    # Neither history has its quorum.
    policy = Policy.load(federation.config.log_folder / POLICY)
    keys = KeyRing.load(federation.config.log_folder / KEYS)
    for folder in (federation.config.log_folder, liar.folder):
        with pytest.raises(VerificationError, match=r"lacks its quorum|is not cosigned"):
            verify_log(folder, keys, policy=policy)
    # To get one, the coordinator must show b the history of a: b stops there and then.
    liar.end()
    error = until(lambda: b.error)
    assert isinstance(error, StoppedError)
    folder = b.home.witness_folder / "refused-1"
    code, found = compare(capsys, federation, folder / SEEN, folder / REFUSED)
    assert (code, found["fork"]) == (1, True)
    # It takes no work, at no start, and a plan cannot be approved either.
    with pytest.raises(StoppedError):
        Agent(b.home, b.news.append, b.trainer).run()  # type: ignore[arg-type]
    assert site_main(["approve-plan", "--home", str(b.home.folder)]) == 1
    assert "takes no work of it" in capsys.readouterr().err
    assert a.error is None


def test_a_run_is_over_only_when_the_quorum_cosigned_it_and_says_so_once(
    all_of_two: Federation,
) -> None:
    federation = all_of_two
    c = federation.enrol("c", 3.0)
    for name in "ab":
        federation.sites[name].start()
    plan = quiet_plan("waits", "ab")
    federation.offer(plan, wait_s=30.0)
    for name in "ab":
        federation.sites[name].decide(plan)
    until(lambda: status(federation)["awaiting_witnesses"] == plan.digest)
    found = status(federation)
    assert found["runs"][0]["state"] == "running"
    assert found["witnesses"]["without_key"] == ["c"]
    assert "without a witness's key: c" in found["witnesses"]["problem"]
    assert not (federation.config.log_folder / POLICY).exists()
    # The coordinator is stopped while it waits: it waits again, and writes nothing twice.
    federation.stop()
    federation.start()
    until(lambda: status(federation)["awaiting_witnesses"] == plan.digest)
    c.start()
    assert federation.wait(plan) == "finished"
    events = [event for _, event in federation.events()]
    assert events.count(Event.RUN_FINISHED) == 1
    folder = federation.config.log_folder
    cosigned = Policy.load(folder / POLICY).check((folder / COSIGNED).read_text())
    assert sorted(cosigned.witnesses) == ["a", "b", "c"]


def test_a_site_s_revocation_takes_it_out_of_the_quorum(all_of_two: Federation) -> None:
    federation = all_of_two
    federation.sites["a"].start()
    until(lambda: status(federation)["witnesses"]["without_key"] == ["b"])
    assert federation.coordinator is not None
    federation.coordinator.roster.revoke("b", at=datetime.now(UTC))
    control(federation.config, "Revoked", site="b")
    until(lambda: status(federation)["witnesses"]["cosigned_entries"] == len(federation.log()))
    folder = federation.config.log_folder
    assert verify_log(folder, policy=Policy.load(folder / POLICY)).cosigned is not None


def test_a_revoked_site_s_approval_starts_no_run(all_of_two: Federation) -> None:
    federation = all_of_two
    plan = quiet_plan("revoked", "ab")
    federation.offer(plan, wait_s=0.0)
    federation.sites["a"].decide(plan)
    assert federation.coordinator is not None
    federation.coordinator.roster.revoke("a", at=datetime.now(UTC))
    control(federation.config, "Revoked", site="a")
    federation.sites["b"].decide(plan)
    run = federation.coordinator.runs.get(plan.digest)
    assert sorted(run.approved) == ["a", "b"]
    assert not federation.coordinator._may_start(run)
    assert run.state == "offered"


def test_a_coordinator_of_before_is_not_told_of_a_key_that_it_would_refuse(
    all_of_two: Federation,
) -> None:
    federation = all_of_two
    assert federation.coordinator is not None
    hello = federation.coordinator.hello
    federation.coordinator.hello = lambda site: {  # type: ignore[method-assign]
        key: value for key, value in hello(site).items() if key != "witness"
    }
    a = federation.sites["a"]
    a.start()
    until(lambda: any(news.get("state") == "connected" for news in a.news))
    assert Event.WITNESS_ANNOUNCED not in a.entries()
    a.stop()
    federation.coordinator.hello = hello  # type: ignore[method-assign]
    a.start()
    until(lambda: seen(a) > 0)
    assert a.entries().count(Event.WITNESS_ANNOUNCED) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from client.agent import Agent
from client.home import SiteHome
from privacy.audit.cosignature import CosigningKey
from tests.federation.world import Trainer

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

CosigningKey.cosign = die
Agent(SiteHome(Path(sys.argv[1])), lambda _: None, Trainer("a", 1.0)).run()
"""


def test_an_agent_that_is_killed_between_store_and_sign_signs_at_its_next_start(
    all_of_two: Federation,
) -> None:
    federation = all_of_two
    a, b = federation.sites.values()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(a.home.folder)],
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert killed.returncode == -signal.SIGKILL
    size = seen(a)
    assert size > 0
    assert not (federation.config.log_folder / COSIGNED).exists()
    # The site is asked for the very checkpoint that it stored; nothing newer until it is signed.
    assert federation.coordinator is not None
    assert f"\n{size}\n" in federation.coordinator.checkpoint("a", size)
    a.start()
    b.start()
    until(lambda: status(federation)["witnesses"]["cosigned_entries"] > size)
    assert a.error is None


# -- who says what for whom -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cosigned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Three sites that have cosigned the log, their agents stopped."""
    with Federation(tmp_path_factory.mktemp("cosigned")).serving() as made:
        for number, name in enumerate("abc"):
            made.enrol(name, float(number + 1)).start()
        until(lambda: all(seen(site) >= 7 for site in made.sites.values()))
        for site in made.sites.values():
            site.stop()
        yield made


def forged_key(site: str) -> CosigningKey:
    """A key of the coordinator's own, under the name of a site."""
    return CosigningKey.generate(f"cloister/regio/{site}")


def test_a_cosignature_by_another_key_than_the_announced_is_not_taken(
    cosigned: Federation,
) -> None:
    assert cosigned.coordinator is not None
    text = Note.parse(cosigned.coordinator.evidence.log.checkpoint).text
    signature = forged_key("a").cosign(text, datetime.now(UTC))
    note = str(Note(text=text, signatures=(signature,)))
    with pytest.raises(VerificationError, match="by the key that a announced"):
        cosigned.coordinator.cosigned("a", note)
    # Over the wire it is one error for the caller.
    link = Link(cosigned.sites["a"].home.channel())
    try:
        with pytest.raises(ConfigError, match="by the key that a announced"):
            link.cosign(note)
        # A replay of a true one changes nothing.
        old = (cosigned.config.log_folder / COSIGNED).read_text()
        assert link.cosign(old) in (True, False)
    finally:
        link.close()


def test_a_site_cannot_cosign_for_another(cosigned: Federation) -> None:
    path = cosigned.sites["a"].home.witness_key_path
    key = CosigningKey.load(path, "cloister/regio/a")
    text = Note.parse((cosigned.config.log_folder / COSIGNED).read_text()).text
    note = str(Note(text=text, signatures=(key.cosign(text, datetime.now(UTC)),)))
    link = Link(cosigned.sites["b"].home.channel())
    try:
        with pytest.raises(ConfigError, match="by the key that b announced"):
            link.cosign(note)
    finally:
        link.close()


@pytest.mark.parametrize("request_", [b"", b"-1", b"1e3", b"9" * 16, b"\xff", b"{}"])
def test_a_malformed_question_is_refused(cosigned: Federation, request_: bytes) -> None:
    link = Link(cosigned.sites["a"].home.channel())
    try:
        with pytest.raises(ConfigError, match="malformed"):
            link._door("Checkpoint", request_)
    finally:
        link.close()


def test_a_site_that_saw_more_than_the_log_has_is_told_so(cosigned: Federation) -> None:
    assert cosigned.coordinator is not None
    size = len(cosigned.log())
    asked = cosigned.coordinator.checkpoint("a", size + 100)
    assert asked.startswith(f"old {size + 100}\n\n")


def copied(cosigned: Federation, folder: Path) -> Path:
    return Path(shutil.copytree(cosigned.config.log_folder, folder / "log"))


def test_cosignatures_that_the_coordinator_forged_do_not_count(
    cosigned: Federation, tmp_path: Path
) -> None:
    folder = copied(cosigned, tmp_path)
    policy = Policy.load(folder / POLICY)
    checkpoint = (folder / "checkpoint").read_text()
    forged = {site: forged_key(site) for site in "abc"}
    text = Note.parse(checkpoint).text
    signatures = tuple(key.cosign(text, datetime.now(UTC)) for key in forged.values())
    (folder / COSIGNED).write_text(str(Note.parse(checkpoint).with_signatures(signatures)))
    with pytest.raises(VerificationError, match="lacks its quorum"):
        verify_log(folder, policy=policy)
    # With a policy of its own making too, the sites' announcements in the log contradict it.
    lying = (folder / POLICY).read_text()
    for site, key in forged.items():
        (line,) = (one for one in lying.splitlines() if one.startswith(f"witness {site} "))
        lying = lying.replace(line, f"witness {site} {key.public.vkey}")
    (folder / POLICY).write_text(lying)
    with pytest.raises(VerificationError, match="announced in this log"):
        verify_log(folder, policy=Policy.load(folder / POLICY))


def test_nobody_announces_a_key_for_another_or_with_another_purpose(cosigned: Federation) -> None:
    a, b = cosigned.sites["a"], cosigned.sites["b"]
    assert cosigned.coordinator is not None
    evidence = cosigned.coordinator.evidence
    taken = evidence.witnesses()[b.name].vkey
    own = a.home.signing_key()
    signing = NoteKey(
        name="cloister/regio/a",
        type=SignatureType.COSIGNATURE_ED25519,
        public_key=own.public_key,
    ).vkey
    stolen = NoteKey(
        name="cloister/regio/a",
        type=SignatureType.COSIGNATURE_ED25519,
        public_key=NoteKey.parse(taken).public_key,
    ).vkey
    log = NoteKey(name="cloister/regio/a", type=SignatureType.ED25519, public_key=b"\7" * 32).vkey
    for key, problem in (
        (taken, "expected the key of a witness cloister/regio/a"),
        (signing, "key of its own"),
        (stolen, "key of its own"),
        (log, "expected the key of a witness"),
        ("cloister/regio/a+00000000+" + signing.split("+", 2)[2], "expected key id"),
    ):
        line = make_entry(
            own,
            "a",
            Event.WITNESS_ANNOUNCED,
            sequence=evidence.log.next_sequence(own.key_id),
            at=datetime.now(UTC),
            predicate={"witness_key": key},
        )
        with pytest.raises(VerificationError, match=problem):
            evidence.extend([line])


# -- an entry that the log refuses ----------------------------------------------------------------


def test_a_refused_entry_is_set_aside_by_a_person_and_the_agent_goes_on(
    all_of_two: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = all_of_two
    a = federation.sites["a"]
    journal = a.home.journal()
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    journal.record(Event.PLAN_APPROVED, {"plan": "sha256:" + "0" * 64})
    journal.record(Event.AGENT_STARTED, **runs_on("2"))
    journal.close()
    for _ in range(2):
        a.start()
        error = until(lambda: a.error)
        assert isinstance(error, ConfigError)
        assert "does not take entry 1 of this site, plan-approved" in str(error)
        assert "cloister-site journal" in error.hint
        a.stop()
        a.error = None
    arguments = ["journal", "--home", str(a.home.folder)]
    (finding,) = check_evidence(a.home)
    assert "does not take entry 1" in finding.found
    assert site_main([*arguments, "--set-aside", "0"]) == 1
    capsys.readouterr()
    assert site_main(arguments) == 0
    shown = capsys.readouterr().out
    assert "refused    1  plan-approved" in shown
    assert "expected a plan that was offered" in shown
    assert site_main([*arguments, "--set-aside", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["refused"] is None
    assert found["set_aside"][0]["event"] == "plan-approved"
    a.start()
    until(lambda: seen(a) > 0)
    assert a.error is None
    (entry,) = [e for e in federation.log() if e.event is Event.ENTRY_SET_ASIDE]
    assert entry.sequence == 1
    assert entry.predicate == {"refused_event": "plan-approved"}
    # What was set aside is what the log's entry names, byte for byte.
    (aside,) = found["set_aside"]
    assert entry.subjects == {"entry": aside["digest"]}
    assert aside["digest"] == "sha256:" + hashlib.sha256(aside["line"].encode()).hexdigest()
    verify_log(federation.config.log_folder)
