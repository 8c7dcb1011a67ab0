"""The coordinator's memory of its runs."""

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.errors import ConfigError
from server.runs import RoundResult, RunState, RunStore
from tests.federation.world import quiet_plan

PLAN = quiet_plan("runs")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "runs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[RunStore]:
    opened = RunStore(path)
    yield opened
    opened.close()


def ended(server_round: int, adapter: str | None) -> RoundResult:
    return RoundResult(server_round=server_round, adapter=adapter, num_updates=2, seconds=1.5)


def test_the_file_is_its_owners_alone(store: RunStore, path: Path) -> None:
    store.offer(PLAN)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_run_is_remembered_over_a_restart(store: RunStore, path: Path) -> None:
    store.offer(PLAN)
    store.decide(PLAN.digest, "a", approved=True)
    store.decide(PLAN.digest, "b", approved=False)
    store.begin(PLAN.digest, 2**64 - 1)
    store.end_round(PLAN.digest, ended(1, "sha256:" + "1" * 64))
    store.close()
    again = RunStore(path)
    run = again.get(PLAN.digest)
    assert run.plan == PLAN
    assert (run.state, run.flower_run_id) == (RunState.RUNNING, 2**64 - 1)
    assert (run.approved, run.refused) == (("a",), ("b",))
    assert run.rounds == (ended(1, "sha256:" + "1" * 64),)
    assert again.list() == (run,)
    again.close()


def test_the_newest_decision_counts(store: RunStore) -> None:
    store.offer(PLAN)
    store.decide(PLAN.digest, "a", approved=True)
    store.decide(PLAN.digest, "a", approved=False)
    assert store.get(PLAN.digest).approved == ()


def test_a_name_means_one_plan(store: RunStore) -> None:
    store.offer(PLAN)
    store.offer(PLAN)
    assert store.knows(PLAN)
    other = replace(PLAN, rounds=replace(PLAN.rounds, num_rounds=9))
    with pytest.raises(ConfigError, match="exists with another plan"):
        store.offer(other)
    assert len(store.list()) == 1


def test_a_run_that_was_stopped_does_not_begin(store: RunStore) -> None:
    store.offer(PLAN)
    store.end(PLAN.digest, RunState.STOPPED, "by hand")
    store.begin(PLAN.digest, 1)
    run = store.get(PLAN.digest)
    assert (run.state, run.reason) == (RunState.STOPPED, "by hand")


def test_a_failed_round_leaves_the_adapter_as_it_was(store: RunStore) -> None:
    store.offer(PLAN)
    assert store.get(PLAN.digest).adapter == PLAN.initial_adapter
    store.end_round(PLAN.digest, ended(1, "sha256:" + "1" * 64))
    store.end_round(PLAN.digest, ended(2, None))
    assert store.get(PLAN.digest).adapter == "sha256:" + "1" * 64


def test_an_unknown_plan_is_an_error(store: RunStore) -> None:
    with pytest.raises(ConfigError, match="expected the digest of an offered plan"):
        store.get(PLAN.digest)


def test_a_damaged_file_is_named(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match=r"runs\.sqlite"):
        RunStore(path)
