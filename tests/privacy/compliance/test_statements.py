"""The claim says everything that NIST SP 800-226 asks of whoever claims differential privacy.

One row of `ASKED` a point of its list. What a point needs is taken from the plan, so a claim that
leaves a figure out, or shows a fixed one, fails here.
"""

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from privacy.audit.verify import verify_log
from privacy.compliance.report import Extras, render_report
from privacy.compliance.statements import privacy_claim
from privacy.compliance.words import LANGUAGES, Words
from privacy.dp.config import Unit
from privacy.dp.guarantee import NOT_COVERED
from privacy.plan import RunPlan
from tests.privacy.evidence import Federation, make_plan, quick_accountant

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
# Point of the list -> title of the row, and what must stand in it.
ASKED = {
    "epsilon": ("Claim", "7.25"),
    "delta": ("Claim", "0.0003"),
    "what a reader may conclude": ("In words", "1,408"),
    "unit": ("Unit", "customer"),
    "neighbour relation": ("Neighbours", "exactly one customer more"),
    "trust model": ("Trust", "inside the site, before anything leaves it"),
    "against whom": ("Trust", "coordinator, the other sites"),
    "mechanism": ("Mechanism", "Poisson-sampled Gaussian mechanism"),
    "clip": ("Unit", "norm 0.75 before it is added"),
    "noise multiplier": ("Mechanism", "Noise multiplier 1.375"),
    "sample rate": ("Mechanism", "sample rate 0.045"),
    "number of releases": ("Mechanism", "7 steps a round, 11 rounds: 77 releases"),
    "sampling as run": ("Sampling", "drawn independently at each step"),
    "accountant": ("Accountant", "PLD"),
    "accountant's version": ("Accountant", f"dp-accounting {version('dp-accounting')}"),
    "composition over rounds": ("Composition", "Over all steps and rounds of the run"),
    "composition over re-runs": ("Composition", "begun again is spent again"),
    "composition over other runs": ("Composition", "all earlier runs in the same ledger"),
    "settings that were tried": ("Settings", "only where it ran as a plan through the ledger"),
    "random numbers": ("Randomness", "operating system's cryptographic generator"),
    "floating point": ("Arithmetic", "last digits of floating-point noise are not covered"),
}


def plan() -> RunPlan:
    made = make_plan(num_rounds=11)
    return replace(
        made,
        mechanism=replace(
            made.mechanism,
            unit=Unit.CUSTOMER,
            target_epsilon=7.25,
            delta=3e-4,
            noise_multiplier=1.375,
            clip_norm=0.75,
            sample_rate=0.045,
            steps_per_round=7,
        ),
    )


@pytest.mark.parametrize("point", ASKED)
def test_the_claim_has_each_point_of_nist_sp_800_226(point: str) -> None:
    title, needed = ASKED[point]
    assert needed in dict(privacy_claim(plan(), Words("en")))[title]


def test_the_chinese_claim_has_the_same_rows_and_figures() -> None:
    words = Words("zh")
    english = privacy_claim(plan(), Words("en"))
    chinese = dict(privacy_claim(plan(), words))
    assert len(chinese) == len(english) == 12
    for point, (title, needed) in ASKED.items():
        row = chinese[words(title)]
        assert row != dict(english)[title], point
        for figure in ("7.25", "0.0003", "1,408", "0.75", "1.375", "0.045", "77", "dp-accounting"):
            assert (figure in needed) <= (figure in row), point


LEFT_OUT = (
    "number of units",
    "times at which it acts",
    "size of its messages",
    "set of labels",
    "held-out units",
    "other means",
    "two institutions",
    "put back from a copy",
    "how long evaluation takes",
    "floating-point noise",
    "a population at large",
)


@pytest.mark.parametrize("outputs", LEFT_OUT)
def test_outputs_that_the_claim_does_not_cover_are_named(outputs: str) -> None:
    assert outputs in " ".join(NOT_COVERED)


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_of_it_stands_on_the_page_for_each_run(tmp_path: Path, language: str) -> None:
    federation = Federation(tmp_path / "log")
    federation.begin()
    log = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    page = render_report(log, Extras(language=language), at=AT)
    words = Words(language)
    for title, text in privacy_claim(federation.plan, words):
        assert f"<dt>{title}</dt><dd>" in page
        assert text.replace("'", "&#x27;") in page
    for line in NOT_COVERED:
        assert words(line).replace("'", "&#x27;") in page
