"""The budget of a site, over rounds and runs, and what is said of it."""

from dataclasses import replace

import pytest

from client.policy import PlanRuleError, check_budget
from privacy.audit.entry import Event, parse_entry
from privacy.audit.verify import verify_log
from privacy.dp import calibrate
from privacy.plan import RoundsConfig, RunPlan
from tests.federation.world import Federation, Site, quiet_plan


@pytest.fixture
def site(federation: Federation) -> Site:
    return federation.enrol("a")


def costly(name: str, num_rounds: int, noise_multiplier: float = 1.0) -> RunPlan:
    """A plan of one site that claims what it costs."""
    plan = quiet_plan(name, "a", rounds=RoundsConfig(num_rounds=num_rounds, min_sites=1))
    mechanism = replace(plan.mechanism, noise_multiplier=noise_multiplier, sample_rate=1.0)
    cost = calibrate.epsilon([calibrate.run_event(mechanism, num_rounds)], mechanism.delta)
    return replace(plan, mechanism=replace(mechanism, target_epsilon=cost + 0.01))


def predicates(site: Site, event: Event) -> list[dict[str, object]]:
    """What the site's entries of an event say."""
    journal = site.home.journal()
    entries = [parse_entry(line) for line, _ in journal.lines()]
    journal.close()
    return [dict(entry.predicate) for entry in entries if entry.event is event]


def test_a_plan_beyond_the_budget_is_refused_before_a_person_is_asked(site: Site) -> None:
    # Each of them fits alone: budget 8.
    check_budget(costly("fits", 2), site.home.ledger())
    with pytest.raises(PlanRuleError) as refused:
        check_budget(costly("too much", 9), site.home.ledger())
    assert refused.value.rule == "budget"


def test_a_round_beyond_the_budget_is_refused_though_its_plan_was_approved(
    federation: Federation, site: Site
) -> None:
    # Approved past the policy: the ledger is the last word.
    plan = costly("beyond", 9)
    site.start()
    run = federation.run(plan)
    released = [result.server_round for result in run.rounds if result.adapter is not None]
    assert 0 < len(released) < 9
    spent = site.home.ledger().spent().epsilon
    assert spent <= 8.0
    refused = predicates(site, Event.BUDGET_REFUSED)
    assert len(refused) == 9 - len(released)
    assert all(said["asked"] > 8.0 and said["budget"] == 8.0 for said in refused)  # type: ignore[operator]
    assert set(site.rules()) == {"budget"}
    assert site.trainer.num_calls == len(released) + 1
    verify_log(federation.config.log_folder)


def test_two_runs_compose_and_the_log_says_so(federation: Federation, site: Site) -> None:
    site.start()
    for name, noise_multiplier in (("first", 3.0), ("second", 4.0)):
        federation.run(costly(name, 2, noise_multiplier))
    events = [calibrate.Event(3.0, 1.0, 2), calibrate.Event(4.0, 1.0, 2)]
    whole = calibrate.epsilon(events, 1e-3)
    assert site.home.ledger().spent().epsilon == pytest.approx(whole)
    said = predicates(site, Event.BUDGET_COMMITTED)
    totals = [float(str(entry["epsilon_total"])) for entry in said]
    assert totals == sorted(totals)
    assert totals[-1] == pytest.approx(whole)
    assert said[-1]["prior"] == [[3.0, 1.0, 2], [4.0, 1.0, 1]]
    # The second run's own cost is not the whole.
    assert float(str(said[-1]["epsilon_run"])) < totals[-1]
    verify_log(federation.config.log_folder)


def test_a_budget_that_was_lowered_holds_for_the_next_round(
    federation: Federation, site: Site
) -> None:
    site.start()
    federation.run(costly("before", 1, 3.0))
    site.stop()
    text = site.home.config_path.read_text()
    assert "epsilon = 8.0" in text
    site.home.config_path.write_text(text.replace("epsilon = 8.0", "epsilon = 1.0", 1))
    site.start()
    run = federation.run(costly("after", 1, 3.0))
    assert [result.adapter for result in run.rounds] == [None]
    assert site.rules() == ["budget"]
    verify_log(federation.config.log_folder)
