"""Numbers of a computer are no real numbers: what that does to the noise, and what it does not."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.adapter import trained_parameters
from privacy.dp import engine
from privacy.dp.audit import TOLERANCE
from privacy.dp.calibrate import Event, epsilon
from privacy.dp.engine import ClippedSum, PrivateGradients, draw_noise

MakeModel = Callable[..., nn.Module]
NUM_DRAWS = 200_000


def as_bfloat16(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).bfloat16().double().numpy()


@pytest.fixture(params=["float32", "bfloat16", "autocast"])
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> Iterator[nn.Module]:
    made = make_model("olmoe", lora_rank=32, targets=("attention", "experts"))
    if request.param == "bfloat16":
        factors = {id(p) for p in trained_parameters(made)}
        for parameter in made.parameters():
            if parameter.requires_grad is False and id(parameter) not in factors:
                parameter.data = parameter.data.bfloat16()
        for name, parameter in made.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
    autocast = request.param == "autocast"
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        yield made


def num_distinct(model: nn.Module) -> tuple[int, int]:
    """Different values among those that are sent when nobody was drawn, and how many there are."""
    with PrivateGradients(model, clip_norm=0.3) as gradients:
        nobody = gradients.clipped_sum([])
        num_releases = -(-NUM_DRAWS // gradients.num_values)
        sent = torch.cat(
            [
                gradients.release(nobody, noise_multiplier=0.7, denominator=80.0)
                for _ in range(num_releases)
            ]
        )
    assert sent.dtype == torch.float32
    return len(sent.unique()), len(sent)


def test_what_is_sent_has_nearly_as_many_values_as_draws(model: nn.Module) -> None:
    """In bfloat16 a million draws have 3,599 values; in float32 some thousand meet by chance."""
    found, drawn = num_distinct(model)
    assert found > 0.95 * drawn


def test_noise_that_is_drawn_in_bfloat16_has_few_values(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_model("olmoe", lora_rank=32, targets=("attention", "experts"))
    monkeypatch.setattr(engine, "draw_noise", lambda size: as_bfloat16(draw_noise(size)))
    found, _ = num_distinct(made)
    assert found < 5_000


def release(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, total: float, noise: float
) -> Tensor:
    """What is sent for a sum of one value everywhere, under noise that is known."""
    monkeypatch.setattr(engine, "draw_noise", lambda size: np.full(size, noise))
    with PrivateGradients(model, clip_norm=0.5) as gradients:
        summed = ClippedSum(torch.full((gradients.num_values,), total), [], 0.0)
        return gradients.release(summed, noise_multiplier=2.0, denominator=3.0)


@pytest.mark.parametrize(
    ("total", "noise"),
    [(0.1, 1.3), (1e-6, 2.0), (-3.25, 0.7071), (1 + 2.0**-23, 2.0**-30), (0.0, 1 + 2.0**-40)],
)
def test_a_sum_is_rounded_once_and_only_after_the_noise(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, total: float, noise: float
) -> None:
    """In float64 until then: noise of fewer bits, or added in fewer, gives another value."""
    expected = np.float32((np.float64(np.float32(total)) + np.float64(noise)) / 3.0)
    assert release(make_model(), monkeypatch, total, noise).unique().tolist() == [expected]


def test_rounding_sees_the_noised_sum_and_nothing_else(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Post-processing: sums of neighbours that noise makes equal are sent as the same bits."""
    model = make_model()
    for total, other in ((0.25, 0.75), (0.0, 0.5), (-0.5, 2.0**-20)):
        noise = 1.375
        first = release(model, monkeypatch, total, noise)
        second = release(model, monkeypatch, other, noise + total - other)
        assert torch.equal(first, second)


def test_noise_is_finer_than_what_is_sent() -> None:
    """Bits of a float64 that tell which sum it was (Mironov 2012) are cut, and were random."""
    noise = draw_noise(NUM_DRAWS)
    assert float(np.mean(noise == noise.astype(np.float32))) < 1e-4
    # A float32 keeps the upper 23 of 52 bits. The lowest of a sum of four are not all random.
    bits = noise.view(np.uint64)
    for place in range(6, 29):
        share = float(np.mean((bits >> np.uint64(place)) & np.uint64(1)))
        assert share == pytest.approx(0.5, abs=5 * 0.5 / NUM_DRAWS**0.5)


@pytest.mark.parametrize("releases", [Event(0.69, 0.08, 10), Event(1.0, 0.0256, 1000)])
def test_what_rounding_may_add_to_a_unit_costs_next_to_nothing(releases: Event) -> None:
    """A unit may move the sum by 1.0001 clipping norms before the self-test stops training."""
    as_if = releases.noise_multiplier / (1 + TOLERANCE)
    more = epsilon([Event(as_if, releases.sample_rate, releases.num_steps)], 1e-5)
    assert 0 <= more - epsilon([releases], 1e-5) < 0.002
