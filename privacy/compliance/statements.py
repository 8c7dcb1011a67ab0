"""The report's fixed sentences: what is promised here, and what evidence cannot show.

They follow what NIST SP 800-226 asks of whoever claims differential privacy. Each is written to be
exact first; a reader who knows nothing of the mathematics should still not come away with more
than is true.
"""

import math
from importlib.metadata import PackageNotFoundError, version

from privacy.dp.calibrate import ACCOUNTANT
from privacy.plan import RunPlan

NOT_SHOWN = (
    (
        "That an entry is true.",
        "An entry proves who said something and that it was not changed since. That a site"
        " masked its records as it says, or drew its noise as it says, rests on the software"
        " that it runs and on its own audit.",
    ),
    (
        "That nothing happened outside the log.",
        "A party that acts without writing leaves no trace here. Each institution can compare"
        " the log with its own list of what left (cloister-site sent) and with its network's"
        " records.",
    ),
    (
        "That everyone saw the same log.",
        "The coordinator signs the log. Had it shown another log to someone else, only a"
        " comparison of both would tell. Each party should compare size and root of this report"
        " with the ones it holds.",
    ),
    (
        "That the log is complete at its end.",
        "A log that is cut off together with its newer checkpoints looks like a shorter log."
        " The journals that the institutions keep show whether their own entries are in it.",
    ),
    (
        "That masking found all personal data.",
        "Masking finds what its patterns describe; recall on planted examples is no recall on"
        " records. The protection that is stated in numbers is differential privacy, which does"
        " not depend on masking.",
    ),
    (
        "That the clocks were right.",
        "Times are those of the parties' own clocks. The order of entries is that of the log.",
    ),
)

NOT_COVERED = (
    "the number of units that a site declares, its name, the times at which it acts and the"
    " size of its messages;",
    "the set of labels, and figures measured on held-out units, as far as a site hands them over;",
    "anything a site publishes by other means, and budgets that it spends outside this ledger;",
    "harm from what is true of a population at large, which a model may learn with or without"
    " any one person.",
)


def accountant_version() -> str:
    """The accountant that recomputed epsilon, with its version."""
    try:
        return (
            f"{ACCOUNTANT} (privacy loss distributions), dp-accounting {version('dp-accounting')}"
        )
    except PackageNotFoundError:
        return f"{ACCOUNTANT} (privacy loss distributions)"


def _factor(epsilon: float) -> str:
    """The power e^epsilon, in figures as far as figures tell anything."""
    power = f"e^{epsilon:g}"
    return f"{power} (about {_plain(math.exp(epsilon))})" if epsilon <= 12 else power


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def privacy_claim(plan: RunPlan) -> list[tuple[str, str]]:
    """The differential privacy claim of a plan, point by point."""
    mechanism, unit = plan.mechanism, plan.mechanism.unit.value
    num_rounds, steps = plan.rounds.num_rounds, plan.mechanism.steps_per_round
    return [
        (
            "Claim",
            f"({mechanism.target_epsilon:g}, {mechanism.delta:g})-differential privacy for each"
            f" site's updates over all {num_rounds} rounds of the run together.",
        ),
        (
            "In words",
            "Someone who sees all updates of a site and knows everything about all its other"
            f" {unit}s can still learn only so much about whether one {unit} took part: it"
            " changes the odds of any conclusion by a factor of at most"
            f" {_factor(mechanism.target_epsilon)}, except with probability {mechanism.delta:g}."
            " This bounds the worst case; it is no estimate of what an attacker achieves.",
        ),
        (
            "Unit",
            f"One {unit}, with all of its records. Every unit's contribution to a step is cut to"
            f" norm {mechanism.clip_norm:g} before it is added.",
        ),
        (
            "Neighbours",
            f"Two data sets are neighbours if one has exactly one {unit} more. (Replacing one"
            " costs up to twice as much.)",
        ),
        (
            "Trust",
            "The noise is added inside the site, before anything leaves it. The claim holds"
            " against the coordinator, the other sites, and whoever obtains the updates or the"
            " released adapters.",
        ),
        (
            "Mechanism",
            "Poisson-sampled Gaussian mechanism. Noise multiplier"
            f" {mechanism.noise_multiplier:g}, sample rate {mechanism.sample_rate:g}, {steps}"
            f" steps a round, {num_rounds} rounds: {steps * num_rounds} releases.",
        ),
        (
            "Sampling",
            f"Each {unit} is drawn independently at each step, as the accountant assumes; a step"
            " that draws nobody still releases noise.",
        ),
        (
            "Accountant",
            f"{accountant_version()}; an upper bound, composed over all steps, rounds and"
            " earlier runs in the site's ledger. Recomputed for this report from noise"
            " multiplier, sample rate and steps.",
        ),
        (
            "Randomness",
            "Sampling and noise come from the operating system's cryptographic generator. Said"
            " by the software, not provable from a log.",
        ),
        (
            "Arithmetic",
            "Noise is drawn in floating point. Attacks on the last digits of floating-point"
            " noise are not covered by the claim.",
        ),
    ]
