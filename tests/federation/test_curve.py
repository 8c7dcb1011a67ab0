"""What a site measures of the rounds' adapters stays there, and costs no round anything."""

import json
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from client.worker import WorkerDiedError, WorkerFailedError, WorkerTimeoutError
from model.tensors import packed_digest
from privacy.audit.entry import Event
from privacy.plan import RoundsConfig, RunPlan
from tests.federation.world import (
    DEADLINE_S,
    INITIAL,
    PATIENCE_S,
    SPECS,
    Federation,
    Site,
    quiet_plan,
)

# What one round takes at a site that must tell it from its limit.
SLOW_S = 0.5
# Of figures that nothing else in the world has.
LOSS, ACCURACY, NUM_EXAMPLES = 6.271828459, 0.314159265, 31337271


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Sites a, b and c; they measure every round."""
    with Federation(tmp_path_factory.mktemp("measuring")).serving() as made:
        for number, name in enumerate("abc"):
            site = made.enrol(name, float(number + 1))
            settings = site.home.config_path
            settings.write_text(settings.read_text().replace("\nevery = 2\n", "\nevery = 1\n"))
            site.start()
        yield made


@pytest.fixture
def three(request: pytest.FixtureRequest) -> RunPlan:
    """A plan of three rounds that costs little."""
    return quiet_plan(
        request.node.name, rounds=RoundsConfig(num_rounds=3, min_sites=2, deadline_s=DEADLINE_S)
    )


def doubled(figure: float) -> bytes:
    """A figure as it would stand in a tensor or in a protobuf message."""
    return struct.pack("<d", figure)


def results(site: Site) -> dict[str, Any]:
    """What lies in the site's folder."""
    found: dict[str, Any] = json.loads(site.home.results_path.read_text())
    return found


def measured(site: Site) -> list[int]:
    """The rounds of which there is a point."""
    return [point["server_round"] for point in results(site)["rounds"]]


def test_each_round_is_measured_once_at_each_site_and_nothing_of_it_leaves(
    measuring: Federation, three: RunPlan
) -> None:
    asked: dict[str, list[int]] = {}
    for site in measuring.sites.values():

        def figures(server_round: int, name: str = site.name) -> Mapping[str, object]:
            asked.setdefault(name, []).append(server_round)
            return {"loss": LOSS, "accuracy": ACCURACY, "num_examples": NUM_EXAMPLES}

        site.trainer.measure = figures
    run = measuring.run(three)
    assert run.state == "finished"
    digests = [packed_digest(SPECS, INITIAL), *(r.adapter for r in run.rounds)]
    for site in measuring.sites.values():
        assert asked[site.name] == [1, 2, 3, 4]
        assert measured(site) == [0, 1, 2, 3]
        assert results(site)["every"] == 1
        assert [point["adapter"] for point in results(site)["rounds"]] == digests
        for point in results(site)["rounds"][:3]:
            assert (point["loss"], point["accuracy"]) == (LOSS, ACCURACY)
            assert point["num_examples"] == NUM_EXAMPLES
        status = json.loads(site.home.status_path.read_text())
        assert status["measured_round"] == 3
    # The first digits are in a rounded one too.
    written = [repr(LOSS)[:6].encode(), repr(ACCURACY)[:6].encode(), repr(NUM_EXAMPLES).encode()]
    forms = [*written, doubled(LOSS), doubled(ACCURACY), doubled(NUM_EXAMPLES)]
    at_home = measuring.sites["a"].home.results_path.read_bytes()
    assert all(digits in at_home for digits in written)
    held = {path: path.read_bytes() for path in measuring.home.rglob("*") if path.is_file()}
    # What stands in an entry is in base64 there.
    held |= {Path(f"entry {n}"): entry.signed for n, entry in enumerate(measuring.log())}
    assert [path for path, content in held.items() if any(f in content for f in forms)] == []


def test_a_round_is_answered_before_it_is_measured(measuring: Federation, three: RunPlan) -> None:
    (site, *_) = measuring.sites.values()
    sent: list[bool] = []

    def figures(server_round: int) -> Mapping[str, object]:
        journal = site.home.journal()
        sent.extend(
            s.sent_at is not None
            for s in journal.sent()
            if (s.plan_digest, s.server_round) == (three.digest, server_round)
        )
        journal.close()
        return {"loss": 1.0, "accuracy": 0.5, "num_examples": 3}

    site.trainer.measure = figures
    measuring.run(three)
    assert sent == [True, True, True]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"loss": float("nan"), "accuracy": 0.5, "num_examples": 3},
        {"loss": 1.0, "accuracy": 60, "num_examples": 3},
        {"loss": 1.0, "accuracy": 0.5, "num_examples": 0},
        "Ada Marks",
        WorkerFailedError("RuntimeError", "client.evaluate:1"),
        WorkerDiedError(-9),
        WorkerTimeoutError("too slow"),
    ],
)
def test_a_measurement_that_fails_costs_a_point_and_no_round(
    measuring: Federation, wrong: object
) -> None:
    name = f"{wrong!r}"
    plan = quiet_plan(name, rounds=RoundsConfig(num_rounds=2, min_sites=2, deadline_s=DEADLINE_S))
    bad, good = measuring.sites["a"], measuring.sites["b"]

    def fail(server_round: int) -> object:
        if not isinstance(wrong, Exception):
            return wrong
        if server_round > plan.rounds.num_rounds:
            return None
        raise wrong

    before = len(bad.trainer.measured)
    bad.trainer.measure = fail
    run = measuring.run(plan)
    assert run.state == "finished"
    assert [r.num_updates for r in run.rounds] == [3, 3]
    # Not tried again: a child that died for it would mask all records anew, each time.
    assert bad.trainer.measured[before:] == [1]
    # The last point comes with what is measured in the end, and may not cost that either.
    assert measured(bad) == []
    assert bad.entries().count(Event.EVALUATED) == good.entries().count(Event.EVALUATED)
    assert measured(good) == [0, 1, 2]
    refused = (Event.REPLY_REFUSED, Event.INSTRUCTION_REFUSED)
    assert not [e for e in bad.entries() if e in refused]
    assert "Ada Marks" not in json.dumps(bad.news, default=str)


def test_an_agent_that_is_stopped_in_a_measurement_lacks_a_point_and_doubles_none(
    measuring: Federation, three: RunPlan
) -> None:
    site = measuring.sites["a"]

    def hang(server_round: int) -> object:
        if server_round == 2:
            site.trainer.hang(server_round)
        return {"loss": 1.0, "accuracy": 0.5, "num_examples": 3}

    site.trainer.measure = hang
    measuring.offer(three, wait_s=30.0)
    for other in measuring.sites.values():
        other.decide(three)
    assert site.trainer.is_busy.wait(PATIENCE_S)
    site.stop()
    site.trainer.be_honest()
    site.start()
    assert measuring.wait(three) == "finished"
    # Round 2 too, where it was back before round 3 was over.
    assert measured(site) in ([0, 2, 3], [0, 3])
    assert measured(measuring.sites["b"]) == [0, 1, 2, 3]


def test_a_measurement_has_half_of_what_a_round_left_and_no_less_than_nothing(
    measuring: Federation, three: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = measuring.sites["c"]
    given: list[float] = []
    call = site.trainer.call

    def watched(request: bytes, *, timeout_s: float, **more: Any) -> bytes:  # noqa: ANN401
        given.append(timeout_s)
        return call(request, timeout_s=timeout_s, **more)

    def slow(server_round: int) -> None:
        time.sleep(SLOW_S)
        if server_round == 2:
            # As if the deadline were past: there is nothing left to measure in.
            monkeypatch.setattr(site.agent, "_limit_s", lambda _: 0.4)

    site.trainer.before = slow
    monkeypatch.setattr(site.trainer, "call", watched)
    before = len(site.trainer.measured)
    assert measuring.run(three).state == "finished"
    train, measure, *_ = given
    assert train == DEADLINE_S
    # The next round waits for it.
    assert 0 < measure <= (DEADLINE_S - SLOW_S) / 2
    assert site.trainer.measured[before:] == [1]
    assert measured(site) == [0, 3]


def test_a_file_that_the_agent_writes_is_read_by_the_report(
    measuring: Federation, three: RunPlan, tmp_path: Path
) -> None:
    from privacy.compliance.results import read_results

    assert measuring.run(three).state == "finished"
    found = results(measuring.sites["b"])
    handed = tmp_path / "results.json"
    handed.write_text(
        json.dumps(found | {"federated": {"loss": 1.0, "accuracy": 0.5}, "base": None})
    )
    read = read_results(handed)
    assert read.every == 1
    assert [point.server_round for point in read.points] == [0, 1, 2, 3]
    assert read.points[-1].adapter == read.adapter
