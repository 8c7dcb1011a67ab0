"""Every way to rewrite the log of a real run is found, and the first wrong entry is named.

The log comes from a federation over real TLS. Three attackers rewrite a copy of it: an outsider
with the files, the log's operator who signs what it rewrote, and an operator whom sites help by
signing their own entries anew, so that only what the entries mean gives it away.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from privacy.audit.checkpoint import Checkpoint, log_key, parse_checkpoint, sign_checkpoint
from privacy.audit.compare import compare_logs
from privacy.audit.cosignature import CosigningKey
from privacy.audit.entry import Entry, Event, make_entry, parse_entry
from privacy.audit.keys import KeyRing
from privacy.audit.log import CHECKPOINT, CHECKPOINTS, COSIGNED, ENTRIES, KEYS
from privacy.audit.merkle import Tree, leaf_hash
from privacy.audit.note import Note
from privacy.audit.policy import Policy
from privacy.audit.verify import verify_log
from privacy.audit.witness import Request, Witness
from privacy.cli import main
from privacy.dp import calibrate
from privacy.errors import TamperError, VerificationError
from privacy.pki.identity import SigningKey
from privacy.plan import RunPlan
from tests.federation.world import Federation, make_plan

AT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
ORIGIN = "cloister/regio"


@lru_cache
def _epsilon(events: tuple[calibrate.Event, ...], delta: float) -> float:
    return calibrate.epsilon(events, delta)


def accountant(events: Iterable[calibrate.Event], delta: float) -> float:
    """The real accountant, which computes each thing once for all attacks."""
    return _epsilon(tuple(events), delta)


@dataclass
class Evidence:
    """A copy of the log that an attacker may rewrite.

    Attributes:
      folder: The copy.
      honest: The log as it was.
      keys: Everybody's private keys, by party.
      ring: Their public keys, as an auditor got them.
    """

    folder: Path
    honest: Path
    keys: dict[str, SigningKey]
    ring: KeyRing

    @property
    def lines(self) -> list[bytes]:
        """The entries as they stand in the copy."""
        return (self.folder / ENTRIES).read_bytes().split(b"\n")[:-1]

    def rewrite(self, lines: list[bytes]) -> None:
        """Change the file, as an outsider could."""
        (self.folder / ENTRIES).write_bytes(b"".join(line + b"\n" for line in lines))

    def sign(self) -> None:
        """Sign for what is there now and forget older checkpoints, as the operator could."""
        tree = Tree()
        for line in self.lines:
            tree.append(leaf_hash(line))
        checkpoint = Checkpoint(origin=ORIGIN, size=tree.size, root=tree.root())
        note = sign_checkpoint(checkpoint, self.keys["coordinator"])
        (self.folder / CHECKPOINT).write_text(note, encoding="utf-8")
        (self.folder / CHECKPOINTS).unlink(missing_ok=True)

    def retell(self, change: Callable[[Entry, dict[str, Any]], dict[str, Any] | None]) -> None:
        """Have every party tell its part anew, with good signatures and numbers.

        `change` gets each entry and its subjects and predicate, and returns them; None drops it.
        """
        numbers: dict[str, int] = {}
        told = []
        for line in self.lines:
            entry = parse_entry(line)
            said: dict[str, Any] = {
                "subjects": dict(entry.subjects),
                "predicate": dict(entry.predicate),
            }
            changed = change(entry, said)
            if changed is None:
                continue
            number = numbers.get(entry.party, 0)
            numbers[entry.party] = number + 1
            told.append(
                make_entry(
                    self.keys[entry.party],
                    entry.party,
                    entry.event,
                    sequence=number,
                    at=entry.at,
                    **changed,
                )
            )
        self.rewrite(told)
        self.sign()

    def index(self, event: Event, party: str | None = None, number: int = 0) -> int:
        """The place of the `number`th such entry."""
        found = [
            index
            for index, entry in enumerate(map(parse_entry, self.lines))
            if entry.event is event and party in (None, entry.party)
        ]
        return found[number]

    def first_bad(self, policy: Policy | None = None) -> tuple[int | None, str]:
        """What the auditor finds."""
        with pytest.raises(VerificationError) as caught:
            verify_log(self.folder, self.ring, policy=policy, accountant=accountant)
        return caught.value.entry, str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The log of a run of two rounds at three sites."""
    with Federation(tmp_path_factory.mktemp("federation")).serving() as federation:
        for number, name in enumerate("abc"):
            federation.enrol(name, float(number + 1)).start()
        assert federation.run(make_plan(list("abc"))).state == "finished"
        keys = {name: site.home.signing_key() for name, site in federation.sites.items()}
        keys["coordinator"] = federation.key
        folder = federation.config.log_folder
    ring = KeyRing.load(folder / KEYS)
    assert {key.party: key.public_key for key in ring} == {
        name: key.public_key for name, key in keys.items()
    }
    return Evidence(folder=folder, honest=folder, keys=keys, ring=ring)


@pytest.fixture
def log(run: Evidence, tmp_path: Path) -> Evidence:
    folder = Path(shutil.copytree(run.folder, tmp_path / "log"))
    return Evidence(folder=folder, honest=run.folder, keys=run.keys, ring=run.ring)


def test_the_log_of_the_run_verifies(log: Evidence) -> None:
    verified = verify_log(log.folder, log.ring, accountant=accountant)
    assert len(verified.entries) == len(log.lines) > 40


# By whoever has the files, and by the operator who signs it again.
by_both = pytest.mark.parametrize("signed", [False, True], ids=["outsider", "operator"])


def attack(log: Evidence, lines: list[bytes], *, signed: bool) -> int | None:
    log.rewrite(lines)
    if signed:
        log.sign()
    return log.first_bad()[0]


@by_both
def test_an_edited_entry_is_named(log: Evidence, signed: bool) -> None:
    lines, victim = log.lines, log.index(Event.BUDGET_COMMITTED, "b")
    lines[victim] = lines[victim].replace(b"A", b"B", 1)
    assert attack(log, lines, signed=signed) == victim


@by_both
def test_a_deleted_entry_is_named(log: Evidence, signed: bool) -> None:
    lines, victim = log.lines, log.index(Event.UPDATE_SENT, "a")
    del lines[victim]
    # Signed for, it shows where the next entry does not follow: here its acceptance.
    accepted = min(
        index
        for index, entry in enumerate(map(parse_entry, lines))
        if entry.party == "a" or entry.predicate.get("site") == "a"
        if index >= victim
    )
    assert attack(log, lines, signed=signed) == (accepted if signed else victim)


@by_both
def test_an_inserted_entry_is_named(log: Evidence, signed: bool) -> None:
    lines = log.lines
    extra = make_entry(
        SigningKey.generate(),
        "a",
        Event.SELF_TEST_PASSED,
        sequence=0,
        at=AT,
        subjects={"plan": "sha256:" + "0" * 64},
    )
    assert attack(log, [*lines[:15], extra, *lines[15:]], signed=signed) == 15


@by_both
def test_a_repeated_entry_is_named(log: Evidence, signed: bool) -> None:
    lines = log.lines
    victim = log.index(Event.UPDATE_SENT, "c")
    attacked = [*lines[: victim + 1], lines[victim], *lines[victim + 1 :]]
    assert attack(log, attacked, signed=signed) == victim + 1


@by_both
def test_reordered_entries_are_named(log: Evidence, signed: bool) -> None:
    lines = log.lines
    first = log.index(Event.BUDGET_RESERVED, "a")
    second = log.index(Event.BUDGET_COMMITTED, "a")
    lines[first], lines[second] = lines[second], lines[first]
    assert attack(log, lines, signed=signed) == first


@by_both
def test_an_entry_by_a_stranger_in_a_site_s_name_is_named(log: Evidence, signed: bool) -> None:
    lines, victim = log.lines, log.index(Event.PLAN_APPROVED, "c")
    entry = parse_entry(lines[victim])
    lines[victim] = make_entry(
        SigningKey.generate(),
        "c",
        entry.event,
        sequence=entry.sequence,
        at=entry.at,
        subjects=entry.subjects,
    )
    log.rewrite(lines)
    if signed:
        log.sign()
    index, message = log.first_bad()
    assert index == victim
    assert "signed by an unknown key" in message


@by_both
def test_a_coordinator_that_speaks_for_a_site_is_named(log: Evidence, signed: bool) -> None:
    lines, victim = log.lines, log.index(Event.PLAN_APPROVED, "c")
    entry = parse_entry(lines[victim])
    lines[victim] = make_entry(
        log.keys["coordinator"],
        "c",
        entry.event,
        sequence=entry.sequence,
        at=entry.at,
        subjects=entry.subjects,
    )
    log.rewrite(lines)
    if signed:
        log.sign()
    index, message = log.first_bad()
    assert index == victim
    assert "the key is coordinator's" in message


def test_a_log_cut_off_by_an_outsider_is_named(log: Evidence) -> None:
    log.rewrite(log.lines[:-3])
    assert log.first_bad()[0] == len(log.lines)


def test_a_log_cut_off_by_its_operator_is_found_beside_another_copy(log: Evidence) -> None:
    log.rewrite(log.lines[:-3])
    log.sign()
    # By itself it is a shorter log and no lie: `docs/operate/auditor.md` says so.
    verify_log(log.folder, log.ring, accountant=accountant)
    found = compare_logs(log.folder, log.honest, log.ring)
    assert not found.differs
    assert (found.ours.checkpoint.size, found.theirs.checkpoint.size) == (
        len(log.lines),
        len(log.lines) + 3,
    )
    with pytest.raises(TamperError) as caught:
        compare_logs(log.folder, log.honest / CHECKPOINT, log.ring)
    assert caught.value.entry == len(log.lines)


def forked(log: Evidence) -> int:
    """Have the operator tell another history from some entry on; returns the entry."""
    victim = log.index(Event.ADAPTER_RELEASED)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.ADAPTER_RELEASED and entry.predicate["server_round"] == 1:
            said["subjects"]["adapter"] = "sha256:" + "ee" * 32
        return said

    log.retell(change)
    return victim


def test_two_histories_are_each_fine_and_together_a_proof(
    log: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = forked(log)
    verify_log(log.folder, log.ring, accountant=accountant)
    found = compare_logs(log.folder, log.honest, log.ring)
    assert (found.first_difference, found.is_fork) == (victim, True)
    assert main(["compare", str(log.honest), str(log.folder)]) == 1
    assert f"differ from entry {victim} on" in capsys.readouterr().err
    # A site that kept nothing but a checkpoint has the proof, too.
    kept = compare_logs(log.folder, log.honest / CHECKPOINT, log.ring)
    assert (kept.differs, kept.is_fork) == (True, True)


def test_the_witness_of_one_history_refuses_the_other(log: Evidence, tmp_path: Path) -> None:
    key = log_key(ORIGIN, log.keys["coordinator"].public_key)
    Witness.create(tmp_path / "witness.json", key)
    witness = Witness(tmp_path / "witness.json", CosigningKey.generate("a"), key)
    honest = (log.honest / CHECKPOINT).read_text(encoding="utf-8")
    witness.cosign(Request(old_size=0, path=(), checkpoint=honest), AT)
    size = witness.seen.size
    forked(log)
    other = (log.folder / CHECKPOINT).read_text(encoding="utf-8")
    with pytest.raises(TamperError, match="two different logs"):
        witness.cosign(Request(old_size=size, path=(), checkpoint=other), AT)


def test_a_second_checkpoint_that_contradicts_the_first_is_found(log: Evidence) -> None:
    history = (log.folder / CHECKPOINTS).read_text(encoding="utf-8")
    forked(log)
    (log.folder / CHECKPOINTS).write_text(history, encoding="utf-8")
    with pytest.raises(TamperError, match="signed two different logs"):
        verify_log(log.folder, log.ring, accountant=accountant)


def test_a_history_that_does_not_extend_an_older_checkpoint_is_named(log: Evidence) -> None:
    """The operator told the rest anew and at another length; older checkpoints are still known."""
    history = (log.folder / CHECKPOINTS).read_text(encoding="utf-8").splitlines()
    victim = forked(log)
    log.rewrite(log.lines[:-1])
    log.sign()
    known = [parse_checkpoint(Note.parse(json.loads(note)).text) for note in history]
    size = len(log.lines)
    kept = [note for note, this in zip(history, known, strict=True) if this.size < size]
    (log.folder / CHECKPOINTS).write_text("".join(f"{note}\n" for note in kept), encoding="utf-8")
    index, message = log.first_bad()
    assert "not what the log's operator signed for" in message
    # As near as checkpoints are: each batch of entries has one.
    assert index == max(this.size for this in known if this.size <= victim)


def cosign(log: Evidence, *names: str) -> Policy:
    """Have witnesses cosign the log; returns the policy that asks for two of three."""
    keys = {name: CosigningKey.generate(f"witness.example/{name}") for name in "abc"}
    note = Note.parse((log.folder / CHECKPOINT).read_text(encoding="utf-8"))
    signed = note.with_signatures(tuple(keys[name].cosign(note.text, AT) for name in names))
    (log.folder / COSIGNED).write_text(str(signed), encoding="utf-8")
    lines = [f"witness {name} {key.public.vkey}" for name, key in keys.items()]
    return Policy.parse("\n".join([*lines, "group sites 2 a b c", "quorum sites"]).encode())


def test_a_quorum_of_witnesses_is_enough_and_one_is_not(log: Evidence) -> None:
    policy = cosign(log, "a", "c")
    verify_log(log.folder, log.ring, policy=policy, accountant=accountant)
    policy = cosign(log, "b")
    index, message = log.first_bad(policy)
    assert index is None
    assert "lacks its quorum 'sites': cosigned by b" in message


def test_cosignatures_of_strangers_do_not_count(log: Evidence) -> None:
    policy = cosign(log, "a", "b", "c")
    cosign(log, "a", "b", "c")
    assert "cosigned by no witness" in log.first_bad(policy)[1]


def test_a_log_rewritten_behind_its_witnesses_is_found(log: Evidence) -> None:
    policy = cosign(log, "a", "b")
    forked(log)
    with pytest.raises(TamperError, match="two different logs"):
        verify_log(log.folder, log.ring, policy=policy, accountant=accountant)


def test_a_log_cut_off_behind_its_witnesses_is_found(log: Evidence) -> None:
    policy = cosign(log, "a", "b")
    log.rewrite(log.lines[:-3])
    log.sign()
    index, message = log.first_bad(policy)
    assert index == len(log.lines)
    assert "witnesses cosigned" in message


def test_entries_that_no_witness_saw_are_named(log: Evidence) -> None:
    lines = log.lines
    log.rewrite(lines[:-3])
    log.sign()
    policy = cosign(log, "a", "b")
    log.rewrite(lines)
    log.sign()
    index, message = log.first_bad(policy)
    assert index == len(lines) - 3
    assert "is not cosigned" in message


def weaker(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with less noise than was approved."""
    changed = json.loads(json.dumps(plan))
    changed["mechanism"]["noise_multiplier"] *= 0.9
    changed["mechanism"]["target_epsilon"] *= 2
    return dict(changed)


def test_another_plan_under_the_approved_digest_is_named(log: Evidence) -> None:
    victim = log.index(Event.PLAN_OFFERED)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.PLAN_OFFERED:
            said["predicate"]["plan"] = weaker(said["predicate"]["plan"])
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "the plan hashes to" in message


def test_a_plan_that_was_not_the_approved_one_is_named(log: Evidence) -> None:
    victim = log.index(Event.PLAN_APPROVED)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.PLAN_OFFERED:
            plan = weaker(said["predicate"]["plan"])
            said["predicate"]["plan"] = plan
            said["subjects"]["plan"] = RunPlan.parse(rfc8785.dumps(plan)).digest
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "a plan that was offered" in message


@pytest.mark.parametrize("event", [Event.BUDGET_RESERVED, Event.BUDGET_COMMITTED])
def test_a_round_without_its_budget_is_named(log: Evidence, event: Event) -> None:
    """The site left the entry out and told the rest anew."""
    victim = log.index(event, "b")
    follower = log.index(
        Event.UPDATE_SENT if event is Event.BUDGET_COMMITTED else Event.BUDGET_COMMITTED, "b"
    )
    told = {"left": False}

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any] | None:
        if entry.event is event and entry.party == "b" and not told["left"]:
            told["left"] = True
            return None
        return said

    log.retell(change)
    assert victim < follower
    assert log.first_bad()[0] == follower - 1


@pytest.mark.parametrize(
    ("field", "factor", "reason"),
    [
        ("epsilon_total", 0.5, "epsilon in total does not follow"),
        ("epsilon_total", 0.95, "epsilon in total does not follow"),
        ("epsilon_run", 0.9, "epsilon of the run does not follow"),
        ("noise_multiplier", 1.05, "noise multiplier, sample rate and steps of the plan"),
        ("sample_rate", 0.9, "noise multiplier, sample rate and steps of the plan"),
        ("num_steps", 2, "noise multiplier, sample rate and steps of the plan"),
    ],
)
def test_an_epsilon_that_does_not_follow_is_named(
    log: Evidence, field: str, factor: float, reason: str
) -> None:
    victim = log.index(Event.BUDGET_RESERVED, "c", 1)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        spends = (Event.BUDGET_RESERVED, Event.BUDGET_COMMITTED)
        if entry.party == "c" and entry.event in spends and said["predicate"]["server_round"] == 2:
            value = said["predicate"][field]
            said["predicate"][field] = type(value)(value * factor)
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert reason in message


def test_a_ledger_that_forgets_a_round_is_named(log: Evidence) -> None:
    victim = log.index(Event.BUDGET_RESERVED, "a", 1)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if "prior" in said["predicate"] and entry.party == "a":
            said["predicate"]["prior"] = []
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "all earlier releases" in message


def test_an_adapter_from_an_update_that_was_not_accepted_is_named(log: Evidence) -> None:
    victim = log.index(Event.ADAPTER_RELEASED)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any] | None:
        accepted = entry.event is Event.UPDATE_ACCEPTED and entry.predicate["site"] == "b"
        return None if accepted and entry.predicate["server_round"] == 1 else said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim - 1
    assert "names b, whose update was not accepted" in message


def test_an_adapter_of_fewer_sites_than_the_plan_asks_for_is_named(log: Evidence) -> None:
    victim = log.index(Event.ADAPTER_RELEASED)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.ADAPTER_RELEASED and entry.predicate["server_round"] == 1:
            said["predicate"]["sites"] = ["a"]
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "expected updates of at least" in message


def test_an_adapter_that_is_not_the_one_the_run_ends_with_is_named(log: Evidence) -> None:
    victim = log.index(Event.RUN_FINISHED)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.RUN_FINISHED:
            said["subjects"]["adapter"] = "sha256:" + "cc" * 32
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "expected the run to end with the adapter released last" in message


def test_an_evaluation_of_an_adapter_that_was_not_released_is_named(log: Evidence) -> None:
    victim = log.index(Event.EVALUATED, "b")

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.EVALUATED and entry.party == "b":
            said["subjects"]["adapter"] = "sha256:" + "aa" * 32
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "expected b to measure the adapter of round 2" in message


def test_an_accepted_update_that_is_not_the_one_that_was_sent_is_named(log: Evidence) -> None:
    victim = log.index(Event.UPDATE_ACCEPTED)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.UPDATE_ACCEPTED:
            said["subjects"]["update"] = "sha256:" + "dd" * 32
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "got another digest" in message


def test_a_site_with_another_key_than_the_auditor_has_is_named(log: Evidence) -> None:
    log.keys = {**log.keys, "b": SigningKey.generate()}
    victim = next(i for i, line in enumerate(log.lines) if parse_entry(line).party == "b")
    log.retell(lambda _, said: said)
    index, message = log.first_bad()
    assert index == victim
    assert "signed by an unknown key" in message


def test_a_site_enrolled_with_a_key_that_is_not_its_own_is_named(log: Evidence) -> None:
    victim = log.index(Event.SITE_ENROLLED, number=1)

    def change(entry: Entry, said: dict[str, Any]) -> dict[str, Any]:
        if entry.event is Event.SITE_ENROLLED and entry.predicate["site"] == "b":
            said["predicate"]["signing_key"] = SigningKey.generate().public_key.hex()
        return said

    log.retell(change)
    index, message = log.first_bad()
    assert index == victim
    assert "expected b to be enrolled with the key we have of it" in message
