"""How much privacy a number of releases costs, and how much noise a target needs.

A release is one step of the Poisson-sampled Gaussian mechanism. The accountant composes the
privacy loss distributions of all releases jointly (Koskela et al. 2020, arXiv 1906.03049;
Doroshenko et al. 2022, arXiv 2207.04380) with Google's dp-accounting, and rounds every loss up:
what it reports is an upper bound, for add-or-remove-one-unit. Adding up the epsilons of single
rounds would be several times larger; the Gaussian-DP approximation would be smaller than the
truth, and is not offered.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from privacy.dp.config import MechanismConfig
from privacy.errors import ConfigError

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

ACCOUNTANT = "PLD"
# Width of a bucket of the privacy loss. Ten times finer would lower epsilon by about a thousandth,
# at ten times the cost.
_LOSS_INTERVAL = 1e-3
_MAX_NOISE_MULTIPLIER = 10_000
# Beyond these the accountant may take minutes and gigabytes, for a plan that a stranger sends.
_MAX_ROUGH_LOSS = 1_000.0
_MAX_STEPS = 1_000_000
_FORESEEN_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Event:
    """A number of equal releases: steps of the Poisson-sampled Gaussian mechanism.

    Attributes:
      noise_multiplier: Standard deviation of the noise, divided by the largest norm of one unit's
        contribution.
      sample_rate: Probability with which each unit takes part in a step, independently.
      num_steps: How many such releases.
    """

    noise_multiplier: float
    sample_rate: float
    num_steps: int

    def __post_init__(self) -> None:
        """Refuse values that no release can have."""
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(
                f"expected 0 < noise_multiplier < infinity, got {self.noise_multiplier}"
            )
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"expected 0 < sample_rate <= 1, got {self.sample_rate}")
        if self.num_steps < 1:
            raise ValueError(f"expected num_steps >= 1, got {self.num_steps}")


def load() -> None:
    """Load the accountant's library, which takes seconds, before the first round waits for it."""
    _one_release(1.0, 1.0)


def group(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same releases, equal kinds counted together, in a fixed order.

    Composition does not depend on the order, so neither may the number that an auditor recomputes.
    """
    counts: dict[tuple[float, float], int] = {}
    for event in events:
        kind = (float(event.noise_multiplier), float(event.sample_rate))
        counts[kind] = counts.get(kind, 0) + event.num_steps
    return tuple(Event(*kind, num_steps) for kind, num_steps in sorted(counts.items()))


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Upper bound on epsilon, in nats, of all `events` together; infinite where no bound is known.

    Releases so little noised that they would cost dozens may count as infinite too, and so do more
    than a million steps: nobody means such a plan, and to compute it could take gigabytes.

    Raises:
      ValueError: `delta` is no probability between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"expected 0 < delta < 1, got {delta}")
    grouped = group(events)
    return _epsilon(grouped, float(delta)) if grouped else 0.0


def calibrate_noise(
    target_epsilon: float, delta: float, sample_rate: float, num_steps: int
) -> float:
    """Smallest noise multiplier, in whole thousandths, that keeps `num_steps` within a target.

    Raises:
      ValueError: A value is out of range, or no noise multiplier up to 10,000 reaches the target.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise ValueError(f"expected 0 < target_epsilon < infinity, got {target_epsilon}")

    def fits(thousandths: int) -> bool:
        return (
            epsilon([Event(thousandths / 1000, sample_rate, num_steps)], delta) <= target_epsilon
        )

    enough = 1000
    while not fits(enough):
        enough *= 2
        if enough > _MAX_NOISE_MULTIPLIER * 1000:
            raise ValueError(
                "expected a target_epsilon that noise can reach, "
                f"got {target_epsilon} at delta {delta}"
            )
    too_little = 0 if enough == 1000 else enough // 2
    while enough - too_little > 1:
        middle = (enough + too_little) // 2
        if fits(middle):
            enough = middle
        else:
            too_little = middle
    return enough / 1000


def round_event(mechanism: MechanismConfig) -> Event:
    """What one round of a run releases."""
    return Event(mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps_per_round)


def run_event(mechanism: MechanismConfig, num_rounds: int) -> Event:
    """What all rounds of a run release."""
    return Event(
        mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps_per_round * num_rounds
    )


def foresee(
    mechanism: MechanismConfig, num_rounds: int, delta: float, spent: Iterable[Event] = ()
) -> None:
    """Work out what the next `num_rounds` rounds will cost, before somebody waits for a number.

    In a thread of its own, and no more of them than are kept.
    """
    before = list(spent)
    for count in range(1, min(num_rounds, _FORESEEN_ROUNDS) + 1):
        epsilon([*before, run_event(mechanism, count)], delta)


def check_mechanism(mechanism: MechanismConfig, num_rounds: int) -> None:
    """Check that a run of `num_rounds` costs at most the epsilon that its plan claims.

    Raises:
      ConfigError: The noise is too little for the claim.
    """
    cost = epsilon([run_event(mechanism, num_rounds)], mechanism.delta)
    if not cost <= mechanism.target_epsilon:
        raise ConfigError(
            f"expected epsilon <= {mechanism.target_epsilon} over {num_rounds} rounds, "
            f"got {cost:.3f} at delta {mechanism.delta}",
            hint="ask for a plan with more noise, fewer rounds or a lower sample rate",
        )


@lru_cache(maxsize=256)
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    num_steps = sum(event.num_steps for event in events)
    if num_steps > _MAX_STEPS or _rough_loss(events) > _MAX_ROUGH_LOSS:
        return math.inf
    pld = _release(events[0]).self_compose(events[0].num_steps)
    for event in events[1:]:
        pld = pld.compose(_release(event).self_compose(event.num_steps))
    cost = float(pld.get_epsilon_for_delta(delta))
    return math.inf if math.isnan(cost) else cost


def _release(event: Event) -> "PrivacyLossDistribution":
    """The privacy loss of one release of this kind, for add-or-remove-one-unit."""
    return _one_release(event.noise_multiplier, event.sample_rate)


@lru_cache(maxsize=32)
def _one_release(noise_multiplier: float, sample_rate: float) -> "PrivacyLossDistribution":
    # Kept: it is most of the work, and every round of a run composes the same release again.
    # Imported where it is used: it takes seconds to load, and most commands never get here.
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(
        noise_multiplier,
        value_discretization_interval=_LOSS_INTERVAL,
        sampling_prob=sample_rate,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


def _rough_loss(events: tuple[Event, ...]) -> float:
    """Privacy loss by the central limit theorem, far beyond the truth where noise is scarce."""
    total = 0.0
    for event in events:
        # The floor keeps exp() a float; anything there is beyond every bound already.
        inverse = 1 / max(event.noise_multiplier, 0.05) ** 2
        total += event.sample_rate**2 * event.num_steps * math.expm1(inverse)
    return total / 2
