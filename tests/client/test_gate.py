"""The gate before a record is read: figures below the rules refuse the plan, by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from client.cli import _check_masking
from client.home import SiteHome
from client.policy import PlanRuleError
from privacy.errors import OwnNotesError
from privacy.masking.canaries import Measured
from privacy.masking.config import MaskingConfig
from privacy.masking.figures import OWN, OverMasking, Recall
from tests.client.test_policy import PLAN, config

# The recognisers take long to load where other tests run beside.
pytestmark = pytest.mark.timeout(240)

EMAIL_PLAN = replace(PLAN, masking=MaskingConfig(entity_types=("EMAIL",)))
GOOD = Recall("EMAIL", "en", 40, 40, 40)
CLEAN = OverMasking("en", 100, 10)


@pytest.mark.parametrize(
    ("rule", "measured"),
    [
        ("recall-floor", Measured((Recall("EMAIL", "en", 40, 35, 35),), (CLEAN,))),
        ("recall-floor", Measured((), (CLEAN,))),
        # Also beside own notes, whatever they show: they decide nothing.
        ("recall-floor", Measured((Recall("EMAIL", OWN, 2, 2, 2),), (CLEAN,))),
        (
            "max-over-masking",
            Measured((GOOD, Recall("EMAIL", OWN, 2, 1, 1)), (OverMasking("en", 100, 11),)),
        ),
        ("max-over-masking", Measured((GOOD,), (OverMasking("en", 100, 11),))),
        ("max-over-masking", Measured((GOOD,), ())),
    ],
)
def test_a_plan_under_which_masking_falls_short_is_refused_by_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, measured: Measured
) -> None:
    monkeypatch.setattr("client.gate.measure", lambda *_: measured)
    with pytest.raises(PlanRuleError) as caught:
        _check_masking(EMAIL_PLAN, config(), SiteHome(tmp_path))
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    "measured",
    [
        Measured((GOOD, Recall("EMAIL", OWN, 2, 1, 1)), (CLEAN,)),
        Measured((GOOD,), (CLEAN, OverMasking(OWN, 5, 1))),
    ],
)
def test_own_notes_refuse_no_plan_and_the_person_sees_what_they_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    monkeypatch.setattr("client.gate.measure", lambda *_: measured)
    with pytest.raises(OwnNotesError, match=r"\(own\)") as caught:
        _check_masking(EMAIL_PLAN, config(), SiteHome(tmp_path))
    assert "your own labelled notes: nothing was decided" in caught.value.hint


def test_a_plan_under_which_masking_does_what_it_says_passes(tmp_path: Path) -> None:
    _check_masking(EMAIL_PLAN, config(), SiteHome(tmp_path))
