"""The server's step: the mean itself, or Adam's step along it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ServerOptimizerConfig
from model.fedopt import Moments, server_step

UPDATES = st.lists(
    st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=1, max_size=6
)


@given(updates=UPDATES, learning_rate=st.floats(0.001, 2.0))
@settings(deadline=None)
def test_adam_takes_the_step_of_torchs_adam(
    updates: list[list[float]], learning_rate: float
) -> None:
    config = ServerOptimizerConfig(name="adam", learning_rate=learning_rate, beta_1=0.5)
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    theirs = torch.optim.Adam([parameter], lr=learning_rate, betas=(0.5, 0.999), eps=1e-8)
    moments, ours = Moments.none(3), np.zeros(3)
    for update in updates:
        mean = np.array(update, dtype=np.float32)
        # torch goes against a gradient, a server along an update.
        parameter.grad = -torch.from_numpy(mean.astype(np.float64))
        theirs.step()
        step, moments = server_step(config, mean, moments, rate=learning_rate)
        ours += step
    np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert moments.num_steps == len(updates)


def test_the_mean_is_added_as_it_is_and_remembers_nothing() -> None:
    mean = np.array([1.0, -2.0], dtype=np.float32)
    step, moments = server_step(ServerOptimizerConfig(), mean, Moments.none(2), rate=1.0)
    np.testing.assert_array_equal(step, mean)
    assert moments.num_steps == 0


def test_a_rate_without_decay_is_the_same_in_every_round() -> None:
    config = ServerOptimizerConfig(learning_rate=0.3)
    assert {config.rate(number, 7) for number in range(1, 8)} == {0.3}


@given(num_rounds=st.integers(1, 200), learning_rate=st.floats(0.001, 2.0))
def test_a_cosine_rate_is_that_of_torchs_schedule(num_rounds: int, learning_rate: float) -> None:
    config = ServerOptimizerConfig(learning_rate=learning_rate, decay="cosine")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_rounds)
    for number in range(1, num_rounds + 1):
        assert config.rate(number, num_rounds) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="decay none or cosine"):
        ServerOptimizerConfig(decay="linear")  # type: ignore[arg-type]


@given(deviation=st.floats(0.1, 3.0), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_a_step_under_known_noise_is_as_long_as_one_without_it(
    deviation: float, seed: int
) -> None:
    """Along the signal: what the noise adds across it is the price of the privacy."""
    random = np.random.default_rng(seed)
    signal = random.choice([-1.0, 1.0], size=20_000)
    noised = (signal + random.normal(0, deviation, signal.size)).astype(np.float32)
    none = Moments.none(signal.size)
    config = ServerOptimizerConfig(name="adam", learning_rate=0.1, max_noise_gain=10.0)
    clean, _ = server_step(config, signal.astype(np.float32), none, rate=0.1)
    followed, _ = server_step(config, noised, none, rate=0.1, noise_variance=deviation**2)
    plain, _ = server_step(config, noised, none, rate=0.1)
    gain = np.linalg.norm(followed) / np.linalg.norm(plain)
    assert gain == pytest.approx(np.sqrt(1 + deviation**2), rel=0.15)
    assert np.linalg.norm(clean) == pytest.approx(0.1 * np.sqrt(signal.size), rel=1e-3)


@pytest.mark.parametrize("noise_variance", [1.0, 2.0, 1e9])
def test_a_step_in_nothing_but_noise_is_made_longer_by_the_bound_alone(
    noise_variance: float,
) -> None:
    config = ServerOptimizerConfig(name="adam", learning_rate=0.1, max_noise_gain=2.5)
    mean = np.ones(4, dtype=np.float32)
    plain, _ = server_step(config, mean, Moments.none(4), rate=0.1)
    step, _ = server_step(config, mean, Moments.none(4), rate=0.1, noise_variance=noise_variance)
    np.testing.assert_allclose(step, 2.5 * plain, rtol=1e-6)


@given(noise_variance=st.floats(0, 10), most=st.floats(1, 10))
def test_a_step_is_never_made_shorter_nor_longer_than_the_bound(
    noise_variance: float, most: float
) -> None:
    config = ServerOptimizerConfig(name="adam", learning_rate=0.1, max_noise_gain=most)
    mean = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    plain, _ = server_step(config, mean, Moments.none(3), rate=0.1)
    step, _ = server_step(config, mean, Moments.none(3), rate=0.1, noise_variance=noise_variance)
    ratio = step / plain
    assert (ratio >= 1 - 1e-6).all()
    assert (ratio <= most + 1e-5).all()


def test_a_gain_is_for_adam_alone() -> None:
    with pytest.raises(ValueError, match="only with adam"):
        ServerOptimizerConfig(max_noise_gain=2.0)


def test_moments_of_another_size_are_refused() -> None:
    mean = np.zeros(2, dtype=np.float32)
    with pytest.raises(ValueError, match="moments of 2 values"):
        server_step(ServerOptimizerConfig(), mean, Moments.none(3), rate=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.0},
        {"beta_1": 1.0},
        {"beta_2": -0.1},
        {"learning_rate": float("nan")},
        {"max_noise_gain": 0.5},
        {"max_noise_gain": float("inf")},
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ServerOptimizerConfig(name="adam", **changes)


def test_moments_that_no_updates_leave_are_refused() -> None:
    with pytest.raises(ValueError, match="squares of at least 0"):
        Moments(np.zeros(2), np.array([0.0, -1.0]), 1)
    with pytest.raises(ValueError, match="one shape"):
        Moments(np.zeros(2), np.zeros(3), 1)
