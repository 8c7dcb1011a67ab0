"""The lower bound of a one-run audit: the paper's own figures, then what must hold of any."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.dp.one_run import epsilon_lower_bound, p_value

counts = st.integers(1, 60).flatmap(
    lambda r: st.tuples(st.integers(r, 500), st.just(r), st.integers(0, r))
)


@pytest.mark.parametrize(
    ("num_canaries", "num_guesses", "num_right", "delta", "published"),
    [
        (100, 100, 75, 0.0, 0.702),
        (100, 100, 75, 1e-4, 0.699),
        (1000, 100, 75, 1e-4, 0.673),
        (100_000, 1510, 1439, 1e-5, 2.675),
    ],
)
def test_the_bound_is_the_one_that_the_paper_prints(
    num_canaries: int, num_guesses: int, num_right: int, delta: float, published: float
) -> None:
    # arXiv 2305.08846, appendix D and section 7; the last is cut and not rounded.
    got = epsilon_lower_bound(num_canaries, num_guesses, num_right, delta=delta)
    assert got == pytest.approx(published, abs=1e-3)


def test_the_p_value_is_the_one_that_the_paper_prints() -> None:
    assert p_value(100, 100, 75, epsilon=math.log(3), delta=0) == pytest.approx(0.553, abs=5e-4)


@pytest.mark.parametrize(("num_guesses", "num_right"), [(1, 1), (7, 5), (40, 33), (40, 0)])
@pytest.mark.parametrize("odds", [1, 2, 19])
def test_without_delta_it_is_the_tail_of_a_binomial_in_exact_numbers(
    num_guesses: int, num_right: int, odds: int
) -> None:
    right = Fraction(odds, odds + 1)
    exact = sum(
        math.comb(num_guesses, k) * right**k * (1 - right) ** (num_guesses - k)
        for k in range(num_right, num_guesses + 1)
    )
    got = p_value(num_guesses, num_guesses, num_right, epsilon=math.log(odds), delta=0)
    assert got == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("odds", [1, 3, 20])
@pytest.mark.parametrize("num_guesses", [10, 40, 100])
def test_randomised_response_is_accused_as_seldom_as_the_confidence_says(
    num_guesses: int, odds: int
) -> None:
    """The mechanism that reaches its epsilon: the bound exceeds it with probability 1/20 at most.

    Computed over all outcomes, not drawn.
    """
    epsilon, right = math.log(odds), odds / (odds + 1)
    too_high = sum(
        math.comb(num_guesses, k) * right**k * (1 - right) ** (num_guesses - k)
        for k in range(num_guesses + 1)
        if epsilon_lower_bound(num_guesses, num_guesses, k, delta=0) > epsilon
    )
    assert too_high <= 0.05


@given(counts=counts, epsilon=st.floats(0, 20), delta=st.sampled_from([0.0, 1e-6, 1e-3]))
@settings(deadline=None)
def test_a_p_value_is_a_probability_and_falls_with_every_right_guess(
    counts: tuple[int, int, int], epsilon: float, delta: float
) -> None:
    num_canaries, num_guesses, num_right = counts
    values = [
        p_value(num_canaries, num_guesses, k, epsilon=epsilon, delta=delta)
        for k in (max(0, num_right - 1), num_right)
    ]
    assert all(0 <= value <= 1 for value in values)
    # With delta the paper's term may grow by itself; both together never beat one guess less.
    if delta == 0:
        assert values[1] <= values[0] * (1 + 1e-12)


@given(counts=counts, delta=st.sampled_from([0.0, 1e-6, 1e-4]))
@settings(max_examples=60, deadline=None)
def test_more_right_guesses_never_lower_the_bound(
    counts: tuple[int, int, int], delta: float
) -> None:
    num_canaries, num_guesses, num_right = counts
    bounds = [
        epsilon_lower_bound(num_canaries, num_guesses, k, delta=delta)
        for k in range(max(0, num_right - 3), num_right + 1)
    ]
    assert bounds == sorted(bounds)


@given(counts=counts, delta=st.sampled_from([0.0, 1e-6, 1e-4]))
@settings(max_examples=40, deadline=None)
def test_more_delta_more_confidence_or_more_canaries_never_raise_the_bound(
    counts: tuple[int, int, int], delta: float
) -> None:
    num_canaries, num_guesses, num_right = counts
    bound = epsilon_lower_bound(num_canaries, num_guesses, num_right, delta=delta)
    for weaker in (
        epsilon_lower_bound(num_canaries, num_guesses, num_right, delta=2 * delta + 1e-7),
        epsilon_lower_bound(num_canaries, num_guesses, num_right, delta=delta, confidence=0.99),
        epsilon_lower_bound(10 * num_canaries, num_guesses, num_right, delta=delta),
    ):
        assert weaker <= bound + 1e-9


def test_guesses_no_better_than_a_coin_bound_nothing() -> None:
    assert epsilon_lower_bound(1000, 100, 50, delta=1e-5) == 0.0
    assert epsilon_lower_bound(1000, 0, 0, delta=1e-5) == 0.0


@pytest.mark.parametrize(
    ("counts", "numbers", "words"),
    [
        ((10, 11, 5), {}, "num_right <= num_guesses"),
        ((10, 5, 6), {}, "num_right <= num_guesses"),
        ((10, 5, -1), {}, "num_right <= num_guesses"),
        ((10, 5, 5), {"delta": 1.0}, "delta"),
        ((10, 5, 5), {"delta": -0.1}, "delta"),
        ((10, 5, 5), {"confidence": 1.0}, "confidence"),
        ((10, 5, 5), {"confidence": math.nan}, "confidence"),
    ],
)
def test_impossible_counts_and_probabilities_are_refused(
    counts: tuple[int, int, int], numbers: dict[str, float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        epsilon_lower_bound(*counts, **{"delta": 1e-5, **numbers})  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [-0.1, math.inf, math.nan])
def test_an_impossible_hypothesis_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="0 <= epsilon"):
        p_value(10, 5, 5, epsilon=epsilon, delta=0)
