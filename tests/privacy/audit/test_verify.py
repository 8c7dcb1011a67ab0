"""Whatever is wrong with a log is found, and the first wrong entry is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from privacy.audit import reader
from privacy.audit.checkpoint import Checkpoint, sign_checkpoint
from privacy.audit.entry import MAX_ENTRY_BYTES, Event, make_entry, parse_entry
from privacy.audit.keys import KeyRing, PartyKey, Role
from privacy.audit.log import CHECKPOINT, CHECKPOINTS, ENTRIES
from privacy.audit.merkle import Tree, leaf_hash
from privacy.audit.verify import VerifiedLog, check_log, verify_log
from privacy.dp import calibrate
from privacy.dp.config import MechanismConfig
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.pki.identity import SigningKey
from tests.privacy.evidence import (
    COORDINATOR,
    OVER_MASKING,
    RECALL,
    START,
    Federation,
    digest,
    make_plan,
    plan_object,
    quick_accountant,
    runs_on,
)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These logs need not outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path / "log")


@pytest.fixture
def finished(federation: Federation) -> Federation:
    federation.run()
    return federation


def verify(federation: Federation) -> VerifiedLog:
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


def first_bad(federation: Federation) -> tuple[int | None, str]:
    with pytest.raises(VerificationError) as caught:
        verify(federation)
    assert f"entry {caught.value.entry}" in str(caught.value) or "entries" in str(caught.value)
    return caught.value.entry, str(caught.value)


def rewrite(federation: Federation, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of the log behind its back."""
    path = federation.folder / ENTRIES
    lines = change(path.read_bytes().split(b"\n")[:-1])
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def sign_anew(federation: Federation) -> None:
    """Sign a log that was rewritten, and forget older checkpoints, as its operator could."""
    tree = Tree()
    for line in (federation.folder / ENTRIES).read_bytes().split(b"\n")[:-1]:
        tree.append(leaf_hash(line))
    checkpoint = Checkpoint(origin=federation.log.origin, size=tree.size, root=tree.root())
    note = sign_checkpoint(checkpoint, federation.keys[COORDINATOR])
    (federation.folder / CHECKPOINT).write_text(note, encoding="utf-8")
    (federation.folder / CHECKPOINTS).unlink()


def index_of(federation: Federation, event: Event, party: str | None = None) -> int:
    for index, line in enumerate(federation.log.lines()):
        entry = parse_entry(line)
        if entry.event is event and party in (None, entry.party):
            return index
    raise LookupError(event)


def test_an_honest_log_verifies(finished: Federation) -> None:
    log = verify(finished)
    assert len(log.entries) == log.checkpoint.size == finished.log.size
    assert log.plans == {finished.plan.digest: finished.plan}
    assert not log.keys_from_log
    assert log.num_checkpoints == finished.log.size + 1


def test_the_keys_beside_the_log_are_used_and_said_to_be(finished: Federation) -> None:
    assert verify_log(finished.folder, accountant=quick_accountant).keys_from_log


def test_the_real_accountant_agrees_with_itself(tmp_path: Path) -> None:
    federation = Federation(
        tmp_path / "log",
        plan=make_plan(num_rounds=2),
        accountant=calibrate.epsilon,
    )
    federation.run()
    verify_log(federation.folder, federation.ring)


def test_an_edited_entry_is_found(finished: Federation) -> None:
    victim = index_of(finished, Event.UPDATE_SENT, "hospital_a")

    def edit(lines: list[bytes]) -> list[bytes]:
        lines[victim] = lines[victim].replace(b"A", b"B", 1)
        return lines

    rewrite(finished, edit)
    assert first_bad(finished)[0] == victim


def test_an_edited_figure_breaks_its_signature(finished: Federation) -> None:
    victim = index_of(finished, Event.BUDGET_COMMITTED, "bank_a")

    def edit(lines: list[bytes]) -> list[bytes]:
        entry = parse_entry(lines[victim])
        forged = make_entry(
            finished.keys["bank_a"],
            "bank_a",
            entry.event,
            sequence=entry.sequence,
            at=entry.at,
            subjects=entry.subjects,
            predicate={**entry.predicate, "epsilon_total": 0.01},
        )
        envelope = json.loads(lines[victim])
        envelope["payload"] = json.loads(forged)["payload"]
        lines[victim] = json.dumps(envelope, separators=(",", ":")).encode()
        return lines

    rewrite(finished, edit)
    sign_anew(finished)
    index, message = first_bad(finished)
    assert index == victim
    assert "does not verify" in message


@pytest.mark.parametrize("back", [1, 2, 30])
def test_a_deleted_entry_is_found(finished: Federation, back: int) -> None:
    victim = finished.log.size - back
    rewrite(finished, lambda lines: lines[:victim] + lines[victim + 1 :])
    assert first_bad(finished)[0] == victim


def test_a_deletion_that_is_signed_for_leaves_a_gap_in_its_party_s_numbers(
    finished: Federation,
) -> None:
    victim = index_of(finished, Event.SELF_TEST_PASSED, "bank_a")
    rewrite(finished, lambda lines: lines[:victim] + lines[victim + 1 :])
    sign_anew(finished)
    index, message = first_bad(finished)
    assert index == index_of(finished, Event.BUDGET_RESERVED, "bank_a")
    assert "missing before it" in message


def test_an_inserted_entry_is_found(finished: Federation) -> None:
    line = finished.line(COORDINATOR, Event.SITE_REVOKED, {}, site="bank_a")
    rewrite(finished, lambda lines: [*lines[:9], line, *lines[9:]])
    assert first_bad(finished)[0] == 9


def test_reordered_entries_are_found(finished: Federation) -> None:
    rewrite(finished, lambda lines: [*lines[:11], lines[12], lines[11], *lines[13:]])
    assert first_bad(finished)[0] == 11


@pytest.mark.parametrize("keep", [0, 1, 20])
def test_a_truncated_log_is_found(finished: Federation, keep: int) -> None:
    rewrite(finished, lambda lines: lines[:keep])
    assert first_bad(finished)[0] == keep


def test_a_log_cut_within_a_line_is_found(finished: Federation) -> None:
    path = finished.folder / ENTRIES
    os.truncate(path, path.stat().st_size - 100)
    assert first_bad(finished)[0] == finished.log.size - 1


def test_a_log_rolled_back_to_an_older_checkpoint_is_found(finished: Federation) -> None:
    notes = (finished.folder / CHECKPOINTS).read_text(encoding="utf-8").splitlines()
    (finished.folder / CHECKPOINT).write_text(json.loads(notes[20]), encoding="utf-8")
    rewrite(finished, lambda lines: lines[:20])
    assert first_bad(finished)[0] == 20


def test_entries_behind_the_checkpoint_are_not_taken_for_signed(finished: Federation) -> None:
    line = finished.line("bank_a", Event.AGENT_STARTED, {}, **runs_on("6.6.6"))
    rewrite(finished, lambda lines: [*lines, line])
    assert first_bad(finished)[0] == finished.log.size


def test_a_log_that_was_told_two_ways_is_found(finished: Federation) -> None:
    size = finished.log.size
    other = Checkpoint(origin=finished.log.origin, size=size, root=bytes(32))
    note = sign_checkpoint(other, finished.keys[COORDINATOR])
    with (finished.folder / CHECKPOINTS).open("a", encoding="utf-8") as history:
        history.write(json.dumps(note, ensure_ascii=False) + "\n")
    with pytest.raises(TamperError, match="signed two different logs"):
        verify(finished)


def test_a_forged_checkpoint_is_found(finished: Federation) -> None:
    log = finished.log
    checkpoint = Checkpoint(origin=log.origin, size=log.size, root=log.root)
    note = sign_checkpoint(checkpoint, SigningKey.generate())
    (finished.folder / CHECKPOINT).write_text(note, encoding="utf-8")
    with pytest.raises(VerificationError, match="got none by that key"):
        verify(finished)


def test_without_the_coordinator_s_key_nothing_is_believed(finished: Federation) -> None:
    sites = KeyRing(key for key in finished.ring if key.role is Role.SITE)
    with pytest.raises(ConfigError, match="coordinator's key"):
        verify_log(finished.folder, sites)


def test_an_unknown_signer_is_found(finished: Federation) -> None:
    known = KeyRing(key for key in finished.ring if key.party != "hospital_b")
    with pytest.raises(VerificationError, match="unknown key") as caught:
        verify_log(finished.folder, known, accountant=quick_accountant)
    assert caught.value.entry == index_of(finished, Event.AGENT_STARTED, "hospital_b")


def test_a_coordinator_cannot_speak_for_a_site(finished: Federation) -> None:
    forged = make_entry(
        finished.keys[COORDINATOR],
        "bank_a",
        Event.PLAN_APPROVED,
        sequence=0,
        at=START,
        subjects={"plan": finished.plan.digest},
    )
    size = finished.log.size
    rewrite(finished, lambda lines: [*lines, forged])
    sign_anew(finished)
    index, message = first_bad(finished)
    assert index == size
    assert "the key is coordinator's" in message


def test_a_site_cannot_speak_as_coordinator(finished: Federation) -> None:
    forged = finished.line("bank_a", Event.SITE_REVOKED, {}, site="hospital_a")
    size = finished.log.size
    rewrite(finished, lambda lines: [*lines, forged])
    sign_anew(finished)
    assert first_bad(finished)[0] == size


def test_two_entries_with_one_number_are_found(finished: Federation) -> None:
    entry = parse_entry(finished.log.lines()[-1])
    twin = make_entry(
        finished.keys[COORDINATOR],
        COORDINATOR,
        Event.SITE_REVOKED,
        sequence=entry.sequence,
        at=START,
        predicate={"site": "bank_a"},
    )
    size = finished.log.size
    rewrite(finished, lambda lines: [*lines, twin])
    sign_anew(finished)
    index, message = first_bad(finished)
    assert index == size
    assert "had that number already" in message


def test_a_replayed_entry_is_found(finished: Federation) -> None:
    size = finished.log.size
    rewrite(finished, lambda lines: [*lines, lines[20]])
    sign_anew(finished)
    assert first_bad(finished)[0] == size


def test_a_site_enrolled_with_another_key_is_found(federation: Federation) -> None:
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    bad = federation.say(
        COORDINATOR,
        Event.SITE_ENROLLED,
        site="bank_a",
        signing_key=SigningKey.generate().public_key.hex(),
        certificate_serial="1001",
        num_units=400,
    )
    index, message = first_bad(federation)
    assert index == bad
    assert "got another" in message


def test_a_site_that_was_never_enrolled_is_found(federation: Federation) -> None:
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    bad = federation.say("bank_a", Event.AGENT_STARTED, **runs_on("0.1.0"))
    assert first_bad(federation) == (
        bad,
        f"entry {bad} (agent-started by bank_a, its number 0): expected bank_a to be enrolled "
        "before it acts",
    )


def test_a_log_without_its_beginning_is_found(federation: Federation) -> None:
    federation.enrol("bank_a")
    assert first_bad(federation)[0] == 0


def test_a_plan_under_another_digest_is_found(federation: Federation) -> None:
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    weaker = make_plan(noise_multiplier=0.9)
    bad = federation.say(
        COORDINATOR,
        Event.PLAN_OFFERED,
        {"plan": federation.plan.digest},
        plan=plan_object(weaker),
    )
    index, message = first_bad(federation)
    assert index == bad
    assert "the plan hashes to" in message


def test_a_plan_whose_claim_does_not_follow_is_found(federation: Federation) -> None:
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    bad = federation.offer(make_plan(target_epsilon=0.1))
    index, message = first_bad(federation)
    assert index == bad
    assert "claims epsilon 0.1" in message


def test_an_update_under_a_plan_that_was_not_approved_is_found(federation: Federation) -> None:
    federation.begin()
    federation.reserve("bank_a", 1)
    federation.commit("bank_a", 1)
    other = make_plan(run="other")
    federation.offer(other)
    bad = federation.send("bank_a", 1, plan=other.digest)
    index, message = first_bad(federation)
    assert index == bad
    assert "another digest" in message


def test_a_plan_that_was_never_offered_is_found(federation: Federation) -> None:
    federation.begin()
    bad = federation.send("bank_a", 1, plan=digest("made up"))
    index, message = first_bad(federation)
    assert index == bad
    assert "a plan that was offered" in message


def test_budget_spent_before_approval_is_found(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    for site in federation.sites:
        federation.enrol(site)
    federation.offer()
    federation.approve("bank_a")
    federation.approve("hospital_a")
    federation.start()
    bad = federation.reserve("hospital_b", 1)
    index, message = first_bad(federation)
    assert index == bad
    assert "expected hospital_b to approve the plan" in message


def test_a_run_that_starts_below_its_quorum_is_found(federation: Federation) -> None:
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    federation.enrol("bank_a")
    federation.offer()
    federation.approve("bank_a")
    bad = federation.start()
    assert first_bad(federation)[0] == bad


def test_an_update_without_its_budget_commit_is_found(federation: Federation) -> None:
    federation.begin()
    federation.reserve("bank_a", 1)
    bad = federation.send("bank_a", 1)
    index, message = first_bad(federation)
    assert index == bad
    assert "committed before its update leaves" in message


def test_a_commit_without_its_reservation_is_found(federation: Federation) -> None:
    federation.begin()
    bad = federation.commit("bank_a", 1)
    assert first_bad(federation)[0] == bad


def test_a_31st_round_of_30_is_found(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=30))
    federation.begin()
    for server_round in range(1, 31):
        federation.train("bank_a", server_round)
    bad = federation.reserve("bank_a", 31)
    index, message = first_bad(federation)
    assert index == bad
    assert "expected rounds 1 to 30" in message


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("epsilon_total", 0.2, "in total does not follow"),
        ("epsilon_total", 7.9, "in total does not follow"),
        ("epsilon_run", 0.2, "of the run does not follow"),
        ("epsilon_run", 8.5, "over the plan's"),
        ("budget_epsilon", 0.1, "over the site's budget"),
        ("noise_multiplier", 1.0, "of the plan"),
        ("sample_rate", 0.09, "of the plan"),
        ("num_steps", 5, "of the plan"),
        ("delta", 1e-6, "expected a delta"),
        ("delta", 1 / 400, "expected a delta below 1 / 400"),
        ("delta", 0.999, "expected a delta below 1 / 400"),
    ],
)
def test_a_figure_that_does_not_follow_is_found(
    federation: Federation, field: str, value: float, reason: str
) -> None:
    federation.begin()
    federation.train("bank_a", 1)
    bad = federation.reserve("bank_a", 2, **{field: value})
    index, message = first_bad(federation)
    assert index == bad
    assert reason in message


def test_a_ledger_that_forgets_is_found(federation: Federation) -> None:
    federation.begin()
    federation.train("bank_a", 1)
    bad = federation.reserve("bank_a", 2, prior=[])
    index, message = first_bad(federation)
    assert index == bad
    assert "earlier releases" in message


def test_a_second_reservation_of_a_spent_round_is_found(federation: Federation) -> None:
    federation.begin()
    federation.train("bank_a", 1)
    bad = federation.reserve("bank_a", 1)
    assert first_bad(federation)[0] == bad


def test_a_reservation_said_again_after_a_crash_is_no_fault(federation: Federation) -> None:
    federation.begin()
    federation.reserve("bank_a", 1)
    federation.train("bank_a", 1)
    verify(federation)


def test_a_round_that_was_reserved_twice_counts_once_among_the_earlier_ones(
    federation: Federation,
) -> None:
    federation.begin()
    federation.reserve("bank_a", 1)
    federation.train("bank_a", 1)
    federation.train("bank_a", 2)
    verify(federation)
    steps = federation.plan.mechanism.steps_per_round
    kind = [federation.plan.mechanism.noise_multiplier, federation.plan.mechanism.sample_rate]
    bad = federation.reserve("bank_a", 3, prior=[[*kind, 2 * steps - 1]])
    index, message = first_bad(federation)
    assert index == bad
    assert "earlier releases" in message


def test_a_round_is_checked_without_going_through_all_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At 100,000 entries a coordinator would otherwise take minutes to start.
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=60, noise_multiplier=30.0))
    federation.begin()
    for server_round in range(1, 61):
        federation.train("bank_a", server_round)
    made: list[calibrate.Event] = []
    whole = calibrate.round_event

    def counted(mechanism: MechanismConfig) -> calibrate.Event:
        made.append(whole(mechanism))
        return made[-1]

    monkeypatch.setattr(calibrate, "round_event", counted)
    verify(federation)
    assert 60 <= len(made) <= 3 * 60


def test_budget_spent_in_another_run_counts(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=1))
    federation.run()
    federation.plan = make_plan(num_rounds=1, run="second")
    federation.run_id = "8"
    federation.offer()
    federation.approve("bank_a")
    federation.approve("hospital_a")
    federation.start()
    federation.reserve("bank_a", 1, prior=[[1.1, 0.1, 6]])
    verify(federation)
    bad = federation.reserve("hospital_a", 1)
    assert first_bad(federation)[0] == bad


def test_an_update_larger_than_the_plan_allows_is_found(tmp_path: Path) -> None:
    plan = make_plan()
    plan = replace(plan, exits=replace(plan.exits, max_update_bytes=1000))
    federation = Federation(tmp_path / "log", plan=plan)
    federation.begin()
    federation.reserve("bank_a", 1)
    federation.commit("bank_a", 1)
    bad = federation.send("bank_a", 1)
    assert first_bad(federation)[0] == bad


def test_a_second_different_update_in_a_round_is_found(federation: Federation) -> None:
    federation.begin()
    federation.train("bank_a", 1)
    bad = federation.send("bank_a", 1, update=digest("another"))
    index, message = first_bad(federation)
    assert index == bad
    assert "a second, different one" in message


def test_an_accepted_update_that_was_not_sent_is_found(federation: Federation) -> None:
    federation.begin()
    federation.train("bank_a", 1)
    bad = federation.accept("hospital_a", 1)
    index, message = first_bad(federation)
    assert index == bad
    assert "that hospital_a sent" in message


def test_an_accepted_update_of_a_revoked_site_is_found(federation: Federation) -> None:
    federation.begin()
    federation.reserve("bank_a", 1)
    federation.commit("bank_a", 1)
    federation.send("bank_a", 1)
    federation.say(COORDINATOR, Event.SITE_REVOKED, site="bank_a")
    bad = federation.accept("bank_a", 1)
    assert first_bad(federation)[0] == bad


def test_an_adapter_from_an_update_that_was_not_accepted_is_found(federation: Federation) -> None:
    federation.begin()
    federation.train("bank_a", 1)
    federation.train("hospital_a", 1)
    bad = federation.release(1, ["bank_a", "hospital_a", "hospital_b"])
    index, message = first_bad(federation)
    assert index == bad
    assert "hospital_b" in message
    assert "was not accepted" in message


def test_an_adapter_below_the_quorum_is_found(federation: Federation) -> None:
    federation.begin()
    federation.train("bank_a", 1)
    bad = federation.release(1, ["bank_a"])
    assert first_bad(federation)[0] == bad


def test_a_second_adapter_of_a_round_is_found(federation: Federation) -> None:
    federation.begin()
    federation.round(1)
    bad = federation.release(1)
    assert first_bad(federation)[0] == bad


def test_masking_less_than_the_plan_says_is_found(federation: Federation) -> None:
    federation.begin()
    bad = federation.say(
        "bank_a",
        Event.DATA_MASKED,
        {"plan": federation.plan.digest, "canaries": federation.plan.canaries},
        entity_types=["EMAIL"],
        recall=RECALL,
        over_masking=OVER_MASKING,
        commitment=digest("counts"),
    )
    assert first_bad(federation)[0] == bad


@pytest.mark.parametrize(
    ("recall", "over_masking", "canaries"),
    [
        ([[*row[:3], 35, 35] if row[0] == "DATE" else row for row in RECALL], OVER_MASKING, None),
        # A type of which nothing is said, and one of which less was looked for.
        (RECALL[1:], OVER_MASKING, None),
        ([["ACCOUNT_NUMBER", "en", 1, 1, 1], *RECALL[1:]], OVER_MASKING, None),
        # Too much is masked, fewer sentences were looked at, or those of another language.
        (RECALL, [["en", 100, 11]], None),
        (RECALL, [["en", 10, 0]], None),
        (RECALL, [["zh", 100, 0]], None),
        (RECALL, OVER_MASKING, digest("another set")),
    ],
)
def test_training_below_the_plans_floor_or_on_another_set_is_found(
    federation: Federation,
    recall: list[list[object]],
    over_masking: list[list[object]],
    canaries: str | None,
) -> None:
    federation.begin()
    bad = federation.say(
        "bank_a",
        Event.DATA_MASKED,
        {"plan": federation.plan.digest, "canaries": canaries or federation.plan.canaries},
        entity_types=list(federation.plan.masking.entity_types),
        recall=recall,
        over_masking=over_masking,
        commitment=digest("counts"),
    )
    assert first_bad(federation)[0] == bad


def test_an_update_of_a_site_that_did_not_say_how_it_masked_is_found(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.begin()
    federation.plan = make_plan(run="second")
    federation.run_id = "8"
    federation.offer()
    for site in federation.sites:
        federation.approve(site)
    federation.start()
    federation.reserve("bank_a", 1)
    federation.commit("bank_a", 1)
    bad = federation.send("bank_a", 1)
    index, message = first_bad(federation)
    assert index == bad
    assert "how it masked" in message


@pytest.mark.parametrize("left_out", ["plan", "canaries"])
def test_masking_that_names_no_plan_or_no_examples_cannot_be_said(
    federation: Federation, left_out: str
) -> None:
    federation.begin()
    subjects = {"plan": federation.plan.digest, "canaries": federation.plan.canaries}
    del subjects[left_out]
    with pytest.raises(ValueError, match=f"missing {left_out}"):
        federation.say(
            "bank_a",
            Event.DATA_MASKED,
            subjects,
            entity_types=list(federation.plan.masking.entity_types),
            recall=[],
            over_masking=[],
            commitment=digest("counts"),
        )


def test_an_end_of_a_run_that_does_not_fit_its_rounds_is_found(federation: Federation) -> None:
    federation.begin()
    federation.round(1)
    bad = federation.finish(3)
    index, message = first_bad(federation)
    assert index == bad
    assert "expected 1 rounds" in message


def test_an_end_of_a_run_with_another_adapter_is_found(federation: Federation) -> None:
    federation.begin()
    federation.round(1)
    bad = federation.say(
        COORDINATOR,
        Event.RUN_FINISHED,
        {"plan": federation.plan.digest, "adapter": digest("another")},
        run_id=federation.run_id,
        num_rounds=1,
    )
    assert first_bad(federation)[0] == bad


def test_an_update_or_a_failure_behind_the_adapter_is_found(tmp_path: Path) -> None:
    late = Federation(tmp_path / "late")
    late.begin()
    for site in late.sites[:2]:
        late.train(site, 1)
    late.reserve("hospital_b", 1)
    late.commit("hospital_b", 1)
    late.send("hospital_b", 1)
    late.release(1, late.sites[:2])
    bad = late.accept("hospital_b", 1)
    assert first_bad(late)[0] == bad
    failed = Federation(tmp_path / "failed")
    failed.begin()
    failed.round(1)
    bad = failed.say(
        COORDINATOR,
        Event.ROUND_FAILED,
        run_id=failed.run_id,
        server_round=1,
        num_updates=3,
    )
    assert first_bad(failed)[0] == bad


def test_an_evaluation_of_another_adapter_is_found(federation: Federation) -> None:
    federation.begin()
    federation.round(1)
    federation.round(2)
    bad = federation.evaluate("bank_a", 2, adapter=digest("adapter 1"))
    index, message = first_bad(federation)
    assert index == bad
    assert "expected bank_a to measure the adapter of round 2" in message


def test_an_evaluation_outside_a_run_or_its_rounds_is_found(tmp_path: Path) -> None:
    early = Federation(tmp_path / "early")
    early.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    for site in early.sites:
        early.enrol(site)
    early.offer()
    early.approve("bank_a")
    bad = early.evaluate("bank_a", 1)
    assert first_bad(early)[0] == bad
    late = Federation(tmp_path / "late")
    late.begin()
    bad = late.evaluate("bank_a", 4)
    index, message = first_bad(late)
    assert (index, "expected rounds 1 to 3" in message) == (bad, True)


def test_an_evaluation_by_a_site_that_did_not_approve_or_is_revoked_is_found(
    tmp_path: Path,
) -> None:
    stranger = Federation(tmp_path / "stranger")
    stranger.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    for site in stranger.sites:
        stranger.enrol(site)
    stranger.offer()
    stranger.approve("bank_a")
    stranger.approve("hospital_a")
    stranger.start()
    bad = stranger.evaluate("hospital_b", 1, adapter=stranger.plan.initial_adapter)
    index, message = first_bad(stranger)
    assert (index, "expected hospital_b to approve the plan" in message) == (bad, True)
    revoked = Federation(tmp_path / "revoked")
    revoked.begin()
    revoked.round(1)
    revoked.say(COORDINATOR, Event.SITE_REVOKED, site="bank_a")
    bad = revoked.evaluate("bank_a", 1)
    assert first_bad(revoked)[0] == bad


def test_behind_a_failed_round_the_adapter_before_it_is_measured(federation: Federation) -> None:
    federation.begin()
    federation.evaluate("bank_a", 1, adapter=federation.plan.initial_adapter)
    federation.round(1)
    federation.say(
        COORDINATOR, Event.ROUND_FAILED, run_id=federation.run_id, server_round=2, num_updates=0
    )
    federation.evaluate("bank_a", 2, adapter=digest("adapter 1"))
    verify(federation)


def test_a_revoked_site_that_goes_on_is_found(federation: Federation) -> None:
    federation.begin()
    federation.say(COORDINATOR, Event.SITE_REVOKED, site="bank_a")
    bad = federation.reserve("bank_a", 1)
    index, message = first_bad(federation)
    assert index == bad
    assert "which is revoked" in message


def test_the_first_of_several_wrong_entries_is_named(finished: Federation) -> None:
    def edit(lines: list[bytes]) -> list[bytes]:
        for index in (31, 14, 40):
            lines[index] = lines[index].replace(b"A", b"B", 1)
        return lines

    rewrite(finished, edit)
    assert first_bad(finished)[0] == 14


def test_a_folder_without_a_log_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a log's folder, got"):
        verify_log(
            tmp_path,
            KeyRing([PartyKey(party=COORDINATOR, role=Role.COORDINATOR, public_key=bytes(32))]),
        )


def test_the_verifier_needs_no_framework() -> None:
    code = (
        "import sys, privacy.cli, privacy.audit.verify, privacy.compliance.report\n"
        "heavy = {'torch', 'flwr', 'opacus', 'transformers', 'peft', 'presidio_analyzer'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_plan_in_the_log_is_the_whole_plan(finished: Federation) -> None:
    entry = verify(finished).entries[index_of(finished, Event.PLAN_OFFERED)]
    assert entry.predicate["plan"]["rounds"] == asdict(finished.plan)["rounds"]


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_several_processes_find_what_one_finds(
    finished: Federation, monkeypatch: pytest.MonkeyPatch, num_jobs: int
) -> None:
    monkeypatch.setattr(reader, "CHUNK", 7)

    def check() -> list[int]:
        seen: list[int] = []
        check_log(
            finished.folder,
            finished.ring,
            accountant=quick_accountant,
            visit=lambda index, _: seen.append(index),
            num_jobs=num_jobs,
        )
        return seen

    size = finished.log.size
    assert check() == list(range(size))
    lines = finished.log.lines()
    lines[23] = lines[23].replace(b"A", b"B", 1)
    rewrite(finished, lambda _: lines)
    with pytest.raises(VerificationError) as caught:
        check()
    assert caught.value.entry == 23


def test_a_line_longer_than_any_entry_is_named_behind_those_before_it(
    finished: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CHUNK", 7)
    lines = finished.log.lines()
    lines[30] = b"A" * (MAX_ENTRY_BYTES + 2)
    rewrite(finished, lambda _: lines)
    for num_jobs in (1, 2):
        with pytest.raises(VerificationError, match="expected lines of at most") as caught:
            check_log(
                finished.folder,
                finished.ring,
                accountant=quick_accountant,
                num_jobs=num_jobs,
            )
        assert caught.value.entry == 30
