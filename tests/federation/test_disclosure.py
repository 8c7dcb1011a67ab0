"""A test of an adapter: exact figures stay, noised counts leave once, behind their budget."""

import json
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from client.agent import Agent
from client.cli import main
from client.disclosure import KIND, AdapterTest
from client.journal import Journal
from client.link import Link
from client.outcome import OutcomeError
from privacy.audit.entry import Event
from privacy.audit.verify import verify_log
from privacy.dp import membership
from privacy.dp.ledger import TEST_RUN, Ledger
from privacy.errors import (
    BudgetExceededError,
    ConfigError,
    FederationError,
    TransportError,
    VerificationError,
)
from privacy.plan import RunPlan
from tests.federation.after_run import (
    SECRET,
    Attacker,
    Cut,
    cut,
    federation_of,
    refusing,
    release_counts,
    running,
    told,
)
from tests.federation.world import Federation, Site, quiet_plan
from tests.privacy.evidence import runs_on


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation after one run, with its agents stopped."""
    with federation_of(tmp_path_factory.mktemp("leak"), "ab") as made:
        assert made.run(plan_of_run()).state == "finished"
        for site in made.sites.values():
            site.stop()
        yield made


def plan_of_run() -> RunPlan:
    return quiet_plan("leak", "ab")


def spent_tests(site: Site) -> list[tuple[int, bool]]:
    """Tests in the site's ledger, and whether each has its figures."""
    entries = site.home.ledger().entries()
    return [
        (entry.server_round, entry.update_digest is not None)
        for entry in entries
        if entry.run_id == TEST_RUN
    ]


def test_exact_figures_stay_in_a_file_that_nobody_else_reads(
    site: Site, attacker: Attacker
) -> None:
    before = site.home.ledger().spent().epsilon
    with AdapterTest(site.home, "", attacker) as test:  # type: ignore[arg-type]
        test.examine(lambda _: None)
    path = site.home.privacy_test_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["num_members"] == 400
    assert site.home.ledger().spent().epsilon == before
    # The room got the adapter of the run, by the digest that the site's own log names.
    (entry,) = told(site, Event.EVALUATED)
    assert test.adapter == entry.subjects["adapter"]
    assert len(attacker.requests) == 1


def test_noised_counts_leave_behind_their_budget_and_the_log_verifies(
    world: Federation, site: Site, attacker: Attacker
) -> None:
    before, known = site.home.ledger().spent().epsilon, len(spent_tests(site))
    counts = release_counts(site, attacker, plan_of_run())
    number = known + 1
    assert spent_tests(site)[-1] == (number, True)
    (reserved,) = [
        e for e in told(site, Event.TEST_RESERVED) if e.predicate["test_number"] == number
    ]
    (tested,) = [
        e for e in told(site, Event.ADAPTER_TESTED) if e.predicate["test_number"] == number
    ]
    assert {name: tuple(tested.predicate[name]) for name in membership.FIELDS} == counts
    assert reserved.predicate["epsilon_test"] <= 0.5
    assert site.home.ledger().spent().epsilon > before
    assert reserved.predicate["epsilon_total"] == pytest.approx(site.home.ledger().spent().epsilon)
    events = [e for party, e in world.events() if party == "a"][-3:]
    assert events == [Event.TEST_RESERVED, Event.TEST_COMMITTED, Event.ADAPTER_TESTED]
    verify_log(world.config.log_folder)
    # Noise in every cell: the exact counts are nowhere in what left.
    assert counts != {name: tuple(cells) for name, cells in attacker.exact.items()}
    assert abs(counts["loss_members"][0] - SECRET) < 1000
    journal = site.home.journal()
    sent = [s for s in journal.sent() if s.kind == KIND]
    journal.close()
    assert sent[-1].sent_at is not None


def test_each_release_is_paid_anew_and_noised_anew(site: Site, attacker: Attacker) -> None:
    first, before = (
        release_counts(site, attacker, plan_of_run()),
        site.home.ledger().spent().epsilon,
    )
    assert release_counts(site, attacker, plan_of_run()) != first
    assert site.home.ledger().spent().epsilon > before


def test_a_test_beyond_the_budget_reads_no_record_and_the_log_says_so(
    world: Federation, site: Site, attacker: Attacker
) -> None:
    known = spent_tests(site)
    with pytest.raises(BudgetExceededError):
        release_counts(site, attacker, plan_of_run(), epsilon=50.0)
    assert spent_tests(site) == known
    assert not attacker.requests
    assert told(site, Event.BUDGET_REFUSED)
    # What was refused is not what goes on the next time.
    release_counts(site, attacker, plan_of_run())
    verify_log(world.config.log_folder)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Journal, "record"),  # reserved in the ledger only
        (Attacker, "call"),  # reserved, before the records are read
        (membership, "release"),  # read, before the noise
        (Journal, "put"),  # noise drawn, kept nowhere
        (AdapterTest, "_settle"),  # kept, not committed
        (Ledger, "commit_test"),  # said to be committed, not committed
        (Journal, "mark_sent"),  # all but told
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_crash_leaves_the_site_poorer_and_the_test_goes_on_for_nothing_more(
    world: Federation,
    site: Site,
    attacker: Attacker,
    monkeypatch: pytest.MonkeyPatch,
    target: object,
    name: str,
) -> None:
    known = len(spent_tests(site))
    with monkeypatch.context() as patched:
        patched.setattr(target, name, cut)
        with pytest.raises(Cut):
            release_counts(site, attacker, plan_of_run(), epsilon=0.3)
    poorer = site.home.ledger().spent().epsilon
    assert len(spent_tests(site)) == known + 1
    # Another epsilon is asked for, but what was begun is finished first, unless all was told.
    if name != "mark_sent":
        release_counts(site, attacker, plan_of_run(), epsilon=2.0)
        assert site.home.ledger().spent().epsilon == poorer
    assert spent_tests(site)[known:] == [(known + 1, True)]
    for event in (Event.TEST_RESERVED, Event.TEST_COMMITTED, Event.ADAPTER_TESTED):
        numbers = [entry.predicate["test_number"] for entry in told(site, event)]
        assert numbers == sorted(set(numbers))
    verify_log(world.config.log_folder)


def test_figures_that_were_kept_leave_as_they_were_and_no_other_noise_is_drawn(
    site: Site, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "commit_test", cut)
        with pytest.raises(Cut):
            release_counts(site, attacker, plan_of_run())
    journal = site.home.journal()
    kept = journal.get(plan_of_run().digest, KIND, len(spent_tests(site)))
    journal.close()
    assert kept is not None
    calls = len(attacker.requests)
    counts = release_counts(site, attacker, plan_of_run())
    assert counts == {name: tuple(cells) for name, cells in json.loads(kept[0]).items()}
    assert len(attacker.requests) == calls


def test_without_the_coordinator_nothing_is_spent(
    site: Site, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TransportError("gone")

    known = spent_tests(site)
    # Something has to be sent first: an entry that the log does not hold yet.
    journal = site.home.journal()
    journal.record(Event.AGENT_STARTED, **runs_on("0"))
    journal.close()
    with monkeypatch.context() as patched:
        patched.setattr(Link, "append", refuse)
        with pytest.raises(TransportError):
            release_counts(site, attacker, plan_of_run())
    assert spent_tests(site) == known


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: {**found, "counts": {}},
        lambda found: {**found, "counts": {**found["counts"], "loss_members": ["x"] * 22}},
        lambda found: {"note": "Mr Smith"},
        lambda found: ["Mr Smith"],
    ],
)
def test_what_is_no_set_of_counts_is_never_noised_nor_repeated(
    site: Site, attacker: Attacker, spoil: Callable[[dict[str, Any]], object]
) -> None:
    attacker.spoil = spoil
    with (
        AdapterTest(site.home, plan_of_run().digest, attacker) as test,  # type: ignore[arg-type]
        pytest.raises(FederationError, match="expected figures of the attacks") as caught,
    ):
        test.examine(lambda _: None)
    assert "Smith" not in str(caught.value)


def test_another_adapter_in_the_folder_is_refused(site: Site, attacker: Attacker) -> None:
    with AdapterTest(site.home, plan_of_run().digest, attacker) as test:  # type: ignore[arg-type]
        path = site.home.adapter_folder(test.adapter) / "adapter_model.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(VerificationError, match="got another one"):
            AdapterTest(site.home, plan_of_run().digest, attacker)  # type: ignore[arg-type]
    finally:
        path.write_bytes(content)


def test_a_run_that_did_not_end_here_is_named(site: Site, attacker: Attacker) -> None:
    with pytest.raises(ConfigError, match=r"expected run 'other'.*there are: t"):
        AdapterTest(site.home, "other", attacker)  # type: ignore[arg-type]


def test_a_ledger_that_lost_a_test_stops_the_agent(
    world: Federation, site: Site, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_counts(site, attacker, plan_of_run())
    entries = [e for e in site.home.ledger().entries() if e.run_id != TEST_RUN]
    monkeypatch.setattr(Ledger, "entries", lambda _: entries)
    agent = Agent(site.home, lambda _: None, site.trainer)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected test 1 of"):
        agent.run()


@pytest.mark.parametrize("what", ["lost", "another population"])
def test_a_ledger_that_the_journal_did_not_spend_from_reserves_no_test(
    site: Site, attacker: Attacker, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ledger = site.home.ledger_folder
    kept, known = ledger.with_name("kept"), spent_tests(site)
    said = len(told(site, Event.TEST_RESERVED))
    if what == "lost":
        ledger.rename(kept)
    else:
        config = site.home.config()
        data = config.data.model_copy(update={"population": "renamed"})
        other = config.model_copy(update={"data": data})
        monkeypatch.setattr(type(site.home), "config", lambda _: other)
    try:
        with pytest.raises(ConfigError, match="this site has spent it"):
            release_counts(site, attacker, plan_of_run())
        with AdapterTest(site.home, plan_of_run().digest, attacker) as test:  # type: ignore[arg-type]
            # Also where nothing was prepared.
            with pytest.raises(ConfigError, match="this site has spent it"):
                test.release(1, membership.event(5.0), None, print)  # type: ignore[arg-type]
            assert test.ledger.entries() == []
    finally:
        if what == "lost":
            shutil.rmtree(ledger, ignore_errors=True)
            kept.rename(ledger)
        monkeypatch.undo()
    assert not attacker.requests
    assert spent_tests(site) == known
    assert len(told(site, Event.TEST_RESERVED)) == said


def test_rounds_go_on_behind_a_test_and_count_it(
    world: Federation, site: Site, attacker: Attacker
) -> None:
    release_counts(site, attacker, plan_of_run())
    with running(world):
        assert world.run(quiet_plan("behind", "ab")).state == "finished"
    said = told(site, Event.BUDGET_RESERVED)[-1].predicate
    assert any(rate == 1.0 for _, rate, _ in said["prior"])
    verify_log(world.config.log_folder)


def test_where_no_round_came_to_an_adapter_nothing_is_reserved_and_nothing_is_signed(
    world: Federation,
    site: Site,
    attacker: Attacker,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The adapter here is then the one that all began with, of which the log takes no test."""
    plan = quiet_plan("nothing", "ab")
    with running(world), refusing(("a", 1), ("b", 1)):
        world.run(plan)
    entries, spent = site.entries(), site.home.ledger().entries()
    with pytest.raises(OutcomeError, match="expected a run that released an adapter"):
        release_counts(site, attacker, plan)
    assert command(plan, "--release", "--yes") != 0
    assert "expected a run that released an adapter" in capsys.readouterr().err
    assert (site.entries(), site.home.ledger().entries()) == (entries, spent)
    assert not attacker.requests
    # Nothing holds back what this site says later.
    release_counts(site, attacker, plan_of_run())


# -- the command -------------------------------------------------------------------------------


def test_the_command_shows_exact_figures_and_says_what_they_mean(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(plan_of_run()) == 0
    said = capsys.readouterr()
    assert "400 members, 100 others, exact figures: they stay here (privacy_test.json)" in said.out
    assert "loss        area under the curve  1.000 [0." in said.out
    assert "it tells members from others" in said.out
    assert "found at 0.1 % false alarms  cannot be told with fewer than 1,000 others" in said.out
    assert "What bounds every attack is the plan's epsilon." in said.err


def test_the_command_says_the_cost_and_releases_nothing_without_a_yes(
    site: Site, attacker: Attacker, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    known = spent_tests(site)
    assert command(plan_of_run(), "--release", "--epsilon", "0.5") != 0
    said = capsys.readouterr().err
    assert "by itself; the ledger goes from" in said
    assert "nothing released" in said
    assert spent_tests(site) == known
    assert not attacker.requests


def test_the_command_releases_and_shows_all_that_left(
    site: Site, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(plan_of_run(), "--release", "--yes", "--epsilon", "0.5", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    tested = told(site, Event.ADAPTER_TESTED)[-1].predicate
    assert {name: tested[name] for name in membership.FIELDS} == shown["counts"]
    assert shown["noise_multiplier"] == tested["noise_multiplier"]
    assert shown["epsilon_total"] == pytest.approx(site.home.ledger().spent().epsilon)
    # `budget` tells a test from a round.
    assert main(["budget", "--home", str(site.home.folder)]) == 0
    assert "  test    " in capsys.readouterr().out


def test_the_command_does_not_release_beside_a_running_agent(
    site: Site, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with site.home.agent_lock():
        assert command(plan_of_run(), "--release", "--yes") != 0
    assert "an agent runs on" in capsys.readouterr().err


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf"])
def test_an_epsilon_that_is_none_is_refused(
    site: Site, command: Callable[..., int], epsilon: str
) -> None:
    known = spent_tests(site)
    assert command(plan_of_run(), "--release", "--yes", f"--epsilon={epsilon}") != 0
    assert spent_tests(site) == known
