"""The step that the global adapter takes along the mean of the sites' updates.

The mean update is treated as the direction of a gradient step (FedOpt, Reddi et al. 2020, arXiv
2003.00295). `mean` adds it; `adam` keeps its moments (Kingma & Ba 2014, arXiv 1412.6980), so that
sites may send one large private step a round and nobody's optimizer begins anew. Under privacy
both are post-processing: only what the sites have released goes in.

Adam divides by the root of the mean square, to which noise adds its variance: the more noise, the
shorter the steps, and a rate that fits large sites would leave small ones where they began. The
variance is known from the plan, so what it takes from the step's length can be given back. It is
done for all values alike: a single value's mean square over some tens of rounds is too rough to
take a variance from (as Tang et al. 2023, arXiv 2312.14334, do over many more steps).

The arithmetic is float64 and elementwise, so every machine takes the same step.

Shape suffix: P values of all trained tensors.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.config import ServerOptimizerConfig
from model.tensors import Packed

# Kingma & Ba's; smaller than the square root of any second moment that noise leaves.
_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Moments:
    """What Adam remembers between rounds.

    Attributes:
      first: Decaying mean of the mean updates, float64, shape (P,).
      second: Decaying mean of their squares, float64, shape (P,).
      num_steps: Steps taken so far.
    """

    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]
    num_steps: int

    def __post_init__(self) -> None:
        """Refuse moments that no sequence of updates leaves."""
        if self.first.shape != self.second.shape or self.first.ndim != 1:
            raise ValueError("expected two moments of one shape (P,)")
        if self.num_steps < 0 or not (np.isfinite(self.first).all() and (self.second >= 0).all()):
            raise ValueError("expected finite moments, and squares of at least 0")

    @classmethod
    def none(cls, size: int) -> "Moments":
        """Before the first step."""
        return cls(np.zeros(size), np.zeros(size), 0)


def server_step(
    config: ServerOptimizerConfig,
    mean_P: Packed,
    moments: Moments,
    *,
    rate: float,
    noise_variance: float = 0.0,
) -> tuple[Packed, Moments]:
    """What is added to the trained tensors, float32, shape (P,), and the moments after it.

    Args:
      config: The plan's.
      mean_P: Weighted mean of the sites' updates, float32.
      moments: As the last step left them.
      rate: The round's learning rate (`ServerOptimizerConfig.rate`).
      noise_variance: Of each value of `mean_P`, what its noise adds; 0 where none is known.

    Raises:
      ValueError: Moments of another size.
    """
    if moments.first.shape != mean_P.shape:
        raise ValueError(f"expected moments of {mean_P.size} values, got {moments.first.size}")
    update_P = mean_P.astype(np.float64)
    if config.name == "mean":
        return (rate * update_P).astype(np.float32), moments
    num_steps = moments.num_steps + 1
    first_P = config.beta_1 * moments.first + (1 - config.beta_1) * update_P
    second_P = config.beta_2 * moments.second + (1 - config.beta_2) * update_P**2
    direction_P = first_P / (1 - config.beta_1**num_steps)
    square_P = second_P / (1 - config.beta_2**num_steps)
    gain = _noise_gain(float(square_P.mean()), noise_variance, config.max_noise_gain)
    step_P = rate * gain * direction_P / (np.sqrt(square_P) + _EPSILON)
    return step_P.astype(np.float32), Moments(first_P, second_P, num_steps)


def _noise_gain(square: float, noise_variance: float, most: float) -> float:
    """What a step is multiplied with so that it is as long as without the noise; 1 to `most`."""
    signal = square - noise_variance
    if noise_variance <= 0 or square <= 0:
        return 1.0
    # The mean square of many values may lie below the variance by chance.
    return most if signal * most**2 <= square else math.sqrt(square / signal)
