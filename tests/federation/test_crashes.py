"""Crashes and silence: a run goes on, no round is trained twice, no epsilon is spent twice."""

import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from flwr.app import RecordDict

from client.agent import Agent
from client.worker import WorkerTimeoutError
from model.config import ServerOptimizerConfig
from model.fedopt import Moments, server_step
from model.tensors import add_update, packed_digest
from privacy.audit.entry import Event
from privacy.audit.verify import verify_log
from privacy.errors import ConfigError, InstructionRefusedError
from privacy.plan import RoundsConfig
from server.control import control
from tests.federation.world import (
    INITIAL,
    NUM_TRAINED,
    PATIENCE_S,
    Federation,
    Site,
    quiet_plan,
)


@pytest.fixture
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("crash")).serving() as made:
        for number, name in enumerate("abc"):
            made.enrol(name, float(number + 1)).start()
        yield made


def rounds(num_rounds: int, min_sites: int = 2, deadline_s: float = 20.0) -> RoundsConfig:
    """Rounds as a plan says them."""
    return RoundsConfig(num_rounds=num_rounds, min_sites=min_sites, deadline_s=deadline_s)


def spent_rounds(site: Site) -> list[int]:
    """Rounds in the site's ledger."""
    return [entry.server_round for entry in site.home.ledger().entries()]


def test_a_coordinator_that_stops_in_a_round_goes_on_with_it(trio: Federation) -> None:
    c = trio.sites["c"]
    c.trainer.before = c.trainer.hang
    plan = quiet_plan("stops", rounds=rounds(3, min_sites=3))
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    assert c.trainer.is_busy.wait(20)
    trio.stop()
    c.trainer.before = lambda _server_round: None
    trio.start()
    # c is still in its call, which ends like that of a child that dies.
    c.trainer.stopped.set()
    assert trio.wait(plan) == "finished"
    assert trio.coordinator is not None
    run = trio.coordinator.runs.get(plan.digest)
    assert [result.server_round for result in run.rounds] == [1, 2, 3]
    events = [event for _, event in trio.events()]
    assert events.count(Event.RUN_STARTED) == 1
    assert events.count(Event.RUN_FINISHED) == 1
    for name in "ab":
        site = trio.sites[name]
        # Three rounds and an evaluation; the first round not again.
        assert site.trainer.num_calls == 4
        assert spent_rounds(site) == [1, 2, 3]
        journal = site.entries()
        assert journal.count(Event.BUDGET_COMMITTED) == 3
        assert journal.count(Event.UPDATE_SENT) == 3
    verify_log(trio.config.log_folder)


def test_a_restarted_coordinator_takes_the_step_that_it_would_have_taken(
    trio: Federation,
) -> None:
    values = [3.0, -1.0, 0.5]
    c = trio.sites["c"]
    hung = threading.Event()

    def follow(site: Site) -> Callable[[int], None]:
        def before(server_round: int) -> None:
            site.trainer.value = values[server_round - 1]
            if site is c and server_round == 3 and not hung.is_set():
                hung.set()
                site.trainer.hang(server_round)

        return before

    for site in trio.sites.values():
        site.trainer.before = follow(site)
    config = ServerOptimizerConfig(name="adam", learning_rate=0.1)
    plan = quiet_plan("moments", rounds=rounds(3), server_optimizer=config)
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    assert c.trainer.is_busy.wait(PATIENCE_S)
    trio.stop()
    trio.start()
    c.trainer.stopped.set()
    assert trio.wait(plan) == "finished"
    assert trio.coordinator is not None
    released = trio.coordinator.runs.get(plan.digest).adapter
    expected, moments = INITIAL, Moments.none(NUM_TRAINED)
    for value in values:
        mean = np.full(NUM_TRAINED, value, dtype=np.float32)
        step, moments = server_step(config, mean, moments, rate=config.learning_rate)
        expected = add_update(plan.tensors, expected, step)
    assert released == packed_digest(plan.tensors, expected)
    verify_log(trio.config.log_folder)


def test_a_run_does_not_go_on_without_its_moments(trio: Federation) -> None:
    first_is_over = threading.Event()
    for site in trio.sites.values():
        site.trainer.before = lambda server_round: (
            None if server_round == 1 else _lose(trio, first_is_over)
        )
    plan = quiet_plan(
        "lost moments", rounds=rounds(2), server_optimizer=ServerOptimizerConfig(name="adam")
    )
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    assert trio.wait(plan) == "failed"
    assert trio.coordinator is not None
    run = trio.coordinator.runs.get(plan.digest)
    assert "moments" in run.reason
    assert len(run.rounds) == 1


def _lose(federation: Federation, once: threading.Event) -> None:
    if not once.is_set():
        once.set()
        for path in (federation.config.adapters_folder / "optimizer").rglob("*.npz"):
            path.unlink()


def test_a_stop_is_no_failed_round(trio: Federation) -> None:
    for site in trio.sites.values():
        site.trainer.before = site.trainer.hang
    plan = quiet_plan("no failure", rounds=rounds(3))
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    assert all(site.trainer.is_busy.wait(20) for site in trio.sites.values())
    trio.stop()
    assert Event.ROUND_FAILED not in [event for _, event in trio.events()]
    for site in trio.sites.values():
        site.trainer.stopped.set()
        site.trainer.before = lambda _server_round: None
    trio.start()
    trio.wait(plan)
    assert trio.coordinator is not None
    run = trio.coordinator.runs.get(plan.digest)
    assert run.state == "finished"
    assert [result.adapter is not None for result in run.rounds][1:] == [True, True]
    verify_log(trio.config.log_folder)


def test_a_run_that_is_stopped_by_a_person_ends_and_leaves_no_update(trio: Federation) -> None:
    c = trio.sites["c"]
    c.trainer.before = c.trainer.hang
    plan = quiet_plan("by hand", rounds=rounds(3))
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    assert c.trainer.is_busy.wait(20)
    control(trio.config, "StopRun", plan=plan.digest)
    assert trio.wait(plan) == "stopped"
    c.trainer.stopped.set()
    waited = threading.Event()
    for _ in range(50):
        if Event.RUN_FINISHED in [event for _, event in trio.events()]:
            break
        waited.wait(0.1)
    events = [event for _, event in trio.events()]
    assert Event.RUN_FINISHED in events
    assert Event.ROUND_FAILED not in events
    verify_log(trio.config.log_folder)
    # The next run is not held up.
    for site in trio.sites.values():
        site.trainer.be_honest()
    assert trio.run(quiet_plan("after it")).state == "finished"


def test_an_agent_that_stops_in_a_round_misses_it_and_no_more(trio: Federation) -> None:
    c = trio.sites["c"]
    c.trainer.before = c.trainer.hang
    plan = quiet_plan("agent stops", rounds=rounds(3))
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    assert c.trainer.is_busy.wait(20)
    back = threading.Event()

    def wait_for_it(server_round: int) -> None:
        assert server_round == 1 or back.wait(20)

    for name in "ab":
        # The next rounds wait until c is back.
        trio.sites[name].trainer.before = wait_for_it
    c.stop()
    assert c.rules() == ["stopped"]
    c.trainer.be_honest()
    c.start()
    connected = threading.Event()
    for _ in range(100):
        if any(news.get("state") == "connected" for news in c.news[-3:]):
            break
        connected.wait(0.05)
    back.set()
    assert trio.wait(plan) == "finished"
    assert set(spent_rounds(c)) <= {1, 2, 3}
    assert len(spent_rounds(c)) == len(set(spent_rounds(c)))
    assert trio.rejections() == [("c", "site-error")]
    verify_log(trio.config.log_folder)


def test_a_reply_that_was_kept_and_never_sent_is_sent_by_the_next_agent(
    trio: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    import client.link
    from privacy.errors import TransportError

    c = trio.sites["c"]
    honest = client.link.Link.push
    failures: list[bytes] = []

    def push(link: client.link.Link, reply: object) -> int:
        content: RecordDict | None = getattr(reply, "_content", None)
        name = "" if content is None else str(content.config_records["reply"]["site"])
        if name == "c" and not failures:
            assert content is not None
            failures.append(bytes(content.config_records["reply"]["signature"]))  # type: ignore[arg-type]
            raise TransportError("the line broke")
        return honest(link, reply)  # type: ignore[arg-type]

    monkeypatch.setattr(client.link.Link, "push", push)
    plan = quiet_plan("kept", rounds=rounds(1, min_sites=3))
    run = trio.run(plan)
    assert [result.num_updates for result in run.rounds] == [3]
    np.testing.assert_allclose(trio.moved(plan), [2.0] * NUM_TRAINED)
    kept = c.kept(plan)
    assert kept is not None
    assert failures[0] in kept
    # One call to train and one to evaluate.
    assert c.trainer.num_calls == 2
    assert spent_rounds(c) == [1]
    assert c.entries().count(Event.BUDGET_COMMITTED) == 1
    verify_log(trio.config.log_folder)


def test_the_coordinators_crash_after_an_accepted_update_adds_it_once(
    trio: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    import server.coordinator

    c = trio.sites["c"]
    released = server.coordinator._Rounds.released

    class Crash(BaseException):
        """Like kill -9 for the thread of the run."""

    def crash(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(server.coordinator._Rounds, "released", crash)
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    plan = quiet_plan("crash", rounds=rounds(2, min_sites=3))
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    thread = trio._thread
    assert thread is not None
    thread.join(30)
    assert not thread.is_alive()
    accepted = [event for _, event in trio.events()].count(Event.UPDATE_ACCEPTED)
    assert accepted == 3
    monkeypatch.setattr(server.coordinator._Rounds, "released", released)
    trio.coordinator = None
    trio.start()
    assert trio.wait(plan) == "finished"
    np.testing.assert_allclose(trio.moved(plan), [4.0] * NUM_TRAINED)
    events = [event for _, event in trio.events()]
    assert events.count(Event.UPDATE_ACCEPTED) == 6
    assert c.trainer.num_calls == 3
    assert spent_rounds(c) == [1, 2]
    verify_log(trio.config.log_folder)


def failing(error: Exception, in_rounds: set[int]) -> Callable[[int], None]:
    """A training process that fails in some rounds."""

    def before(server_round: int) -> None:
        if server_round in in_rounds:
            raise error

    return before


def test_a_round_under_its_quorum_changes_nothing_and_the_next_goes_on(
    shared: Federation,
) -> None:
    for name in "bc":
        trainer = shared.sites[name].trainer
        trainer.before = failing(WorkerTimeoutError("too long"), {1})
    plan = quiet_plan("under quorum", rounds=rounds(2))
    run = shared.run(plan)
    assert [(r.adapter is None, r.num_updates) for r in run.rounds] == [(True, 1), (False, 3)]
    np.testing.assert_allclose(shared.moved(plan), [2.0] * NUM_TRAINED)
    verify_log(shared.config.log_folder)


def test_a_site_that_times_out_is_left_out(shared: Federation) -> None:
    shared.sites["c"].trainer.before = failing(WorkerTimeoutError("too long"), {1, 2})
    plan = quiet_plan("time out", rounds=rounds(2))
    run = shared.run(plan)
    assert [r.num_updates for r in run.rounds] == [2, 2]
    np.testing.assert_allclose(shared.moved(plan), [3.0] * NUM_TRAINED)
    assert shared.sites["c"].rules()[-2:] == ["deadline", "deadline"]


def test_a_site_that_is_silent_until_the_deadline_is_left_out(shared: Federation) -> None:
    c = shared.sites["c"]
    late = threading.Event()

    def before(_server_round: int) -> None:
        late.wait(10)

    c.trainer.before = before
    plan = quiet_plan("silent", rounds=rounds(1, deadline_s=2.0))
    run = shared.run(plan)
    assert [r.num_updates for r in run.rounds] == [2]
    late.set()
    np.testing.assert_allclose(shared.moved(plan), [1.5] * NUM_TRAINED)


def test_a_site_that_is_revoked_in_a_round_is_not_added_and_the_log_verifies(
    trio: Federation,
) -> None:
    c = trio.sites["c"]
    c.trainer.before = c.trainer.hang
    plan = quiet_plan("revoked", rounds=rounds(2, deadline_s=8.0))
    trio.offer(plan, wait_s=30.0)
    for site in trio.sites.values():
        site.decide(plan)
    assert c.trainer.is_busy.wait(20)
    assert trio.coordinator is not None
    trio.coordinator.roster.revoke("c", at=datetime.now(UTC))
    control(trio.config, "Revoked", site="c")
    c.trainer.stopped.set()
    assert trio.wait(plan) == "finished"
    np.testing.assert_allclose(trio.moved(plan), [3.0] * NUM_TRAINED)
    verify_log(trio.config.log_folder)


def test_no_update_is_left_on_disk_and_the_state_is_the_owners_alone(shared: Federation) -> None:
    marks = {"a": 1.234567, "b": 2.345678, "c": 3.456789}
    for name, value in marks.items():
        shared.sites[name].trainer.value = value
    plan = quiet_plan("on disk", rounds=rounds(2))
    assert shared.run(plan).state == "finished"
    for number, name in enumerate("abc"):
        shared.sites[name].trainer.value = float(number + 1)
    seen = 0
    for path in shared.config.state_folder.iterdir():
        if path.name.startswith("flower.sqlite"):
            seen += 1
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert seen >= 1
    for path in shared.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for value in marks.values():
                assert np.float32(value).tobytes() * 2 not in content, path


def test_a_plan_whose_noise_does_not_keep_its_promise_is_never_offered(
    shared: Federation,
) -> None:
    from privacy.errors import ConfigError

    plan = quiet_plan("false promise")
    false = replace(
        plan, mechanism=replace(plan.mechanism, target_epsilon=0.001, noise_multiplier=0.5)
    )
    with pytest.raises(ConfigError, match="expected epsilon"):
        shared.offer(false)
    verify_log(shared.config.log_folder)


def test_a_failed_attempt_is_final_and_stays_spent(shared: Federation) -> None:
    c = shared.sites["c"]
    c.trainer.before = failing(WorkerTimeoutError("too long"), {1})
    plan = quiet_plan("final", rounds=rounds(1))
    assert [r.num_updates for r in shared.run(plan).rounds] == [2]
    c.trainer.before = failing(WorkerTimeoutError("too long"), set())
    # What the coordinator was told once may depend on the noise: asked again, the site must not
    # draw anew under the same reservation.
    ledger = c.home.ledger()
    assert ledger.is_committed(plan.digest, plan.run_id, 1)
    with pytest.raises(InstructionRefusedError, match="has its update already"):
        ledger.reserve(plan, plan.run_id, 1)


def test_an_agent_does_not_start_without_the_ledger_that_its_journal_remembers(
    trio: Federation,
) -> None:
    plan = quiet_plan("lost ledger", rounds=rounds(1))
    trio.run(plan)
    site = trio.sites["c"]
    site.stop()
    shutil.rmtree(site.home.ledger_folder)
    agent = Agent(site.home, lambda news: None, site.trainer)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="this site has spent it"):
        agent.run()
