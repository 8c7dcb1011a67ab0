"""Exposure: ranks become bits and a p-value that a true "nothing is remembered" keeps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.dp import exposure
from privacy.dp.exposure import NUM_CANDIDATES, allowed_mean, bits, gamma_tail, rank_of, summarise

ranks_ = st.lists(st.integers(1, NUM_CANDIDATES), min_size=1, max_size=64)


# -- exact values --------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "expected"), [(1, 10.0), (2, 9.0), (512, 1.0), (1024, 0.0)])
def test_a_rank_among_1024_has_so_many_bits(rank: int, expected: float) -> None:
    assert bits(rank) == expected


@pytest.mark.parametrize(
    ("shape", "quantile", "tail"),
    [
        # Of chi squared with 2n degrees of freedom, half (Pearson & Hartley, table 8).
        (1, 5.991, 0.05),
        (2, 9.488, 0.05),
        (5, 18.307, 0.05),
        (5, 23.209, 0.01),
        (10, 31.410, 0.05),
        (15, 43.773, 0.05),
        (15, 59.703, 0.001),
        (50, 124.342, 0.05),
    ],
)
def test_the_tail_of_a_gamma_variable_is_the_published_one(
    shape: int, quantile: float, tail: float
) -> None:
    assert gamma_tail(shape, quantile / 2) == pytest.approx(tail, rel=2e-3)


def test_one_secret_known_by_heart_has_the_p_value_of_its_rank() -> None:
    assert summarise([1]).p_value == pytest.approx(1 / NUM_CANDIDATES)
    assert summarise([NUM_CANDIDATES]).p_value == 1.0
    found = summarise([1, 2, 1024])
    assert (found.num_tracers, found.mean, found.largest) == (3, 19 / 3, 10.0)


def test_64_secrets_known_by_heart_overflow_nothing() -> None:
    found = summarise([1] * 64)
    assert found.mean == 10.0
    assert 0 < found.p_value < 1e-80


@pytest.mark.parametrize(
    ("losses", "rank"),
    [
        ([1.0], 1),
        ([2.0, 1.0, 3.0], 2),
        ([3.0, 1.0, 2.0], 3),
        # Ties: as if the secret had won, towards the alarm.
        ([1.0, 1.0, 1.0], 1),
        ([2.0, 2.0, 1.0], 2),
    ],
)
def test_the_first_loss_is_ranked_and_ties_count_against_the_adapter(
    losses: list[float], rank: int
) -> None:
    assert rank_of(losses) == rank


@pytest.mark.parametrize("losses", [[], [math.nan, 1.0], [1.0, math.nan], [1.0, math.inf]])
def test_a_loss_that_is_no_number_is_never_ranked(losses: list[float]) -> None:
    with pytest.raises(ValueError, match="finite losses"):
        rank_of(losses)


@pytest.mark.parametrize("ranks", [[], [0], [NUM_CANDIDATES + 1], [1, True], [2.0], ["1"]])
def test_what_is_no_rank_is_refused(ranks: list[object]) -> None:
    with pytest.raises(ValueError, match="expected ranks from 1 to 1024"):
        summarise(ranks)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "value"), [(0, 1.0), (1, -0.1), (1, math.nan)])
def test_a_tail_of_nothing_is_refused(shape: int, value: float) -> None:
    with pytest.raises(ValueError, match="expected a shape"):
        gamma_tail(shape, value)


# -- properties ----------------------------------------------------------------------------------


@given(ranks_, st.data())
def test_a_better_rank_never_raises_the_p_value(ranks: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(ranks) - 1))
    better = list(ranks)
    better[place] = data.draw(st.integers(1, ranks[place]))
    before, after = summarise(ranks), summarise(better)
    assert after.mean >= before.mean
    assert after.largest >= before.largest
    assert after.p_value <= before.p_value * (1 + 1e-9)


@given(ranks_, st.randoms(use_true_random=False))
def test_the_order_of_tracers_says_nothing(ranks: list[int], random: object) -> None:
    shuffled = list(ranks)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert summarise(shuffled) == summarise(ranks)
    assert exposure.digest(ranks).startswith("sha256:")


@given(ranks_)
def test_mean_largest_and_p_value_are_in_their_ranges(ranks: list[int]) -> None:
    found = summarise(ranks)
    assert 0 <= found.mean <= found.largest <= 10
    assert 0 < found.p_value <= 1


# -- where nothing is remembered -----------------------------------------------------------------


@pytest.mark.parametrize("level", [0.001, 0.01, 0.05, 0.2, 0.5])
def test_a_uniform_rank_is_below_each_level_at_most_so_often(level: float) -> None:
    """Over every pair of ranks, so exactly: the p-value is conservative."""
    one = np.array([bits(rank) for rank in range(1, NUM_CANDIDATES + 1)]) * math.log(2)
    assert np.mean([gamma_tail(1, value) <= level for value in one]) <= level
    two = (one[:, None] + one[None]).ravel()
    # The closed form of two.
    assert np.mean(np.exp(-two) * (1 + two) <= level) <= level


def test_the_p_value_of_many_uniform_ranks_is_not_small() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        summarise([int(rank) for rank in rng.integers(1, NUM_CANDIDATES + 1, 16)]).p_value
        for _ in range(1000)
    ]
    assert np.mean(np.array(drawn) <= 0.05) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    # Conservative, but not blind.
    assert np.mean(np.array(drawn) <= 0.05) > 0.02


def test_chance_gives_a_mean_of_1_44_bits() -> None:
    mean = np.mean([bits(rank) for rank in range(1, NUM_CANDIDATES + 1)])
    assert exposure.CHANCE_BITS - 0.01 < mean < exposure.CHANCE_BITS


# -- what epsilon allows -------------------------------------------------------------------------


def test_without_privacy_loss_only_chance_is_allowed() -> None:
    mean = np.mean([bits(rank) for rank in range(1, NUM_CANDIDATES + 1)])
    assert allowed_mean(0.0, 0.0) == pytest.approx(mean)


@given(st.floats(0, 12), st.floats(0, 1e-2))
def test_what_is_allowed_grows_with_epsilon_and_is_no_more_than_everything(
    epsilon: float, delta: float
) -> None:
    allowed = allowed_mean(epsilon, delta)
    assert allowed_mean(0, 0) - 1e-9 <= allowed <= 10 + 1e-9
    # The integral over all thresholds of min(1, e^epsilon 2^-t + delta).
    assert allowed <= (epsilon + 1) / math.log(2) + 10 * delta + 1e-9
    assert allowed_mean(epsilon + 0.1, delta) >= allowed


def test_beyond_log_of_the_candidates_epsilon_allows_everything() -> None:
    assert allowed_mean(8.0, 1e-5) == pytest.approx(10.0)
    assert allowed_mean(1e6, 1e-5) == pytest.approx(10.0)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 5.0])
def test_a_mechanism_that_gives_away_all_that_epsilon_allows_stays_within(epsilon: float) -> None:
    """Randomised response over all secrets: told, a secret ranks first; else a random one does."""
    told = math.exp(epsilon) / (math.exp(epsilon) + NUM_CANDIDATES - 1)
    others = np.mean([bits(rank) for rank in range(2, NUM_CANDIDATES + 1)])
    mean = told * 10 + (1 - told) * others
    assert allowed_mean(0, 0) < mean <= allowed_mean(epsilon, 0.0)


@pytest.mark.parametrize(("epsilon", "delta"), [(-0.1, 0), (math.nan, 0), (1, -0.1), (1, 1.1)])
def test_an_epsilon_that_is_none_allows_nothing_to_be_said(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="expected epsilon"):
        allowed_mean(epsilon, delta)
