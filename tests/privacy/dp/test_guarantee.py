"""The statement says whose presence, against what, by which accountant, and what it leaves out."""

import math
import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.dp.calibrate import Event, epsilon
from privacy.dp.config import MechanismConfig, Unit
from privacy.dp.guarantee import guarantee_of

MECHANISM = MechanismConfig(
    unit=Unit.PATIENT,
    target_epsilon=8.0,
    delta=1e-4,
    noise_multiplier=1.0,
    clip_norm=0.5,
    sample_rate=0.1,
    steps_per_round=2,
)


def test_the_epsilon_is_what_the_mechanism_costs_and_not_what_the_plan_claims() -> None:
    assert guarantee_of(MECHANISM, 5).epsilon == epsilon([Event(1.0, 0.1, 10)], 1e-4)
    assert guarantee_of(MECHANISM, 5).epsilon < MECHANISM.target_epsilon


def test_the_words_carry_every_number_that_the_claim_depends_on() -> None:
    words = guarantee_of(MECHANISM, 5).in_words()
    for part in ("patient", "add or remove one unit", "delta 0.0001", "10 steps", "0.5", "PLD"):
        assert part in words


@given(st.floats(0.1, 30.0), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_no_number_of_the_words_is_below_the_bound(noise: float, num_rounds: int) -> None:
    mechanism = replace(MECHANISM, noise_multiplier=noise)
    promise = guarantee_of(mechanism, num_rounds)
    said = re.search(r"e\^([0-9.]+), .*\(epsilon ([0-9.]+),", promise.in_words())
    assert (said is None) == math.isinf(promise.epsilon)
    if said is not None:
        assert all(
            promise.epsilon <= float(number) < promise.epsilon + 0.02 for number in said.groups()
        )


def test_too_little_noise_is_called_without_bound() -> None:
    weak = MechanismConfig(
        unit=Unit.RECORD,
        target_epsilon=8.0,
        delta=1e-4,
        noise_multiplier=0.01,
        clip_norm=1.0,
        sample_rate=0.5,
        steps_per_round=1,
    )
    assert "differ without a bound" in guarantee_of(weak, 3).in_words()
