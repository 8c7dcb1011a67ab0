"""The weighted mean of updates, one at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregate import StreamingMean

UPDATES = st.lists(
    st.tuples(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3),
        st.integers(1, 10_000),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(updates=UPDATES)
def test_the_mean_is_the_weighted_mean_in_any_order(
    updates: list[tuple[list[float], int]],
) -> None:
    values = np.array([update for update, _ in updates], dtype=np.float32)
    weights = [float(weight) for _, weight in updates]
    means = []
    for order in (range(len(updates)), reversed(range(len(updates)))):
        mean = StreamingMean(3)
        for number in order:
            mean.add(values[number], weights[number])
        means.append(mean.mean())
    expected = np.average(values.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(means[0], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(means[0], means[1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("update", "weight"),
    [
        (np.array([1.0]), 1.0),
        (np.ones((3, 1)), 1.0),
        (np.array([1.0, np.nan, 1.0]), 1.0),
        (np.array([1.0, np.inf, 1.0]), 1.0),
        (np.ones(3), 0.0),
        (np.ones(3), -1.0),
        (np.ones(3), float("nan")),
        (np.ones(3), float("inf")),
    ],
)
def test_a_refused_update_changes_nothing(update: np.ndarray, weight: float) -> None:
    mean = StreamingMean(3)
    mean.add(np.full(3, 2.0, dtype=np.float32), 1.0)
    with pytest.raises(ValueError, match="expected"):
        mean.add(update.astype(np.float32), weight)
    assert mean.num_updates == 1
    np.testing.assert_array_equal(mean.mean(), np.full(3, 2.0))


def factors(
    rng: np.random.Generator, num_sites: int, rank: int, outputs: int, inputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """A that all share, and each site's B."""
    a = rng.normal(size=(rank, inputs)).astype(np.float32)
    return a, rng.normal(size=(num_sites, outputs, rank)).astype(np.float32)


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=50)
@given(shape=SHAPES, seed=SEEDS)
def test_the_mean_of_one_factor_makes_the_mean_of_the_products(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, each_b = factors(rng, *shape)
    weights = rng.integers(1, 1000, len(each_b)).astype(float)
    mean = StreamingMean(each_b[0].size)
    for b, weight in zip(each_b, weights, strict=True):
        mean.add(b.reshape(-1), weight)
    expected = np.average([b.astype(float) @ a for b in each_b], axis=0, weights=weights)
    np.testing.assert_allclose(mean.mean().reshape(each_b[0].shape) @ a, expected, atol=1e-5)
    # In a round of A, B is what all share.
    shared, each_a = each_b[0], rng.normal(size=(len(each_b), *a.shape)).astype(np.float32)
    mean = StreamingMean(a.size)
    for other, weight in zip(each_a, weights, strict=True):
        mean.add(other.reshape(-1), weight)
    expected = np.average([shared.astype(float) @ o for o in each_a], axis=0, weights=weights)
    np.testing.assert_allclose(shared @ mean.mean().reshape(a.shape), expected, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(shape=SHAPES, seed=SEEDS)
def test_with_mixed_ranks_each_term_is_the_mean_over_the_sites_that_train_it(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, each_b = factors(rng, *shape)
    rank = len(a)
    ranks = rng.integers(1, rank + 1, len(each_b))
    weights = rng.integers(1, 1000, len(each_b)).astype(float)
    mean = StreamingMean(each_b[0].size)
    expected = np.zeros((each_b.shape[1], a.shape[1]))
    for b, weight, own in zip(each_b, weights, ranks, strict=True):
        b[:, own:] = 0
        mask = np.broadcast_to(np.arange(rank) < own, b.shape).reshape(-1)
        mean.add(b.reshape(-1), weight, None if own == rank else mask)
    for term in range(rank):
        sites = [site for site in range(len(each_b)) if ranks[site] > term]
        if sites:
            products = [np.outer(each_b[site][:, term], a[term]) for site in sites]
            expected += np.average(products, axis=0, weights=weights[sites])
    np.testing.assert_allclose(mean.mean().reshape(each_b[0].shape) @ a, expected, atol=1e-5)


def test_what_no_site_trained_stays_as_it_is() -> None:
    mean = StreamingMean(3)
    mean.add(np.array([2, 0, 0], dtype=np.float32), 5.0, np.array([True, False, False]))
    assert mean.mean().tolist() == [2, 0, 0]


@pytest.mark.parametrize("mask", [[True, False, True], [True, True]])
def test_an_update_beyond_its_mask_changes_nothing(mask: list[bool]) -> None:
    mean = StreamingMean(3)
    mean.add(np.full(3, 2.0, dtype=np.float32), 1.0)
    with pytest.raises(ValueError, match="zero where the site does not train"):
        mean.add(np.ones(3, dtype=np.float32), 1.0, np.array(mask))
    np.testing.assert_array_equal(mean.mean(), np.full(3, 2.0))


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one"):
        StreamingMean(3).mean()
    with pytest.raises(ValueError, match="size"):
        StreamingMean(0)
