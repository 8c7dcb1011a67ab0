"""Why some things cannot be asked for, where taking a unit away shows nothing.

The neighbour test sees what moves the sum. An accountant that reports too little, batches that are
no Poisson sample, noise of few values and products of few digits leave the sum's moves as they
are. Each is put in here by hand, and a figure shows that the claim is then false.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from dp_accounting import NeighboringRelation
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from torch import Tensor, nn

from model.grouped import Groups, outer
from model.tokenizer import Example
from privacy.dp import attribution, engine
from privacy.dp.attribution import Form
from privacy.dp.calibrate import Event, epsilon
from privacy.dp.engine import PrivateGradients

MakeModel = Callable[..., nn.Module]
MakeUnits = Callable[..., list[list[Example]]]


def gaussian_delta(mean: float, cost: float) -> float:
    """Delta of telling N(0, 1) from N(mean, 1) at an epsilon: Balle & Wang 2018, theorem 8."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return phi(mean / 2 - cost / mean) - math.exp(cost) * phi(-mean / 2 - cost / mean)


def gaussian_dp_epsilon(releases: Event, delta: float) -> float:
    """What the Gaussian-DP approximation reports: Bu et al. 2020, arXiv 1911.11607."""
    inverse = releases.noise_multiplier**-2
    mean = releases.sample_rate * math.sqrt(releases.num_steps * math.expm1(inverse))
    low, high = 0.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mean, middle) > delta else (low, middle)
    return high


def test_the_gaussian_accountant_reports_less_than_a_lower_bound_on_the_truth() -> None:
    releases, delta = Event(0.6, 0.0041, 5000), 1e-7
    reported = gaussian_dp_epsilon(releases, delta)
    assert reported == pytest.approx(6.11, abs=0.01)
    # Rounded the other way, privacy loss distributions bound epsilon from below.
    below = (
        from_gaussian_mechanism(
            releases.noise_multiplier,
            pessimistic_estimate=False,
            use_connect_dots=False,
            value_discretization_interval=1e-4,
            sampling_prob=releases.sample_rate,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        )
        .self_compose(releases.num_steps)
        .get_epsilon_for_delta(delta)
    )
    assert reported + 2 < below < epsilon([releases], delta)


@pytest.mark.parametrize(("noise_multiplier", "num_batches"), [(0.8, 100), (1.0, 20)])
def test_batches_in_a_known_order_break_what_a_poisson_accountant_claims(
    noise_multiplier: float, num_batches: int
) -> None:
    """Each unit once in an epoch, in a batch that somebody knows: no sampling amplifies.

    Then an epoch is one Gaussian release for a unit, whose delta is known exactly. Poisson
    sampling of the same mean batch size, over as many steps, is what would be accounted.
    """
    delta = 1e-5
    claimed = epsilon([Event(noise_multiplier, 1 / num_batches, num_batches)], delta)
    assert gaussian_delta(1 / noise_multiplier, claimed) > 1000 * delta


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).bfloat16().double().numpy()


def test_noise_in_bfloat16_gives_a_small_sum_away(
    make_model: MakeModel, make_units: MakeUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is released stands on the noise's grid when nobody is there, and beside it else."""
    model, units = make_model(), make_units((7,))

    def on_the_grid(units: list[list[Example]]) -> float:
        with PrivateGradients(model, clip_norm=1.0) as gradients:
            summed = gradients.clipped_sum(units)
            released = gradients.release(summed, noise_multiplier=1.0, denominator=1.0)
        chosen = released[summed.total.abs() > 1e-6] if units else released
        return float((chosen == chosen.bfloat16().float()).float().mean())

    # A float32 is a bfloat16 by chance once in 65,536 times.
    assert on_the_grid([]) < 0.01
    assert on_the_grid(units) < 0.01
    sound = engine.draw_noise
    monkeypatch.setattr(engine, "draw_noise", lambda size: to_bfloat16(sound(size)))
    assert on_the_grid([]) == 1.0
    assert on_the_grid(units) < 0.1


def test_a_million_draws_of_noise_in_bfloat16_have_a_few_thousand_values() -> None:
    noise = engine.draw_noise(1_000_000)
    assert len(np.unique(noise)) > 999_000
    assert len(np.unique(to_bfloat16(noise))) < 5_000


def to_tf32(x: Tensor) -> Tensor:
    """Ten bits after the leading one, as a GPU's tensor cores read a float32."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_a_sum_of_tf32_products_is_longer_than_the_norm_that_it_was_clipped_by() -> None:
    # All values round up: 1 + 2**-11 becomes 1 + 2**-10.
    wide, narrow = torch.full((8, 64), 1 + 2.0**-11), torch.ones(8, 8)
    ends = torch.tensor([8], dtype=torch.int32)
    groups = Groups(ends=ends, num_experts=1, num_units=1, num_rows=8)
    kept = attribution._Kept(0, Form.GRAM, groups, narrow, wide, [])
    factor = 1 / float(attribution._gram_squares(kept).sqrt())
    assert float(outer(narrow * factor, wide, ends).norm()) <= 1.0001
    assert float(outer(to_tf32(narrow * factor), to_tf32(wide), ends).norm()) > 1.0001
