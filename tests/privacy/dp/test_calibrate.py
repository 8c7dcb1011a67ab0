"""Epsilon against published values, and calibration against epsilon."""

import math
import subprocess
import sys
import threading

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from privacy.dp import calibrate
from privacy.dp.calibrate import (
    _MAX_ROUGH_LOSS,
    Event,
    _rough_loss,
    calibrate_noise,
    check_mechanism,
    epsilon,
    foresee,
    group,
    round_event,
    run_event,
)
from privacy.dp.config import MechanismConfig, Unit
from privacy.errors import ConfigError


def mechanism(**changes: object) -> MechanismConfig:
    fields: dict[str, object] = {
        "unit": Unit.RECORD,
        "target_epsilon": 8.0,
        "delta": 1e-4,
        "noise_multiplier": 1.0,
        "clip_norm": 1.0,
        "sample_rate": 0.1,
        "steps_per_round": 2,
    }
    return MechanismConfig(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sample_rate", "noise_multiplier", "num_steps", "delta", "published"),
    [
        (0.0256, 1.0, 1000, 1e-5, 5.129),
        (0.1, 2.0, 200, 1e-4, 2.866),
        (0.0041, 0.6, 5000, 1e-7, 8.479),
    ],
)
def test_epsilon_agrees_with_published_values(
    sample_rate: float, noise_multiplier: float, num_steps: int, delta: float, published: float
) -> None:
    got = epsilon([Event(noise_multiplier, sample_rate, num_steps)], delta)
    assert got == pytest.approx(published, abs=0.02)


@pytest.mark.parametrize(
    ("sample_rate", "noise_multiplier", "num_steps", "delta", "num_rounds"),
    [
        (0.0256, 1.0, 1000, 1e-5, 20),
        (0.1, 2.0, 200, 1e-4, 20),
        (0.0041, 0.6, 5000, 1e-7, 50),
    ],
)
def test_rounds_composed_jointly_agree_with_the_librarys_accountant_on_all_steps(
    sample_rate: float, noise_multiplier: float, num_steps: int, delta: float, num_rounds: int
) -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    release = PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier))
    accountant.compose(SelfComposedDpEvent(release, num_steps))
    one_round = Event(noise_multiplier, sample_rate, num_steps // num_rounds)
    got = epsilon([one_round] * num_rounds, delta)
    assert got == pytest.approx(accountant.get_epsilon(delta), abs=0.02)


def test_what_threads_foresee_is_what_is_worked_out_one_by_one() -> None:
    calibrate._epsilon.cache_clear()
    calibrate._one_release.cache_clear()
    spent = [Event(2.0, 0.3, 5)]
    threads = [
        threading.Thread(target=foresee, args=(mechanism(), 6, 1e-4, before))
        for before in ([], spent, spent)
    ]
    for thread in threads:
        thread.start()
    found = [epsilon([*spent, run_event(mechanism(), count)], 1e-4) for count in range(1, 7)]
    for thread in threads:
        thread.join()
    known = calibrate._epsilon.cache_info().currsize
    calibrate._epsilon.cache_clear()
    calibrate._one_release.cache_clear()
    assert known == 12
    assert found == [
        epsilon([*spent, run_event(mechanism(), count)], 1e-4) for count in range(1, 7)
    ]


def test_epsilon_of_the_gaussian_mechanism_agrees_with_its_closed_form() -> None:
    # Balle & Wang 2018, theorem 8, with m = 1 / sigma:
    # delta(epsilon) = Phi(m / 2 - epsilon / m) - exp(epsilon) Phi(-m / 2 - epsilon / m).
    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    cost = epsilon([Event(2.0, 1.0, 4)], 1e-5)
    m = math.sqrt(4) / 2.0
    delta = phi(m / 2 - cost / m) - math.exp(cost) * phi(-m / 2 - cost / m)
    assert delta <= 1e-5
    assert delta == pytest.approx(1e-5, rel=0.01)


def test_no_release_costs_nothing() -> None:
    assert epsilon([], 1e-5) == 0.0


def test_rounds_are_composed_jointly_and_not_added_up() -> None:
    rounds = [Event(2.0, 0.1, 10)] * 20
    assert epsilon(rounds, 1e-4) == epsilon([Event(2.0, 0.1, 200)], 1e-4)
    assert epsilon(rounds, 1e-4) < 0.3 * sum(epsilon([one], 1e-4) for one in rounds)


def test_different_runs_compose_to_less_than_their_sum_and_more_than_each() -> None:
    first, second = Event(1.0, 0.1, 10), Event(2.0, 0.3, 5)
    both = epsilon([first, second], 1e-4)
    alone = epsilon([first], 1e-4), epsilon([second], 1e-4)
    assert max(alone) < both < sum(alone)


def test_the_order_of_releases_does_not_matter() -> None:
    first, second = Event(1.0, 0.1, 10), Event(2.0, 0.3, 5)
    assert epsilon([first, second, first], 1e-4) == epsilon([second, first, first], 1e-4)
    assert group([first, second, first]) == (Event(1.0, 0.1, 20), second)


@pytest.mark.parametrize(
    "hardly_noised", [Event(1e-300, 1.0, 1), Event(0.01, 0.5, 10), Event(0.1, 0.4, 10_000)]
)
def test_hardly_any_noise_costs_infinity_and_is_quick_to_refuse(hardly_noised: Event) -> None:
    assert epsilon([hardly_noised], 1e-4) == math.inf


def test_more_steps_than_anybody_takes_cost_infinity_and_are_quick_to_refuse() -> None:
    assert epsilon([Event(1.0, 1e-6, 10**9)], 1e-5) == math.inf
    assert epsilon([Event(1.0, 1e-6, 10**6), Event(2.0, 1e-6, 1)], 1e-5) == math.inf


def test_a_delta_below_the_accountants_precision_costs_infinity() -> None:
    assert epsilon([Event(1.0, 0.5, 10)], 1e-30) == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon([Event(1.0, 0.1, 1)], delta)


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate", "num_steps"),
    [
        (0.0, 0.1, 1),
        (-1.0, 0.1, 1),
        (math.inf, 0.1, 1),
        (math.nan, 0.1, 1),
        (1.0, 0.0, 1),
        (1.0, 1.1, 1),
        (1.0, math.nan, 1),
        (1.0, 0.1, 0),
    ],
)
def test_an_impossible_event_is_refused(
    noise_multiplier: float, sample_rate: float, num_steps: int
) -> None:
    with pytest.raises(ValueError, match="expected"):
        Event(noise_multiplier, sample_rate, num_steps)


@pytest.mark.parametrize(("target", "num_steps"), [(8.0, 12), (1.0, 3)])
def test_calibrated_noise_keeps_within_the_target(target: float, num_steps: int) -> None:
    noise = calibrate_noise(target, 1e-4, 0.25, num_steps)
    assert epsilon([Event(noise, 0.25, num_steps)], 1e-4) <= target
    assert epsilon([Event(noise - 0.001, 0.25, num_steps)], 1e-4) > target


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(target=st.floats(0.5, 12), sample_rate=st.floats(0.02, 0.8), num_steps=st.integers(1, 40))
def test_calibrated_noise_is_the_smallest_that_fits(
    target: float, sample_rate: float, num_steps: int
) -> None:
    noise = calibrate_noise(target, 1e-4, sample_rate, num_steps)
    assert noise == round(noise, 3)
    assert epsilon([Event(noise, sample_rate, num_steps)], 1e-4) <= target
    assert epsilon([Event(noise - 0.001, sample_rate, num_steps)], 1e-4) > target


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_target_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="target_epsilon"):
        calibrate_noise(target, 1e-5, 0.1, 10)


def test_an_unreachable_target_is_refused() -> None:
    with pytest.raises(ValueError, match="noise can reach"):
        calibrate_noise(1e-6, 1e-30, 1.0, 10)


def test_a_plan_that_claims_too_small_an_epsilon_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected epsilon <= 0\.5 over 10 rounds"):
        check_mechanism(mechanism(target_epsilon=0.5), 10)


def test_a_plan_that_claims_enough_is_let_through() -> None:
    check_mechanism(mechanism(), 10)


def test_a_run_is_its_rounds() -> None:
    assert group([round_event(mechanism())] * 7) == (run_event(mechanism(), 7),)


def test_the_accountant_is_loaded_only_when_asked_and_never_with_torch() -> None:
    program = (
        "import sys; from privacy.dp.calibrate import Event, epsilon; "
        "early = 'dp_accounting' in sys.modules; epsilon([Event(1.0, 0.1, 1)], 1e-5); "
        "print(early, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


@given(
    releases=st.lists(
        st.builds(
            Event,
            st.floats(0.6, 5.0),
            st.sampled_from([0.004, 0.05, 0.3, 1.0]),
            st.integers(1, 300),
        ),
        min_size=1,
        max_size=3,
    )
)
# To make an example smaller would take minutes: epsilon of one takes up to a second.
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@example(releases=[Event(0.625, 1.0, 168)])
def test_epsilon_is_that_of_the_librarys_own_accountant(releases: list[Event]) -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for event in group(releases):
        release = PoissonSampledDpEvent(event.sample_rate, GaussianDpEvent(event.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(release, event.num_steps))
    expected = accountant.get_epsilon(1e-5)
    if _rough_loss(group(releases)) > _MAX_ROUGH_LOSS:
        assert epsilon(releases, 1e-5) == math.inf
        assert expected > 36
    else:
        assert epsilon(releases, 1e-5) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("clip_norm", [0.0, 1e-10, float("nan"), float("inf")])
def test_a_clipping_norm_that_norms_cannot_be_compared_with_makes_no_mechanism(
    clip_norm: float,
) -> None:
    with pytest.raises(ValueError, match="clip_norm"):
        mechanism(clip_norm=clip_norm)
