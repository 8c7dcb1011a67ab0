"""What one run does for privacy: the numbers that fix its guarantee.

The neighbour relation is *add or remove one unit*: two populations are neighbours when one has
exactly one unit more, with all records of that unit. Replacing a unit costs up to twice as much.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

MIN_CLIP_NORM = 1e-9
"""Of shorter gradients, norms in float32 could come out too short (`privacy.dp.attribution`)."""


class Unit(StrEnum):
    """Whom the guarantee protects; all records of a unit are clipped together."""

    RECORD = "record"
    PATIENT = "patient"
    CUSTOMER = "customer"
    # A patient or a customer, where hospitals and banks run one plan.
    PERSON = "person"


@dataclass(frozen=True, kw_only=True, slots=True)
class MechanismConfig:
    """Poisson-sampled Gaussian mechanism, clipped per unit (Abadi et al. 2016, arXiv 1607.00133).

    Attributes:
      unit: Whom the guarantee protects.
      target_epsilon: Upper bound on epsilon over all rounds of the run, in nats.
      delta: Probability that the bound fails; a site requires it below 1 / its number of units.
      noise_multiplier: Standard deviation of the noise divided by `clip_norm`.
      clip_norm: Largest L2 norm that one unit contributes to a step's gradient sum, over all
        trained tensors together.
      sample_rate: Probability with which each unit takes part in a step, independently.
      steps_per_round: Optimizer steps in a round; each is one release of the mechanism.
    """

    unit: Unit
    target_epsilon: float
    delta: float
    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    steps_per_round: int

    def __post_init__(self) -> None:
        """Refuse values under which the guarantee would be void."""
        for name in ("target_epsilon", "noise_multiplier", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"expected 0 < {name} < infinity, got {value}")
        if self.clip_norm < MIN_CLIP_NORM:
            raise ValueError(f"expected clip_norm >= {MIN_CLIP_NORM}, got {self.clip_norm}")
        if not 0 < self.delta < 1:
            raise ValueError(f"expected 0 < delta < 1, got {self.delta}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"expected 0 < sample_rate <= 1, got {self.sample_rate}")
        if self.steps_per_round < 1:
            raise ValueError(f"expected steps_per_round >= 1, got {self.steps_per_round}")
