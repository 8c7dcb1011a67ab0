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


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one"):
        StreamingMean(3).mean()
    with pytest.raises(ValueError, match="size"):
        StreamingMean(0)
