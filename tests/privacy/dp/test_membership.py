"""Attacks on membership: exact figures, and noised counts of which one unit changes one by one."""

import itertools
import math
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.dp import calibrate, membership
from privacy.dp.membership import EDGES, FIELDS

few = st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=6)
losses = st.tuples(st.floats(0, 20), st.floats(0, 20))
Losses = list[tuple[float, float]]


def brute_auc(members: list[float], others: list[float]) -> float:
    pairs = list(itertools.product(members, others))
    return sum((m > o) + (m == o) / 2 for m, o in pairs) / len(pairs)


def counted(members: Losses, others: Losses) -> dict[str, tuple[int, ...]]:
    found = membership.count(
        [membership.scores(*unit) for unit in members],
        [membership.scores(*unit) for unit in others],
    )
    return dict(found)


# -- exact figures -----------------------------------------------------------------------------


def test_the_area_of_a_published_example() -> None:
    # Hanley & McNeil 1982, table I: ratings of 58 normal and 51 abnormal images, area 0.893.
    normal = [1] * 33 + [2] * 6 + [3] * 6 + [4] * 11 + [5] * 2
    abnormal = [1] * 3 + [2] * 2 + [3] * 2 + [4] * 11 + [5] * 33
    found = membership.attack(list(map(float, abnormal)), list(map(float, normal))).auc
    assert found is not None
    assert found.value == pytest.approx(0.893, abs=5e-4)
    # Their standard error is 0.032.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.032, rel=0.1)


@given(few, few)
def test_the_area_is_the_share_of_pairs_in_order_and_ties_count_half(
    members: list[float], others: list[float]
) -> None:
    assert membership.auc(members, others) == pytest.approx(brute_auc(members, others))


def test_a_perfect_attack_has_an_interval_below_one() -> None:
    area = membership.attack([2.0] * 20, [1.0] * 10).auc
    assert area is not None
    assert area.value == area.high == 1.0
    assert 0.6 < area.low < 1.0


@pytest.mark.parametrize("seed", range(20))
def test_a_rate_is_the_best_of_all_thresholds_that_raise_few_false_alarms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members, others = (
        rng.integers(0, 9, size).astype(float).tolist()
        for size in (rng.integers(1, 60), rng.integers(100, 300))
    )
    rate = membership.attack(members, others).rates[0]
    best = max(
        sum(m > t for m in members) / len(members)
        for t in range(-1, 10)
        if sum(o > t for o in others) <= 0.01 * len(others)
    )
    assert rate.max_fpr == 0.01
    assert rate.tpr is not None
    assert rate.tpr.value == pytest.approx(best)
    assert rate.tpr.low <= best <= rate.tpr.high


@pytest.mark.parametrize(("num_others", "resolved"), [(999, False), (1000, True)])
def test_one_false_alarm_in_a_thousand_cannot_be_told_with_fewer_others(
    num_others: int, resolved: bool
) -> None:
    at_one_percent, at_one_per_mille = membership.attack([2.0] * 50, [1.0] * num_others).rates
    assert at_one_percent.tpr is not None
    assert at_one_per_mille.max_fpr == 0.001
    assert at_one_per_mille.needs == 1000
    assert (at_one_per_mille.tpr is not None) == resolved


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth, held = NormalDist().cdf(0.5 / math.sqrt(2)), 0
    for _ in range(300):
        area = membership.attack(
            rng.normal(0.5, 1, 120).tolist(), rng.normal(0, 1, 40).tolist()
        ).auc
        assert area is not None
        held += area.low <= truth <= area.high
    assert held >= 0.91 * 300


def test_no_group_may_be_empty() -> None:
    with pytest.raises(ValueError, match="expected members and others, got 0 and 1"):
        membership.attack([], [1.0])


# -- sensitivity -------------------------------------------------------------------------------


@given(st.lists(losses, max_size=5), st.lists(losses, max_size=5))
def test_taking_any_unit_away_changes_one_count_of_each_attack_by_one(
    members: Losses, others: Losses
) -> None:
    whole = counted(members, others)
    neighbours = [
        (counted(members[:i] + members[i + 1 :], others), "members") for i in range(len(members))
    ]
    neighbours += [
        (counted(members, others[:i] + others[i + 1 :]), "others") for i in range(len(others))
    ]
    for fewer, group in neighbours:
        for name in FIELDS:
            moved = Counter(a - b for a, b in zip(whole[name], fewer[name], strict=True) if a != b)
            assert moved == (Counter({1: 1}) if name.endswith(group) else Counter())


def test_a_unit_without_a_finite_loss_is_in_one_cell_like_any_other() -> None:
    for loss in (math.nan, math.inf, -math.inf, 0.0, 1e9):
        counts = counted([(loss, 1.0)], [])
        assert [sum(counts[name]) for name in FIELDS] == [1, 0, 1, 0]


def test_the_counts_of_all_attacks_are_as_many_gaussian_releases() -> None:
    # One unit moves the counts of all attacks, side by side, by this Euclidean distance.
    distance = math.sqrt(len(EDGES))
    together = calibrate.epsilon([calibrate.Event(5.0 / distance, 1.0, 1)], 1e-5)
    assert calibrate.epsilon([membership.event(5.0)], 1e-5) == pytest.approx(together, rel=1e-3)


@given(few, few, st.integers(-3, 3).map(float))
def test_one_unit_moves_an_exact_area_by_one_over_its_own_group_which_nobody_may_know(
    members: list[float], others: list[float], unit: float
) -> None:
    area = membership.auc(members, others)
    inside = abs(membership.auc([*members, unit], others) - area)
    outside = abs(membership.auc(members, [*others, unit]) - area)
    assert inside <= 1 / (len(members) + 1) + 1e-12
    assert outside <= 1 / (len(others) + 1) + 1e-12


def test_that_bound_on_an_area_is_reached() -> None:
    assert membership.auc([0.0, 2.0], [1.0]) - membership.auc([0.0], [1.0]) == 1 / 2


# -- noise -------------------------------------------------------------------------------------


def test_noise_is_a_rounded_gaussian() -> None:
    size, deviation = 200_000, 2.5
    seen = Counter(membership.draw_noise(size, deviation))
    normal = NormalDist(0, deviation)
    chi = 0.0
    for value in range(-8, 9):
        expected = size * (normal.cdf(value + 0.5) - normal.cdf(value - 0.5))
        chi += (seen[value] - expected) ** 2 / expected
    # 17 cells: beyond 45 in one run of ten thousand.
    assert chi < 45
    assert all(type(value) is int for value in seen)


def test_rounded_noise_keeps_what_the_accountant_claims() -> None:
    """By summing over all outputs, not by an argument: counts that differ by one."""
    deviation, delta = 2.0, 1e-3
    normal = NormalDist(0, deviation)

    def probability(value: int, count: int) -> float:
        return normal.cdf(value - count + 0.5) - normal.cdf(value - count - 0.5)

    epsilon = calibrate.epsilon([calibrate.Event(deviation, 1.0, 1)], delta)
    lost = sum(
        max(0.0, probability(v, 0) - math.exp(epsilon) * probability(v, 1)) for v in range(-40, 41)
    )
    assert 0.5 * delta < lost <= delta


def test_every_cell_is_noised_also_the_empty_ones() -> None:
    empty = counted([], [])
    released = membership.release(empty, 50.0)
    cells = [cell for name in FIELDS for cell in released[name]]
    assert sum(cell == 0 for cell in cells) < 10
    assert released != membership.release(empty, 50.0)


def test_seeding_every_generator_does_not_repeat_noise() -> None:
    np.random.seed(0)  # noqa: NPY002  what a careless caller would do
    first = membership.draw_noise(20, 100.0)
    np.random.seed(0)  # noqa: NPY002
    assert membership.draw_noise(20, 100.0) != first


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, math.nan, math.inf])
def test_counts_without_noise_are_not_released(noise_multiplier: float) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        membership.release(counted([], []), noise_multiplier)


def test_counts_of_another_form_are_not_released() -> None:
    exact = counted([(1.0, 2.0)], [])
    with pytest.raises(ValueError, match="expected counts named"):
        membership.release({**exact, "labels": (1,)}, 5.0)
    with pytest.raises(ValueError, match="expected 22 whole numbers in loss_members"):
        membership.release({**exact, "loss_members": (1,)}, 5.0)


# -- figures from noised counts ----------------------------------------------------------------


def population(
    shift: float, num_members: int, num_others: int, seed: int
) -> tuple[Losses, Losses]:
    """Losses of which those of members are lower by `shift` standard deviations."""
    rng = np.random.default_rng(seed)
    groups = [
        list(zip((3 - rng.normal(gain, 1, size)).tolist(), [4.5] * size, strict=True))
        for gain, size in ((shift, num_members), (0, num_others))
    ]
    return groups[0], groups[1]


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise in each run, so that what holds of most draws never fails by chance."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        membership, "draw_noise", lambda size, sd: np.rint(rng.normal(0, sd, size)).astype(int)
    )


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_noised_counts_give_the_area_within_its_interval(shift: float) -> None:
    truth, held, values = NormalDist().cdf(shift / math.sqrt(2)), 0, []
    for seed in range(200):
        exact = counted(*population(shift, 400, 100, seed))
        area = membership.estimate("reference", membership.release(exact, 2.0), 2.0).auc
        assert area is not None
        held += area.low <= truth <= area.high
        values.append(area.value)
    assert held >= 0.91 * 200
    # Scores in one cell count as ties: a little nearer to 0.5.
    assert np.mean(values) == pytest.approx(truth, abs=0.02)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("num_members", [120, 480])
def test_the_smallest_sizes_that_give_an_area_give_one_whose_interval_holds(
    num_members: int,
) -> None:
    truth, held, given = NormalDist().cdf(2.66 / math.sqrt(2)), 0, 0
    assert truth == pytest.approx(0.97, abs=1e-3)
    rng = np.random.default_rng(0)
    # The smallest size is 5 * 5 * sqrt(22), 117: half of the noised sizes are below it.
    for _ in range(1500):
        exact = counted_normals(rng, 2.66, num_members, 120)
        area = membership.estimate("reference", membership.release(exact, 5.0), 5.0).auc
        if area is not None:
            given += 1
            held += area.low <= truth <= area.high
    assert 0.2 * 1500 < given < 0.75 * 1500
    assert held >= 0.94 * given


@pytest.mark.usefixtures("same_noise")
def test_an_area_that_too_few_units_stand_behind_is_seldom_given() -> None:
    # Always given, it would have an interval that holds the truth in 89 % of runs. The sizes are
    # noised too, so now and then 80 others look like the 118 that it takes: in 6 % of runs.
    exact = counted_normals(np.random.default_rng(0), 2.66, 300, 80)
    told = [
        membership.estimate("reference", membership.release(exact, 5.0), 5.0) for _ in range(200)
    ]
    assert sum(one.auc is not None for one in told) < 35


def counted_normals(
    rng: np.random.Generator, shift: float, num_members: int, num_others: int
) -> dict[str, tuple[int, ...]]:
    """Counts of scores of which those of members are higher by `shift` standard deviations."""
    return counted(
        *(
            [(0.0, score) for score in rng.normal(middle, 1, size).tolist()]
            for middle, size in ((shift, num_members), (0, num_others))
        )
    )


@pytest.mark.usefixtures("same_noise")
def test_more_noise_makes_the_interval_wider_and_then_there_is_no_figure() -> None:
    exact = counted(*population(0.0, 1600, 400, 0))
    widths = []
    for noise in (0.1, 4.0, 8.0):
        area = membership.estimate("loss", membership.release(exact, noise), noise).auc
        assert area is not None
        widths.append(area.high - area.low)
    assert widths == sorted(widths)
    told = membership.estimate("loss", membership.release(exact, 100.0), 100.0)
    assert told.auc is None
    assert [rate.tpr for rate in told.rates] == [None, None]
    assert [rate.needs for rate in told.rates] == [20_000, 200_000]


def test_a_rate_of_noised_counts_is_told_where_false_alarms_are_surely_few() -> None:
    members = [(0.01, 9.5)] * 3000 + [(3.0, 4.5)] * 3000
    exact = counted(members, [(3.0, 4.5)] * 5000)
    one_percent, one_per_mille = membership.estimate(
        "loss", membership.release(exact, 5.0), 5.0
    ).rates
    assert one_percent.tpr is not None
    assert one_percent.tpr.value == pytest.approx(0.5, abs=0.03)
    assert one_per_mille.tpr is None
    assert one_per_mille.needs == 10_000


@pytest.mark.usefixtures("same_noise")
def test_the_width_that_is_announced_is_about_the_most_that_comes() -> None:
    exact = counted(*population(0.0, 400, 100, 1))
    told = [
        membership.estimate("reference", membership.release(exact, 2.0), 2.0).auc
        for _ in range(200)
    ]
    widths = [(area.high - area.low) / 2 for area in told if area is not None]
    assert len(widths) == 200
    announced = membership.half_width(400, 100, 2.0)
    assert np.median(widths) < 1.1 * announced
    assert sum(width < 1.1 * announced for width in widths) >= 0.9 * 200
