"""What a training process says of an adapter is figures, or nothing."""

import pytest

from client.curve import Point
from privacy.wire import UNREADABLE

GOOD: dict[str, object] = {"loss": 1.5, "accuracy": 0.5, "num_examples": 3}


def test_figures_are_kept_as_they_are() -> None:
    point = Point.of(GOOD, server_round=2, adapter="sha256:" + "0" * 64)
    assert (point.loss, point.accuracy, point.num_examples) == (1.5, 0.5, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 10**400},
        {"loss": "Jane Roe"},
        {"loss": float("inf")},
        {"accuracy": 10**400},
        {"accuracy": -0.1},
        {"num_examples": 2**70},
        {"num_examples": 2**31},
        {"num_examples": 0},
        {"num_examples": 3.5},
        {"num_examples": True},
        {"num_examples": None},
    ],
)
def test_what_is_no_figure_is_unreadable_and_ends_nobody(wrong: dict[str, object]) -> None:
    with pytest.raises(UNREADABLE):
        Point.of(GOOD | wrong, server_round=2, adapter="")
