"""What a run promises, in words: shown to whoever approves a plan.

A bare epsilon says nothing: whose presence, compared with what, by which accountant, and what is
left out all belong to the claim. What is left out is the same list here and in every report.
"""

import math
from dataclasses import dataclass

from privacy.dp.calibrate import ACCOUNTANT, epsilon, run_event
from privacy.dp.config import MechanismConfig, Unit

NEIGHBOURS = "add or remove one unit"
# Reports show them too, translated.
NOT_COVERED = (
    "the number of units that a site declares, its name, the times at which it acts and the"
    " size of its messages;",
    "the set of labels, and figures measured on held-out units, as far as a site hands them over;",
    "anything a site publishes by other means, and budgets that it spends outside this ledger;",
    "a person who is a patient or customer of two institutions, or stands under two ids, who"
    " is protected once for each;",
    "what one unit moves in the gradients of its batch mates where two experts are nearly"
    " tied: it is measured by the self-test and not bounded by proof;",
    "a site folder put back from a copy, which lets a round be trained and sent a second time;",
    "how long evaluation takes, which depends on held-out records;",
    "whether a site tests an adapter and releases figures of it, which a person decides who may"
    " have seen exact ones; the noised figures themselves are paid from the site's ledger, beyond"
    " the epsilon of the run;",
    "attacks on the last digits of floating-point noise and sums, and on the time that a round"
    " takes;",
    "harm from what is true of a population at large, which a model may learn with or without"
    " any one person.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarantee:
    """A differential privacy statement that can be checked from its own numbers.

    Attributes:
      epsilon: Upper bound over all releases of the run, in nats.
      delta: Probability that the bound fails.
      unit: Whose presence is hidden.
      neighbours: What the guarantee compares.
      accountant: How the bound was computed.
      noise_multiplier: Standard deviation of the noise over `clip_norm`.
      clip_norm: Largest contribution of a unit to a step.
      sample_rate: Probability of a unit to take part in a step.
      num_steps: Releases in all.
    """

    epsilon: float
    delta: float
    unit: Unit
    neighbours: str
    accountant: str
    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    num_steps: int

    def in_words(self) -> str:
        """The statement as a paragraph."""
        factor = f"by a factor of at most e^{_up(self.epsilon, 2)}"
        if math.isinf(self.epsilon):
            factor = "without a bound"
        return (
            f"Whatever anybody concludes from this site's updates, they would have concluded with "
            f"nearly the same probability had any one {self.unit} not been there: the "
            f"probabilities differ {factor}, except with probability "
            f"{self.delta:g} (epsilon {_up(self.epsilon, 3)}, delta {self.delta:g}; neighbours: "
            f"{self.neighbours}). Each of {self.num_steps} steps draws every {self.unit} with "
            f"probability {self.sample_rate:g}, clips its gradient to norm {self.clip_norm:g}, "
            f"all its records together, and adds Gaussian noise of {self.noise_multiplier:g} "
            f"times that norm. Accountant: {self.accountant}."
        )


def _up(bound: float, digits: int) -> str:
    """A bound with a few digits; never rounded down, since one that is said too low is none."""
    if math.isinf(bound):
        return "inf"
    return f"{math.ceil(bound * 10**digits) / 10**digits:.{digits}f}"


def guarantee_of(mechanism: MechanismConfig, num_rounds: int) -> Guarantee:
    """What a run of `num_rounds` rounds promises, by what it does and not by what it claims."""
    event = run_event(mechanism, num_rounds)
    return Guarantee(
        epsilon=epsilon([event], mechanism.delta),
        delta=mechanism.delta,
        unit=mechanism.unit,
        neighbours=NEIGHBOURS,
        accountant=f"{ACCOUNTANT} (privacy loss distributions, joint composition, upper bound)",
        noise_multiplier=event.noise_multiplier,
        clip_norm=mechanism.clip_norm,
        sample_rate=event.sample_rate,
        num_steps=event.num_steps,
    )
