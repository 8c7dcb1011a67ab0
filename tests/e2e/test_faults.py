"""What is killed or hangs in the middle of a round, and how the run goes on.

One run of four rounds, one fault in each, by the processes of the run without a fault. A fault
falls on a step that a process has told of, never on a moment. After all of them the ledgers hold
what they hold without a fault, every round once, and the log verifies.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from privacy.audit.entry import Event
from privacy.audit.keys import KeyRing
from privacy.audit.verify import verify_log
from tests.e2e import probe
from tests.e2e.conftest import Story
from tests.e2e.consortium import (
    SITES,
    Answer,
    Consortium,
    Process,
    await_client_app,
    await_end,
    rule_told,
)

ROUNDS = [1, 2, 3, 4]
HANGS, CHILD_KILLED, AGENT_KILLED, COORDINATOR_KILLED = ROUNDS
# What is frozen stays so whatever the limit; a kill must come before it, on a busy machine too.
SHORT_S, LONG_S = 15.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What the faults did.

    Attributes:
      plan: The plan of the run.
      run: How the run ended.
      rules: What the bank's agent answered to the rounds that it lost.
      left: Processes that outlived the one that they belonged to, by fault.
      waited: Whether the clinic's agent said that it waits for the coordinator.
      unfinished: Whether the last round was under way when the coordinator was killed.
      clinic: The clinic's agent, which nobody touched.
      stopped: What the commands answered that stopped the processes at the end.
    """

    plan: str
    run: Mapping[str, Any]
    rules: Mapping[int, str]
    left: Mapping[str, list[int]]
    waited: bool
    unfinished: bool
    clinic: Process
    stopped: Mapping[str, Answer]


def restart_bank(made: Consortium, limit_s: float) -> Process:
    """Start the bank's agent with another limit for a round."""
    made.set_in_site("bank", "round_limit_s", limit_s)
    agent = made.start_site("bank")
    agent.await_told(lambda told: told.get("state") == "connected")
    return agent


@pytest.fixture(scope="module")
def faults(story: Story) -> Faults:
    """The run with the faults; everything is stopped after it."""
    made = story.consortium
    clinic = made.agents["clinic"]
    assert made.coordinator is not None
    stopped = {"stop bank in between": made.call_site("bank", "stop")}
    bank = restart_bank(made, SHORT_S)
    path = made.write_plan("faults", num_rounds=len(ROUNDS), min_sites=1)
    plan = made.type_coordinator("run", path, "--detach").result["plan"]
    assert {answer.status for answer in made.approve(plan).values()} == {0}
    rules, left = {}, {}

    bank.await_stage("starting", server_round=HANGS)
    hung = await_client_app(bank)
    probe.freeze(hung)
    rules[HANGS] = rule_told(bank, HANGS)
    left["hangs"] = await_end([hung])

    bank.await_stage("starting", server_round=CHILD_KILLED)
    probe.kill(await_client_app(bank))
    rules[CHILD_KILLED] = rule_told(bank, CHILD_KILLED)

    bank.await_stage("starting", server_round=AGENT_KILLED)
    await_client_app(bank)
    children = probe.descendants(bank.pid)
    bank.kill()
    left["agent killed"] = await_end(children)
    bank = restart_bank(made, LONG_S)
    bank.await_stage("sent", kind="train", server_round=AGENT_KILLED)

    # It trains its part of the last round only when the coordinator is gone.
    frozen = await_client_app(bank)
    probe.freeze(frozen)
    clinic.await_stage("sent", kind="train", server_round=COORDINATOR_KILLED)
    made.coordinator.kill()
    mark = len(clinic.told)
    released = [e.predicate["server_round"] for e in made.entries(Event.ADAPTER_RELEASED, plan)]
    probe.thaw(frozen)
    waiting = clinic.await_told(lambda told: told.get("state") == "waiting", after=mark)
    made.start_coordinator()
    run = made.await_run(plan)

    with ThreadPoolExecutor(max_workers=2) as pool:
        ends = pool.map(lambda name: made.call_site(name, "stop"), SITES)
        stopped |= {f"stop {name}": answer for name, answer in zip(SITES, ends, strict=True)}
    stopped["stop"] = made.call_coordinator("stop")
    made.coordinator.wait()
    return Faults(
        plan=plan,
        run=run,
        rules=rules,
        left=left,
        waited="cannot be reached" in waiting["reason"],
        unfinished=COORDINATOR_KILLED not in released,
        clinic=clinic,
        stopped=stopped,
    )


def updates(faults: Faults, server_round: int) -> int:
    """How many updates a round added."""
    (result,) = [r for r in faults.run["rounds"] if r["server_round"] == server_round]
    assert result["adapter"]  # the quorum held, and the round released one
    return int(result["num_updates"])


def test_the_run_goes_on_through_every_fault_and_finishes(faults: Faults) -> None:
    assert faults.run["state"] == "finished"
    assert [r["server_round"] for r in faults.run["rounds"]] == ROUNDS


def test_a_client_app_that_hangs_is_killed_at_its_deadline_and_the_round_goes_on(
    faults: Faults,
) -> None:
    assert faults.rules[HANGS] == "deadline"
    assert faults.left["hangs"] == []
    assert updates(faults, HANGS) == 1


def test_a_client_app_that_is_killed_loses_its_site_that_round_and_no_more(
    faults: Faults,
) -> None:
    assert faults.rules[CHILD_KILLED] == "training-failed"
    assert updates(faults, CHILD_KILLED) == 1


def test_an_agent_that_is_killed_takes_its_children_along_and_its_round_waits_for_it(
    faults: Faults,
) -> None:
    assert faults.left["agent killed"] == []
    assert updates(faults, AGENT_KILLED) == 2


def test_a_coordinator_that_is_killed_goes_on_with_its_round_and_the_agents_come_back(
    faults: Faults,
) -> None:
    assert faults.unfinished
    assert faults.waited
    assert updates(faults, COORDINATOR_KILLED) == 2
    # One process from the first run to the last, through it all.
    assert faults.clinic.status == 0


def test_no_epsilon_is_spent_twice_or_otherwise_than_without_a_fault(
    story: Story, faults: Faults
) -> None:
    made = story.consortium
    without = story.answers["run"].result["plan"]
    for name in SITES:
        (one,) = {spend[1:] for spend in made.spends(name, without)}
        assert made.spends(name, faults.plan) == [(number, *one) for number in ROUNDS]


def test_the_log_has_each_step_of_each_round_once_and_verifies(
    story: Story, faults: Faults
) -> None:
    made = story.consortium
    lost = [HANGS, CHILD_KILLED]
    for name, done in (("clinic", ROUNDS), ("bank", [r for r in ROUNDS if r not in lost])):
        entries = [e for e in made.entries(plan=faults.plan) if e.party == name]
        for event, rounds in (
            (Event.BUDGET_RESERVED, ROUNDS),
            (Event.BUDGET_COMMITTED, done),
            (Event.UPDATE_SENT, done),
        ):
            found = [e.predicate["server_round"] for e in entries if e.event is event]
            assert found == rounds, (name, event)
        accepted = [
            e.predicate["server_round"]
            for e in made.entries(Event.UPDATE_ACCEPTED, faults.plan)
            if e.predicate["site"] == name
        ]
        assert accepted == done
    rejected = [
        (e.predicate["site"], e.predicate["server_round"])
        for e in made.entries(Event.UPDATE_REJECTED, faults.plan)
    ]
    assert [r for r in rejected if r[1] in lost] == [("bank", number) for number in lost]
    verify_log(made.log, KeyRing.load(made.log / "keys.json"))


def test_the_stop_commands_end_every_process(faults: Faults, story: Story) -> None:
    assert {name: answer.status for name, answer in faults.stopped.items()} == {
        "stop bank in between": 0, "stop bank": 0, "stop clinic": 0, "stop": 0,
    }  # fmt: skip
    assert faults.stopped["stop clinic"].result == {"stopped": faults.clinic.pid}
    assert story.consortium.coordinator is not None
    assert story.consortium.coordinator.status == 0


def test_nothing_is_left_in_a_home_or_temporary_folder_once_all_has_ended(
    faults: Faults, story: Story
) -> None:
    assert faults.stopped
    root = story.consortium.root
    left = [path for folder in ("home", "tmp") for path in (root / folder).rglob("*")]
    # torch makes an empty folder for compiled code, which nothing here compiles.
    assert [path for path in left if not path.name.startswith("torchinductor_")] == []
