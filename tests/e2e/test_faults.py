"""What is killed or hangs in the middle of a round, and how the run goes on.

Each test is a run of its own by the same processes. A fault falls on a step that a process has
told of, never on a moment. After each, the ledgers hold what they hold without a fault, every
round once, and the log verifies.
"""

import signal
from collections.abc import Mapping
from typing import Any

from client.home import SiteHome
from privacy.audit.entry import Event
from privacy.audit.keys import KeyRing
from privacy.audit.verify import verify_log
from tests.e2e import probe
from tests.e2e.consortium import SITES, Consortium, Process, await_client_app, await_end


def check_books(made: Consortium, plan: str, *, num_rounds: int) -> None:
    """Every round is spent once at every site, as without a fault, and the log verifies."""
    for name in SITES:
        spends = made.spends(name, plan)
        assert [s[0] for s in spends] == list(range(1, num_rounds + 1))
        # The same noise, rate and number of steps in each: nothing was trained twice.
        assert len({s[1:] for s in spends}) == 1
        assert spends[0][3] == 1
        spent = SiteHome(made.site(name)).ledger().spent()
        entries = [e for e in made.entries(plan=plan) if e.party == name]
        for event in (Event.BUDGET_RESERVED, Event.BUDGET_COMMITTED, Event.UPDATE_SENT):
            rounds = [e.predicate["server_round"] for e in entries if e.event is event]
            assert len(rounds) == len(set(rounds)), (name, event, rounds)
        reserved = [e for e in entries if e.event is Event.BUDGET_RESERVED]
        assert reserved[-1].predicate["epsilon_total"] <= spent.epsilon + 1e-9
    accepted = [
        (e.predicate["server_round"], e.predicate["site"])
        for e in made.entries(Event.UPDATE_ACCEPTED, plan)
    ]
    assert len(accepted) == len(set(accepted))
    verify_log(made.log, KeyRing.load(made.log / "keys.json"))


def updates(run: Mapping[str, Any]) -> list[int]:
    """How many updates each round added."""
    return [r["num_updates"] for r in run["rounds"]]


def offer_and_await(made: Consortium, run: str, site: str, stage: str, **values: object) -> str:
    """Offer a plan, and return its digest once a site has told of a stage of its first round."""
    agent = made.agents[site]
    mark = len(agent.told)
    plan = made.offer(run, **values)
    agent.await_stage(stage, after=mark)
    return plan


def rejections(made: Consortium, plan: str) -> list[tuple[str, int]]:
    """Sites and rounds of the updates that the coordinator rejected."""
    return [
        (e.predicate["site"], e.predicate["server_round"])
        for e in made.entries(Event.UPDATE_REJECTED, plan)
    ]


def client_app(agent: Process) -> int:
    """The one ClientApp under an agent."""
    (pid,) = probe.client_apps(agent.pid)
    return pid


def test_an_agent_killed_in_a_round_takes_its_children_along_and_does_the_round_once(
    at_work: Consortium,
) -> None:
    plan = offer_and_await(at_work, "agent-killed", "bank", "loading", num_rounds=1)
    agent = at_work.agents["bank"]
    children = probe.descendants(agent.pid)
    assert client_app(agent) in children
    agent.kill()
    assert await_end(children) == []
    at_work.start_site("bank")
    run = at_work.await_run(plan)
    # The round waited for the site to come back: nothing of it was lost.
    assert (run["state"], updates(run)) == ("finished", [2])
    assert rejections(at_work, plan) == []
    check_books(at_work, plan, num_rounds=1)


def test_a_client_app_killed_in_a_round_fails_that_round_and_the_next_one_goes_on(
    at_work: Consortium,
) -> None:
    plan = offer_and_await(at_work, "child-killed", "bank", "loading", min_sites=2)
    agent = at_work.agents["bank"]
    mark = len(agent.told)
    probe.kill(client_app(agent))
    refused = agent.await_told(lambda told: "rule" in told, after=mark)
    assert refused["rule"] == "training-failed"
    run = at_work.await_run(plan)
    assert (run["state"], updates(run)) == ("finished", [1, 2])
    # Below its quorum the first round released nothing; its epsilon stays spent.
    assert [r["adapter"] is None for r in run["rounds"]] == [True, False]
    assert rejections(at_work, plan) == [("bank", 1)]
    check_books(at_work, plan, num_rounds=2)


def test_a_coordinator_killed_in_a_round_goes_on_with_it_when_it_is_started_again(
    at_work: Consortium,
) -> None:
    clinic, bank = (at_work.agents[name] for name in SITES)
    mark = len(clinic.told)
    plan = offer_and_await(at_work, "coordinator-killed", "bank", "loading")
    bank.send(signal.SIGSTOP)
    clinic.await_stage("sent", after=mark, kind="train", server_round=1)
    assert at_work.coordinator is not None
    at_work.coordinator.kill()
    bank.send(signal.SIGCONT)
    # Both agents come back by themselves, one with an update that the dead one had.
    clinic.await_told(lambda told: told.get("state") == "waiting", after=mark)
    at_work.start_coordinator()
    run = at_work.await_run(plan)
    assert (run["state"], updates(run)) == ("finished", [2, 2])
    assert (clinic.status, bank.status) == (None, None)
    assert rejections(at_work, plan) == []
    check_books(at_work, plan, num_rounds=2)


def test_a_client_app_that_hangs_is_killed_at_its_deadline_and_the_round_goes_on(
    at_work: Consortium,
) -> None:
    at_work.agents["bank"].end()
    # Less than a start of the ClientApp takes: what comes after the fault is not looked at.
    at_work.set_in_site("bank", "round_limit_s", 3.0)
    agent = at_work.start_site("bank")
    agent.await_told(lambda told: told.get("state") == "connected")
    plan = offer_and_await(at_work, "hangs", "bank", "starting", min_sites=1, num_rounds=1)
    hung = await_client_app(agent)
    probe.freeze(hung)
    refused = agent.await_told(lambda told: "rule" in told)
    assert refused["rule"] == "deadline"
    assert await_end([hung]) == []
    run = at_work.await_run(plan)
    assert (run["state"], updates(run)) == ("finished", [1])
    assert run["rounds"][0]["adapter"]
    assert rejections(at_work, plan)[0] == ("bank", 1)
    check_books(at_work, plan, num_rounds=1)
    agent.end()
    at_work.set_in_site("bank", "round_limit_s", 300.0)
    at_work.start_site("bank")
