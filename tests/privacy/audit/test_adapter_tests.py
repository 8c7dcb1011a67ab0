"""Figures of a test of an adapter stand in a log only behind their budget, as they were paid."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from privacy.audit.entry import Event, parse_entry
from privacy.audit.log import KEYS
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.cli import main
from privacy.compliance.evidence import gather
from privacy.compliance.report import Extras, render_report
from privacy.dp import calibrate, membership
from privacy.errors import VerificationError
from tests.privacy.evidence import START, Federation, digest, make_plan, quick_accountant

SITE = "hospital_a"
STAGES = (Event.TEST_RESERVED, Event.TEST_COMMITTED, Event.ADAPTER_TESTED)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(tmp_path / "log")
    made.begin()
    made.round(1)
    return made


def verified(federation: Federation) -> VerifiedLog:
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


def first_bad(federation: Federation) -> tuple[int | None, str]:
    with pytest.raises(VerificationError) as caught:
        verified(federation)
    return caught.value.entry, str(caught.value)


def tell(
    federation: Federation,
    stages: tuple[Event, ...] = STAGES,
    *,
    subjects: dict[str, str] | None = None,
    figures: dict[str, Any] | None = None,
    number: int = 1,
    rounds_before: int = 1,
    **changes: object,
) -> int:
    """A test with something wrong in it; returns the number of its last entry."""
    fields = federation.test_fields(number, rounds_before, **changes)  # type: ignore[arg-type]
    told: dict[str, Any] = {
        "run_id": federation.run_id,
        "test_number": number,
        "noise_multiplier": fields["noise_multiplier"],
        **federation.counts(),
        **(figures or {}),
    }
    result = membership.digest(fields["noise_multiplier"], federation.counts())
    index = -1
    for event in stages:
        named = federation.tested(1, "" if event is Event.TEST_RESERVED else result)
        named |= {k: v for k, v in (subjects or {}).items() if k in named}
        said = told if event is Event.ADAPTER_TESTED else fields
        index = federation.say(SITE, event, named, **said)
    return index


def test_a_test_and_rounds_before_and_behind_it_verify(federation: Federation) -> None:
    federation.test_adapter(SITE, 1)
    mechanism = federation.plan.mechanism
    prior = [
        [mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps_per_round],
        [10.0, 1.0, len(membership.EDGES)],
    ]
    federation.reserve(SITE, 2, prior=prior)
    assert len(verified(federation).entries) > 30


def test_an_entry_keeps_its_figures(federation: Federation) -> None:
    figures = federation.counts(loss_members=[-3, 5, *[0] * 20])
    result = membership.digest(10.0, figures)
    index = tell(federation, subjects={"result": result}, figures=figures)
    entry = verified(federation).entries[index]
    assert entry.predicate["loss_members"][:2] == [-3, 5]
    assert parse_entry(entry.line).subjects["result"] == result


@pytest.mark.parametrize("left_out", STAGES[:2])
def test_figures_without_their_budget_are_named(federation: Federation, left_out: Event) -> None:
    index = tell(federation, tuple(stage for stage in STAGES if stage is not left_out))
    found, message = first_bad(federation)
    # Without a reservation the commit is the first that does not follow.
    assert found == (index if left_out is Event.TEST_COMMITTED else index - 1)
    assert "budget of test 1 to be committed" in message or "a reservation of test 1" in message


def test_the_command_names_released_figures_without_their_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = Federation(
        tmp_path / "log", plan=make_plan(num_rounds=1), accountant=calibrate.epsilon
    )
    federation.begin()
    federation.round(1)
    index = tell(federation, (Event.TEST_RESERVED, Event.ADAPTER_TESTED))
    keys = Path(shutil.copy(federation.folder / KEYS, tmp_path / "keys.json"))
    status = main(["verify", str(federation.folder), "--keys", str(keys)])
    said = capsys.readouterr().err
    assert status != 0
    assert f"entry {index}" in said
    assert "committed before its figures leave" in said


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epsilon_test": 0.01}, "epsilon of the test does not follow"),
        ({"epsilon_total": 0.5}, "epsilon in total does not follow"),
        ({"num_releases": 1}, "expected 2 releases, one for each attack"),
        ({"prior": []}, "all earlier releases of this site"),
        ({"budget_epsilon": 0.1}, "over the site's budget"),
        ({"delta": 1e-5}, "a delta from the plan's"),
        ({"delta": 0.01}, "a delta below 1 / 400"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
    ],
)
def test_a_cost_that_does_not_follow_from_the_noise_is_named(
    federation: Federation, changes: dict[str, Any], reason: str
) -> None:
    index = tell(federation, STAGES[:1], **changes)
    found, message = first_bad(federation)
    assert found == index
    assert reason in message


def test_less_noise_on_the_figures_than_was_paid_for_is_named(federation: Federation) -> None:
    index = tell(federation, figures={"noise_multiplier": 5.0})
    found, message = first_bad(federation)
    assert found == index
    assert "the figures for which the budget of test 1 was committed" in message


def test_other_figures_than_were_committed_are_named(federation: Federation) -> None:
    nicer = federation.counts(loss_members=[99, *[40] * 21])["loss_members"]
    index = tell(federation, figures={"loss_members": nicer})
    found, message = first_bad(federation)
    assert found == index
    assert "figures that hash to the digest" in message


def test_a_second_set_of_figures_for_one_spend_is_named(federation: Federation) -> None:
    tell(federation)
    other = membership.digest(10.0, federation.counts(loss_others=[0] * 22))
    index = tell(federation, STAGES[1:2], subjects={"result": other})
    found, message = first_bad(federation)
    assert found == index
    assert "got a second for other figures" in message


def test_a_test_that_is_reserved_twice_is_named(federation: Federation) -> None:
    tell(federation)
    index = tell(federation, STAGES[:1])
    assert first_bad(federation)[0] == index


def test_a_round_that_forgets_a_test_is_named(federation: Federation) -> None:
    federation.test_adapter(SITE, 1)
    index = federation.reserve(SITE, 2)
    found, message = first_bad(federation)
    assert found == index
    assert "all earlier releases of this site" in message


def test_a_test_that_forgets_a_test_is_named(federation: Federation) -> None:
    federation.test_adapter(SITE, 1)
    index = tell(federation, STAGES[:1], number=2)
    assert first_bad(federation)[0] == index


@pytest.mark.parametrize(
    ("subjects", "reason"),
    [
        ({"adapter": digest("adapter 0")}, "an adapter that was released in run 7"),
        ({"plan": digest("another plan")}, "a plan that was offered"),
    ],
)
def test_a_test_of_something_else_than_a_released_adapter_is_named(
    federation: Federation, subjects: dict[str, str], reason: str
) -> None:
    index = tell(federation, STAGES[:1], subjects=subjects)
    found, message = first_bad(federation)
    assert found == index
    assert reason in message


# -- the report --------------------------------------------------------------------------------


def page_of(federation: Federation, language: str = "en") -> str:
    return render_report(verified(federation), Extras(language=language), at=START)


def test_the_report_shows_the_area_its_interval_its_cost_and_what_it_cannot_show(
    federation: Federation,
) -> None:
    assert "Privacy tests of adapters" not in page_of(federation)
    federation.test_adapter(SITE, 1)
    page = page_of(federation)
    area = membership.estimate("loss", federation.counts(), 10.0).auc
    assert area is not None
    assert f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}]" in page
    assert "cannot be told with fewer than 20,000 held out" in page
    assert "proves no privacy" in page
    assert "适配器的隐私测试" in page_of(federation, "zh")


def test_a_test_counts_in_what_a_site_spent(federation: Federation) -> None:
    before = gather(verified(federation)).sites[SITE].spends[-1].epsilon_total
    federation.test_adapter(SITE, 1)
    site = gather(verified(federation)).sites[SITE]
    assert len(site.spends) == 2
    assert site.spends[-1].committed
    assert site.spends[-1].epsilon_total > before


def test_a_test_that_was_begun_and_never_told_stands_in_the_report(
    federation: Federation,
) -> None:
    tell(federation, STAGES[:1])
    assert f"Begun, without figures in this log: {SITE}." in page_of(federation)


def test_too_much_noise_is_said_and_no_figure_made_of_it(federation: Federation) -> None:
    figures = {name: [0] * membership.num_cells(name) for name in membership.FIELDS}
    result = membership.digest(10.0, figures)
    tell(federation, subjects={"result": result}, figures=figures)
    assert "too few units for the noise" in page_of(federation)
