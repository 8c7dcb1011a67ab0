"""Ranks of tracers stand in a log as the plan has them, of secrets pinned before training."""

from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.audit.entry import Event
from privacy.audit.summary import Summary
from privacy.audit.verify import VerifiedLog, check_log, verify_log
from privacy.compliance.evidence import gather
from privacy.compliance.queries import QUERIES, Shown
from privacy.compliance.report import Extras, render_report
from privacy.compliance.words import Words
from privacy.dp import exposure
from privacy.errors import VerificationError
from tests.privacy.evidence import (
    START,
    Federation,
    digest,
    make_plan,
    quick_accountant,
)

SITE = "hospital_a"
RANKS = [3, 700, 1024]


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """After the first round of a run with three tracers at each site."""
    made = Federation(tmp_path / "log", plan=make_plan(num_rounds=1, tracers=3))
    made.begin()
    made.round(1)
    return made


def verified(federation: Federation) -> VerifiedLog:
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


def first_bad(federation: Federation) -> tuple[int | None, str]:
    with pytest.raises(VerificationError) as caught:
        verified(federation)
    return caught.value.entry, str(caught.value)


def test_ranks_of_the_plans_tracers_verify_without_a_budget(federation: Federation) -> None:
    index = federation.measure_exposure(SITE, 1, RANKS)
    log = verified(federation)
    assert log.entries[index].predicate["ranks"] == RANKS
    site = gather(log).sites[SITE]
    assert site.ranked[federation.run_id].ranks == tuple(RANKS)
    # Nothing was spent but the round.
    assert len(site.spends) == 1
    assert site.tests == []


def test_the_same_ranks_told_twice_by_a_crash_are_one_set(federation: Federation) -> None:
    first = federation.measure_exposure(SITE, 1, RANKS)
    second = federation.measure_exposure(SITE, 1, RANKS)
    federation.add_tracers(SITE)
    ranked = gather(verified(federation)).sites[SITE].ranked[federation.run_id]
    assert ranked.entries == [first, second]


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (
            lambda f: f.measure_exposure(SITE, 1, RANKS[:2]),
            "expected 3 ranks, one for each of the plan's tracers, got 2",
        ),
        (
            lambda f: f.measure_exposure(SITE, 1, [*RANKS, 1]),
            "expected 3 ranks, one for each of the plan's tracers, got 4",
        ),
        (
            lambda f: f.measure_exposure(SITE, 1, RANKS, num_candidates=2048),
            "expected ranks among 1024, got 2048",
        ),
        (
            lambda f: f.measure_exposure(SITE, 1, RANKS, {"tracers": digest("nicer")}),
            "expected ranks of the tracers that hospital_a added, got others",
        ),
        (
            lambda f: f.measure_exposure(SITE, 1, RANKS, {"adapter": digest("adapter 0")}),
            "an adapter that was released in run 7",
        ),
        (
            lambda f: f.measure_exposure(SITE, 1, RANKS, run_id="8"),
            "expected the plan of run 8, got another digest",
        ),
        (
            lambda f: f.add_tracers(SITE, digest("others")),
            "expected one set of tracers of hospital_a under a plan, got a second",
        ),
        (
            lambda f: f.add_tracers(SITE, num_tracers=4),
            "expected the plan's 3 tracers of hospital_a, got 4",
        ),
    ],
)
def test_what_does_not_fit_the_plan_is_named(
    federation: Federation, say: Callable[[Federation], int], reason: str
) -> None:
    index = say(federation)
    found, message = first_bad(federation)
    assert found == index
    assert reason in message


def test_ranks_of_a_site_that_no_adapter_names_are_named(tmp_path: Path) -> None:
    """Its update was accepted and not added: nobody trained on its tracers."""
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=1, tracers=3))
    federation.begin()
    names = [share.name for share in federation.plan.sites]
    for name in names:
        federation.train(name, 1)
    federation.release(1, [name for name in names if name != SITE])
    index = federation.measure_exposure(SITE, 1, RANKS)
    found, message = first_bad(federation)
    assert found == index
    assert "expected an update of hospital_a in an adapter of run 7, got none" in message


def test_a_second_nicer_set_of_ranks_is_named(federation: Federation) -> None:
    federation.measure_exposure(SITE, 1, [1, 1, 1])
    index = federation.measure_exposure(SITE, 1, RANKS)
    found, message = first_bad(federation)
    assert found == index
    assert "expected one set of ranks of hospital_a for a run, got a second" in message


def test_ranks_under_an_early_adapter_are_named(tmp_path: Path) -> None:
    """It remembers less than the one that is handed on."""
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=2, tracers=3))
    federation.begin()
    federation.round(1)
    federation.round(2)
    index = federation.measure_exposure(SITE, 1, RANKS)
    found, message = first_bad(federation)
    assert found == index
    assert "expected ranks under the newest adapter of run 7, got an earlier one" in message


def test_ranks_before_the_last_round_are_named(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=2, tracers=3))
    federation.begin()
    federation.round(1)
    index = federation.measure_exposure(SITE, 1, RANKS)
    federation.round(2)
    found, message = first_bad(federation)
    assert found == index
    assert "expected ranks after the last round of run 7, got them after round 1" in message


def test_ranks_behind_a_run_whose_last_round_failed_verify(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=2, tracers=3))
    federation.begin()
    federation.round(1)
    federation.finish(1)
    federation.measure_exposure(SITE, 1, RANKS)
    verified(federation)


def test_no_adapter_is_released_behind_the_end_of_its_run(tmp_path: Path) -> None:
    """Ranks under an early one would stand for it."""
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=2, tracers=3))
    federation.begin()
    federation.round(1)
    federation.finish(1)
    federation.measure_exposure(SITE, 1, RANKS)
    for site in federation.sites:
        federation.train(site, 2)
    index = federation.release(2)
    found, message = first_bad(federation)
    assert found == index
    assert "expected no adapter of run 7 after its end" in message


def test_ranks_of_tracers_that_nobody_trained_on_are_named(tmp_path: Path) -> None:
    """A site could draw its secrets when it knows the adapter, and nothing would be remembered."""
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=1, tracers=3))
    federation.begin()
    others = [site for site in federation.sites if site != SITE]
    for site in others:
        federation.train(site, 1)
    federation.release(1, others)
    index = federation.measure_exposure(SITE, 1, RANKS)
    found, message = first_bad(federation)
    assert found == index
    assert "expected an update of hospital_a in an adapter of run 7, got none" in message


@pytest.mark.parametrize("ranks", [[], [0, 1, 2], [1, 2, 1025], [1, 2, 3.5], [1, 2, True], "123"])
def test_what_is_no_rank_is_never_signed(federation: Federation, ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="expected ranks to be a list of ranks"):
        federation.measure_exposure(SITE, 1, ranks)


def test_an_update_before_the_tracers_were_pinned_is_named(tmp_path: Path) -> None:
    """Or a site could draw secrets after it had seen the adapter."""
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=1, tracers=3))
    add, federation.add_tracers = federation.add_tracers, lambda *_, **__: 0  # type: ignore[method-assign]
    federation.begin()
    federation.reserve(SITE, 1)
    federation.commit(SITE, 1)
    index = federation.send(SITE, 1)
    add(SITE)
    found, message = first_bad(federation)
    assert found == index
    assert "to pin the plan's tracers before it sends an update" in message


@pytest.mark.parametrize("event", [Event.TRACERS_ADDED, Event.EXPOSURE_MEASURED])
def test_tracers_that_no_plan_has_are_named(tmp_path: Path, event: Event) -> None:
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=1))
    federation.begin()
    federation.round(1)
    if event is Event.TRACERS_ADDED:
        index = federation.add_tracers(SITE, num_tracers=1)
        reason = "expected the plan's 0 tracers of hospital_a, got 1"
    else:
        index = federation.measure_exposure(SITE, 1, RANKS)
        reason = "expected hospital_a to add tracers before it looks for their secrets"
    found, message = first_bad(federation)
    assert found == index
    assert reason in message


def test_verify_counts_the_runs_whose_exposure_was_released(federation: Federation) -> None:
    federation.measure_exposure(SITE, 1, RANKS)
    summary = Summary()
    log = check_log(
        federation.folder, federation.ring, accountant=quick_accountant, visit=summary.add
    )
    sites = summary.result(log)["sites"]
    assert {name: site["exposures"] for name, site in sites.items()} == {
        "bank_a": 0, SITE: 1, "hospital_b": 0,
    }  # fmt: skip


# -- the report --------------------------------------------------------------------------------


def page_of(federation: Federation, language: str = "en") -> str:
    return render_report(verified(federation), Extras(language=language), at=START)


def test_the_report_shows_exposure_and_who_did_not_measure_it(federation: Federation) -> None:
    federation.measure_exposure(SITE, 1, RANKS)
    page = page_of(federation)
    found = exposure.summarise(RANKS)
    mechanism = federation.plan.mechanism
    allowed = exposure.allowed_mean(mechanism.target_epsilon, mechanism.delta)
    for figure in (
        "Exposure of made-up secrets",
        f">{found.mean:.2f}<",
        f">{found.largest:.2f}<",
        f">{found.p_value:.2g}<",
        f">{allowed:.2f}<",
        "What it cannot show",
        "which no guarantee about one unit covers",
    ):
        assert figure in page
    # The two others had tracers and said nothing.
    assert page.count(">not measured<") == 2
    assert "虚构秘密的暴露度" in page_of(federation, "zh")


def test_ranks_alone_show_a_control_of_privacy_tests_in_part(federation: Federation) -> None:
    query = QUERIES["privacy-tests"]
    assert query(gather(verified(federation)), Words("en")).shown is Shown.NOTHING
    ranked = federation.measure_exposure(SITE, 1, RANKS)
    found = query(gather(verified(federation)), Words("en"))
    assert (found.shown, found.entries) == (Shown.PARTLY, (ranked,))
    assert "1 ranked made-up secrets" in found.text
    federation.test_adapter(SITE, 1)
    both = query(gather(verified(federation)), Words("en"))
    assert both.shown is Shown.PARTLY
    assert ranked in both.entries
    assert len(both.entries) > 1
    assert "Of 3 institutions" in both.text
    assert "1 attacked" in both.text


def test_a_run_without_tracers_says_so_beside_another_test(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log", plan=make_plan(num_rounds=1))
    federation.begin()
    federation.round(1)
    assert "Exposure of made-up secrets" not in page_of(federation)
    federation.test_adapter(SITE, 1)
    assert page_of(federation).count("not measured: the plan has no tracers") == 3
