"""Tracers at a site: pinned before training, looked for with the same key, told for nothing."""

import io
import json
import stat
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from client.agent import Agent
from client.disclosure import AdapterTest
from client.exposed import KIND, ExposureTest
from client.journal import Journal
from client.link import Link
from client.outcome import OutcomeError
from client.tracers import digest, make_tracers
from privacy.audit.entry import Event
from privacy.audit.verify import verify_log
from privacy.dp import exposure
from privacy.errors import (
    ConfigError,
    FederationError,
    ReplyRefusedError,
    TrainingError,
    TransportError,
)
from privacy.plan import ExposureConfig, RoundsConfig, RunPlan
from server.coordinator import Coordinator
from tests.federation.after_run import (
    RANKS,
    Cut,
    Ranker,
    cut,
    federation_of,
    refusing,
    release_ranks,
    running,
    told,
)
from tests.federation.world import DEADLINE_S, PATIENCE_S, Federation, Site, quiet_plan
from tests.privacy.evidence import runs_on

# Where a release is cut off: what is not done any more, and how far it was.
CUTS: dict[str, tuple[type, str]] = {
    "before the secrets are ranked": (Ranker, "call"),
    "ranked, kept nowhere": (Journal, "put"),
    "kept, not said": (Journal, "record"),
    "all but told": (Journal, "mark_sent"),
}


def traced_plan(
    name: str = "", num_rounds: int = 1, min_sites: int = 2, deadline_s: float = DEADLINE_S
) -> RunPlan:
    rounds = RoundsConfig(num_rounds=num_rounds, min_sites=min_sites, deadline_s=deadline_s)
    return quiet_plan(f"traced {name}", "ab", exposure=ExposureConfig(tracers=3), rounds=rounds)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation after one run with tracers and one without, with its agents stopped."""
    with federation_of(tmp_path_factory.mktemp("traced"), "ab") as made:
        for name in ("", *CUTS):
            assert made.run(traced_plan(name)).state == "finished"
        assert made.run(quiet_plan("plain", "ab")).state == "finished"
        for site in made.sites.values():
            site.stop()
        yield made


# -- in training ---------------------------------------------------------------------------------


def test_each_site_pins_its_own_tracers_before_it_spends_anything(world: Federation) -> None:
    pinned = set()
    for name, site in world.sites.items():
        (added,) = told(site, Event.TRACERS_ADDED, traced_plan())
        (reserved,) = told(site, Event.BUDGET_RESERVED, traced_plan())
        assert added.sequence < reserved.sequence
        assert added.predicate["num_tracers"] == 3
        path = site.home.exposure_key_path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        tracers = make_tracers(path.read_bytes(), traced_plan(), name)
        assert added.subjects["tracers"] == digest(tracers)
        pinned.add(added.subjects["tracers"])
    assert len(pinned) == 2
    verify_log(world.config.log_folder)


def test_a_run_without_tracers_pins_none(site: Site) -> None:
    assert told(site, Event.TRACERS_ADDED, quiet_plan("plain", "ab")) == []


def test_a_site_that_restarts_goes_on_with_the_same_tracers(site: Site) -> None:
    key = site.home.exposure_key_path.read_bytes()
    agent = Agent(site.home, lambda _: None, site.trainer)  # type: ignore[arg-type]
    agent._add_tracers(traced_plan())
    assert site.home.exposure_key_path.read_bytes() == key
    assert len(told(site, Event.TRACERS_ADDED, traced_plan())) == 1


@pytest.mark.parametrize("what", ["lost", "another"])
def test_a_key_that_is_no_longer_the_same_trains_nothing(site: Site, what: str) -> None:
    """With another one a later look would find nothing, and every adapter would look safe."""
    path = site.home.exposure_key_path
    key = path.read_bytes()
    spent = site.home.ledger().entries()
    try:
        if what == "lost":
            path.unlink()
        else:
            path.write_bytes(bytes(32))
        agent = Agent(site.home, lambda _: None, site.trainer)  # type: ignore[arg-type]
        with pytest.raises(ReplyRefusedError) as refused:
            agent._add_tracers(traced_plan())
        assert refused.value.rule == "tracers-changed"
        # A lost one is never made anew behind the first round.
        assert path.exists() == (what == "another")
    finally:
        path.write_bytes(key)
    assert site.home.ledger().entries() == spent
    assert len(told(site, Event.TRACERS_ADDED, traced_plan())) == 1


def test_a_round_with_another_key_is_answered_with_the_rule_and_spends_nothing(
    world: Federation,
) -> None:
    site, plan = world.sites["b"], traced_plan("twice", num_rounds=2)
    path = site.home.exposure_key_path
    key = path.read_bytes()

    def change(server_round: int) -> None:
        if server_round == 1:
            path.write_bytes(bytes(32))

    site.trainer.before = change
    try:
        with running(world):
            world.run(plan)
    finally:
        path.write_bytes(key)
    assert site.rules()[-1] == "tracers-changed"
    assert [e.predicate["server_round"] for e in told(site, Event.BUDGET_RESERVED, plan)] == [1]
    verify_log(world.config.log_folder)


def test_the_training_process_gets_the_key_only_where_the_plan_has_tracers(site: Site) -> None:
    agent = Agent(site.home, lambda _: None, site.trainer)  # type: ignore[arg-type]
    key = site.home.exposure_key_path.read_bytes()
    assert agent._exposure_key(traced_plan()) == {"exposure_key": key.hex()}
    assert agent._exposure_key(quiet_plan("plain", "ab")) == {}


# -- when they are looked for --------------------------------------------------------------------


def test_what_is_measured_at_home_stays_there_and_costs_nothing(
    site: Site, ranker: Ranker
) -> None:
    spent, entries = site.home.ledger().entries(), site.entries()
    with (
        AdapterTest(site.home, traced_plan().digest) as test,
        ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
    ):
        assert traced.num_tracers == 3
        assert traced.measure(lambda _: None) == RANKS
    path = site.home.exposure_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = json.loads(path.read_text())
    assert kept["ranks"] == RANKS
    assert kept["p_value"] == exposure.summarise(RANKS).p_value
    assert kept["adapter"] == told(site, Event.EVALUATED, traced_plan())[0].subjects["adapter"]
    assert site.home.ledger().entries() == spent
    assert site.entries() == entries
    # The room gets no key that has a part in records.
    assert set(ranker.headers[0]) == {
        "site_config", "site_config_digest", "plan", "exposure_key",
    }  # fmt: skip


@pytest.mark.parametrize("point", CUTS)
def test_a_release_that_was_cut_off_goes_on_and_says_the_same_ranks_once(
    world: Federation,
    site: Site,
    ranker: Ranker,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    plan, spent = traced_plan(point), site.home.ledger().entries()
    with monkeypatch.context() as patched:
        patched.setattr(*CUTS[point], cut)
        with pytest.raises(Cut):
            release_ranks(site, ranker, plan)
    calls = len(ranker.headers)
    assert release_ranks(site, ranker, plan) == RANKS
    if point in ("kept, not said", "all but told"):
        assert len(ranker.headers) == calls
    # Whatever a second look would give: the ranks that were kept are the ranks.
    ranker.answer = {"ranks": [1, 1, 1]}
    assert release_ranks(site, ranker, plan) == RANKS
    (entry,) = told(site, Event.EXPOSURE_MEASURED, plan)
    assert entry.predicate["ranks"] == RANKS
    (added,) = told(site, Event.TRACERS_ADDED, plan)
    assert entry.subjects["tracers"] == added.subjects["tracers"]
    assert site.home.ledger().entries() == spent
    verify_log(world.config.log_folder)
    journal = site.home.journal()
    (sent,) = [s for s in journal.sent() if (s.kind, s.plan_digest) == (KIND, plan.digest)]
    journal.close()
    assert sent.sent_at is not None


def test_without_the_coordinator_nothing_is_looked_for(
    site: Site, ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TransportError("gone")

    journal = site.home.journal()
    journal.record(Event.AGENT_STARTED, **runs_on("0"))
    journal.close()
    with monkeypatch.context() as patched:
        patched.setattr(Link, "append", refuse)
        with pytest.raises(TransportError):
            release_ranks(site, ranker, traced_plan())
    assert ranker.headers == []
    release_ranks(site, ranker, traced_plan())


def test_another_key_than_in_the_run_looks_for_nothing(site: Site, ranker: Ranker) -> None:
    path = site.home.exposure_key_path
    key = path.read_bytes()
    try:
        for content, message in ((bytes(32), "as it was in the run"), (b"short", "got 5")):
            path.write_bytes(content)
            with (
                AdapterTest(site.home, traced_plan().digest) as test,
                ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
                pytest.raises(ConfigError, match=message),
            ):
                traced.measure(lambda _: None)
    finally:
        path.write_bytes(key)
    assert ranker.headers == []


@pytest.mark.parametrize(
    "answer",
    [
        {"ranks": [1, 2]},
        {"ranks": [0, 1, 2]},
        {"ranks": [1, 2, 1025]},
        {"ranks": "Mr Smith"},
        {"note": "Mr Smith"},
        ["Mr Smith"],
    ],
)
def test_what_are_no_ranks_is_neither_kept_nor_repeated(
    site: Site, ranker: Ranker, answer: object
) -> None:
    ranker.answer = answer
    site.home.exposure_path.unlink(missing_ok=True)
    with (
        AdapterTest(site.home, traced_plan().digest) as test,
        ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
        pytest.raises(FederationError, match="ranks") as caught,
    ):
        traced.measure(lambda _: None)
    assert "Smith" not in str(caught.value)
    assert not site.home.exposure_path.exists()


# -- the command -------------------------------------------------------------------------------


def test_the_command_shows_exposure_beside_membership(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(traced_plan()) == 0
    said = capsys.readouterr()
    assert "400 members, 100 others" in said.out
    assert "exposure of 3 tracers' secrets among 1,024 each (here, exposure.json)" in said.out
    found = exposure.summarise(RANKS)
    assert f"mean {found.mean:.2f} bits, largest 9.00 of 10, p-value" in said.out
    assert "epsilon allows 4.3" in said.out
    assert "About 1.4 bits on average are chance" in said.err


def test_a_run_without_tracers_is_not_measured_and_the_command_says_so(
    command: Callable[..., int], ranker: Ranker, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = quiet_plan("plain", "ab")
    assert command(plain, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["exposure"] is None
    assert "this run's plan has no tracers" in said.err
    assert command(plain, "--exposure-only") != 0
    assert "this run's plan has no tracers" in capsys.readouterr().err
    assert ranker.headers == []


def test_a_run_in_which_this_site_sent_nothing_is_not_measured_for_another_reason(
    world: Federation,
    site: Site,
    command: Callable[..., int],
    ranker: Ranker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = traced_plan("unsent", min_sites=1)

    def fail(_: int) -> None:
        site.trainer.before = lambda _: None
        raise TrainingError("no room")

    site.trainer.before = fail
    with running(world):
        world.run(plan)
    assert len(told(site, Event.TRACERS_ADDED, plan)) == 1
    assert told(site, Event.UPDATE_SENT, plan) == []
    for words in (["--exposure-only"], ["--exposure-only", "--release", "--yes"]):
        assert command(plan, *words) != 0
        said = capsys.readouterr().err
        assert "this site sent no update in the run" in said
        assert "has no tracers" not in said
    assert ranker.headers == []


def test_exposure_is_released_where_no_budget_is_left(
    site: Site, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    spent = site.home.ledger().entries()
    known = len(told(site, Event.EXPOSURE_MEASURED, traced_plan()))
    assert command(traced_plan(), "--release", "--exposure-only") != 0
    assert "nothing released" in capsys.readouterr().err
    assert len(told(site, Event.EXPOSURE_MEASURED, traced_plan())) == known
    assert command(traced_plan(), "--release", "--exposure-only", "--yes", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"exposure"}
    assert shown["exposure"]["ranks"] == RANKS
    # Beside noised counts that no budget pays for it is told too.
    assert command(traced_plan(), "--release", "--yes", "--epsilon", "50") != 0
    said = capsys.readouterr()
    assert "exposure of 3 tracers' secrets among 1,024 each (released, as they are)" in said.out
    assert "budget" in said.err
    assert site.home.ledger().entries() == spent
    (entry,) = told(site, Event.EXPOSURE_MEASURED, traced_plan())
    assert entry.predicate["ranks"] == RANKS


def test_a_release_of_both_tells_both(
    world: Federation, site: Site, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(traced_plan(), "--release", "--yes", "--epsilon", "0.5", "--json") == 0
    said = capsys.readouterr()
    shown = json.loads(said.out)
    assert shown["exposure"]["ranks"] == RANKS
    assert shown["counts"]
    assert "the ranks of 3 tracers' secrets, which cost nothing" in said.err
    assert len(told(site, Event.ADAPTER_TESTED, traced_plan())) == 1
    assert len(told(site, Event.EXPOSURE_MEASURED, traced_plan())) == 1
    verify_log(world.config.log_folder)


@pytest.mark.parametrize(
    ("plan", "words", "question"),
    [
        (
            traced_plan(),
            ["--epsilon", "0.5"],
            "Spend this budget and put noised counts and ranks into the log? [yes/no]",
        ),
        (traced_plan(), ["--exposure-only"], "Put these ranks into the log? They cost nothing."),
        (
            quiet_plan("plain", "ab"),
            ["--epsilon", "0.5"],
            "Spend this budget and put noised counts into the log? [yes/no]",
        ),
    ],
    ids=["both", "ranks", "counts"],
)
@pytest.mark.parametrize("answer", ["no", "yes"])
def test_a_person_is_asked_for_all_that_would_leave(
    site: Site,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    plan: RunPlan,
    words: list[str],
    question: str,
    answer: str,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    spent = site.home.ledger().entries()
    assert (command(plan, "--release", *words) == 0) == (answer == "yes")
    said = capsys.readouterr().err
    assert said.count("[yes/no]") == 1
    assert f"\n{question}" in said
    assert ("nothing released" in said) == (answer == "no")
    paid = answer == "yes" and "Spend" in question
    assert (site.home.ledger().entries() != spent) == paid


# -- what the log would refuse is not signed -----------------------------------------------------


@pytest.fixture(scope="module")
def refused(world: Federation) -> RunPlan:
    """A run whose adapter is without site a: the coordinator refused its only update."""
    plan = traced_plan("refused", min_sites=1)
    with running(world), refusing(("a", 1)):
        assert world.run(plan).state == "finished"
    return plan


@pytest.fixture(scope="module")
def late(world: Federation) -> RunPlan:
    """A run whose adapter is without site a, which answered after the deadline."""
    plan = traced_plan("late", min_sites=1, deadline_s=4.0)

    def wait(_: int) -> None:
        while not any(
            entry.event is Event.ADAPTER_RELEASED and entry.subjects["plan"] == plan.digest
            for entry in world.log()
        ):
            # The log has no call that waits; the run goes on meanwhile in other threads.
            time.sleep(0.05)

    world.sites["a"].trainer.before = wait
    with running(world):
        assert world.run(plan).state == "finished"
    return plan


@pytest.mark.parametrize("run", ["refused", "late"])
def test_ranks_of_a_site_that_is_in_no_adapter_are_refused_before_anything_is_signed(
    world: Federation, site: Site, ranker: Ranker, request: pytest.FixtureRequest, run: str
) -> None:
    plan: RunPlan = request.getfixturevalue(run)
    assert len(told(site, Event.UPDATE_SENT, plan)) == 1
    entries = site.entries()
    with pytest.raises(OutcomeError, match="nobody trained on its tracers"):
        release_ranks(site, ranker, plan)
    assert site.entries() == entries
    assert ranker.headers == []
    journal = site.home.journal()
    assert journal.get(plan.digest, KIND, 1) is None
    assert journal.refused() is None
    journal.close()
    # The site takes part as before: no entry of its holds back the others.
    with running(world):
        assert world.run(traced_plan(f"next {run}")).state == "finished"
    assert release_ranks(site, ranker, traced_plan(f"next {run}")) == RANKS
    verify_log(world.config.log_folder)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("refused", "it is not known here whether an update of this site is in this adapter"),
        ("late", "the coordinator took no update of this site in time"),
    ],
)
def test_what_is_ranked_at_home_says_that_nobody_here_knows_whether_it_was_trained_on(
    site: Site,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    run: str,
    message: str,
) -> None:
    plan: RunPlan = request.getfixturevalue(run)
    assert command(plan, "--exposure-only", "--json") == 0
    said = capsys.readouterr()
    assert message in said.err
    assert json.loads(said.out)["exposure"]["update_added"] is None
    assert json.loads(site.home.exposure_path.read_text())["update_added"] is None
    assert command(plan) == 0
    members = "the adapter was not trained on these records"
    assert (members in capsys.readouterr().err) == (run == "late")


def test_what_was_released_is_known_to_be_trained_on(
    site: Site, ranker: Ranker, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    release_ranks(site, ranker, traced_plan())
    assert command(traced_plan(), "--exposure-only", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["exposure"]["update_added"] is True
    assert "nobody trained" not in said.err
    assert "not trained on" not in said.err


def test_where_ranks_would_be_refused_the_counts_go_alone(
    world: Federation,
    site: Site,
    refused: RunPlan,
    command: Callable[..., int],
    ranker: Ranker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(refused, "--release", "--exposure-only", "--yes") != 0
    assert "error: expected an update of this site in an adapter" in capsys.readouterr().err
    assert command(refused, "--release", "--yes", "--epsilon", "0.5", "--json") == 0
    said = capsys.readouterr()
    shown = json.loads(said.out)
    assert shown["exposure"] is None
    assert shown["counts"]
    assert "exposure    is not released: expected an update of this site" in said.err
    # Attacks with records fail there just so.
    assert "no update of this site is in this adapter" in said.err
    assert len(told(site, Event.ADAPTER_TESTED, refused)) == 1
    assert told(site, Event.EXPOSURE_MEASURED, refused) == []
    assert ranker.headers == []
    verify_log(world.config.log_folder)


def test_ranks_wait_for_the_end_of_a_run_whose_last_round_failed(
    world: Federation, site: Site, ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, held, go = traced_plan("failed", num_rounds=2), threading.Event(), threading.Event()
    end = Coordinator._end

    def wait(coordinator: Coordinator, *args: object) -> None:
        held.set()
        assert go.wait(PATIENCE_S)
        end(coordinator, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Coordinator, "_end", wait)
    with running(world), refusing(("a", 2), ("b", 2)):
        try:
            world.offer(plan, wait_s=30.0)
            for other in world.sites.values():
                other.decide(plan)
            assert held.wait(PATIENCE_S)
            assert len(told(site, Event.EVALUATED, plan)) == 1
            entries = site.entries()
            with pytest.raises(OutcomeError, match="newest adapter is of round 1 of 2"):
                release_ranks(site, ranker, plan)
            assert site.entries() == entries
        finally:
            go.set()
        world.wait(plan)
    assert release_ranks(site, ranker, plan) == RANKS
    verify_log(world.config.log_folder)


def test_a_site_is_told_only_of_runs_that_it_takes_part_in(world: Federation, site: Site) -> None:
    alone = RoundsConfig(num_rounds=1, min_sites=1, deadline_s=DEADLINE_S)
    plan = quiet_plan("without a", "b", rounds=alone)
    world.offer(plan)
    link = site.link()
    try:
        for digest_, message in (
            (plan.digest, "expected a plan in which a takes part"),
            ("sha256:" + "0" * 64, "expected the digest of an offered plan"),
            ("Mr Smith", "malformed"),
        ):
            with pytest.raises(ConfigError, match=message):
                link.outcome(digest_)
        found = link.outcome(traced_plan().digest)
    finally:
        link.close()
    assert (found.server_round, found.is_finished, found.num_added) == (1, True, 1)
    assert found.adapter == told(site, Event.EVALUATED, traced_plan())[0].subjects["adapter"]
