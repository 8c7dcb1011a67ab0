"""What a run promises, in words and as data: printed before approval, logged, and reported.

A bare epsilon says nothing: whose presence, compared with what, by which accountant, and what is
left out all belong to the claim.
"""

from dataclasses import asdict, dataclass

from privacy.dp.calibrate import ACCOUNTANT, epsilon, run_event
from privacy.dp.config import MechanismConfig, Unit

NEIGHBOURS = "add or remove one unit"
NOT_COVERED = (
    "other runs on the same people: the site's ledger adds those up, this statement does not",
    "a unit that other sites hold too: every site's epsilon counts for that unit",
    "what is fixed in the plan or declared in public, such as the number of units",
    "what the masked text says of groups of people: only single units are hidden",
    "rounding of floating-point sums and timing of a round",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarantee:
    """A differential privacy statement that can be checked from its own numbers.

    Attributes:
      epsilon: Upper bound over all releases of the run, in nats.
      delta: Probability that the bound fails.
      unit: Whose presence is hidden.
      neighbours: What the guarantee compares.
      mechanism: What is released, in words.
      accountant: How the bound was computed.
      noise_multiplier: Standard deviation of the noise over `clip_norm`.
      clip_norm: Largest contribution of a unit to a step.
      sample_rate: Probability of a unit to take part in a step.
      num_steps: Releases in all.
      not_covered: What the statement does not say.
    """

    epsilon: float
    delta: float
    unit: Unit
    neighbours: str
    mechanism: str
    accountant: str
    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    num_steps: int
    not_covered: tuple[str, ...] = NOT_COVERED

    def as_dict(self) -> dict[str, object]:
        """The statement as JSON can carry it."""
        return {**asdict(self), "unit": self.unit.value, "not_covered": list(self.not_covered)}

    def in_words(self) -> str:
        """The statement as a paragraph."""
        bound = "without bound" if self.epsilon == float("inf") else f"e^{self.epsilon:.2f}"
        return (
            f"Whatever anybody concludes from this site's updates, they would have concluded with "
            f"nearly the same probability had any one {self.unit} not been there: the "
            f"probabilities differ by a factor of at most {bound}, except with probability "
            f"{self.delta:g} (epsilon {self.epsilon:.3f}, delta {self.delta:g}; neighbours: "
            f"{self.neighbours}). Each of {self.num_steps} steps draws every {self.unit} with "
            f"probability {self.sample_rate:g}, clips its gradient to norm {self.clip_norm:g}, "
            f"all its records together, and adds Gaussian noise of {self.noise_multiplier:g} "
            f"times that norm. Accountant: {self.accountant}."
        )


def guarantee_of(mechanism: MechanismConfig, num_rounds: int) -> Guarantee:
    """What a run of `num_rounds` rounds promises, by what it does and not by what it claims."""
    event = run_event(mechanism, num_rounds)
    return Guarantee(
        epsilon=epsilon([event], mechanism.delta),
        delta=mechanism.delta,
        unit=mechanism.unit,
        neighbours=NEIGHBOURS,
        mechanism="Poisson-sampled Gaussian mechanism with clipping per unit",
        accountant=f"{ACCOUNTANT} (privacy loss distributions, joint composition, upper bound)",
        noise_multiplier=event.noise_multiplier,
        clip_norm=mechanism.clip_norm,
        sample_rate=event.sample_rate,
        num_steps=event.num_steps,
    )
