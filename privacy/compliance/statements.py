"""The report's fixed sentences: what is promised here, and what evidence cannot show.

They follow what NIST SP 800-226 asks of whoever claims differential privacy. Each is written to be
exact first; a reader who knows nothing of the mathematics should still not come away with more
than is true.
"""

import math
from importlib.metadata import PackageNotFoundError, version

from privacy.compliance.words import Words
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


def accountant_version() -> str:
    """The accountant that recomputed epsilon, with its version."""
    try:
        return f"{ACCOUNTANT}, dp-accounting {version('dp-accounting')}"
    except PackageNotFoundError:
        return ACCOUNTANT


def _factor(epsilon: float, say: Words) -> str:
    """The power e^epsilon, in figures as far as figures tell anything."""
    power = f"e^{epsilon:g}"
    if epsilon > 12:
        return power
    return say("{power} (about {n})", power=power, n=_plain(math.exp(epsilon)))


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def privacy_claim(plan: RunPlan, say: Words) -> list[tuple[str, str]]:
    """The differential privacy claim of a plan, point by point."""
    mechanism, unit = plan.mechanism, say(plan.mechanism.unit.value)
    num_rounds, steps = plan.rounds.num_rounds, plan.mechanism.steps_per_round
    epsilon, delta = f"{mechanism.target_epsilon:g}", f"{mechanism.delta:g}"
    return [
        (
            say("Claim"),
            say(
                "({epsilon}, {delta})-differential privacy for each site's updates over all {n}"
                " rounds of the run together.",
                epsilon=epsilon,
                delta=delta,
                n=num_rounds,
            ),
        ),
        (
            say("In words"),
            say(
                "Someone who sees all updates of a site and knows everything about all its other"
                " units can still learn only so much about whether one {unit} took part: it"
                " changes the odds of any conclusion by a factor of at most {factor}, except with"
                " probability {delta}. This bounds the worst case; it is no estimate of what an"
                " attacker achieves.",
                unit=unit,
                factor=_factor(mechanism.target_epsilon, say),
                delta=delta,
            ),
        ),
        (
            say("Unit"),
            say(
                "One {unit}, with all of its records. Every unit's contribution to a step is cut"
                " to norm {clip} before it is added.",
                unit=unit,
                clip=f"{mechanism.clip_norm:g}",
            ),
        ),
        (
            say("Neighbours"),
            say(
                "Two data sets are neighbours if one has exactly one {unit} more. (Replacing one"
                " costs up to twice as much.)",
                unit=unit,
            ),
        ),
        (
            say("Trust"),
            say(
                "The noise is added inside the site, before anything leaves it. The claim holds"
                " against the coordinator, the other sites, and whoever obtains the updates or"
                " the released adapters."
            ),
        ),
        (
            say("Mechanism"),
            say(
                "Poisson-sampled Gaussian mechanism. Noise multiplier {noise}, sample rate {rate},"
                " {steps} steps a round, {rounds} rounds: {n} releases.",
                noise=f"{mechanism.noise_multiplier:g}",
                rate=f"{mechanism.sample_rate:g}",
                steps=steps,
                rounds=num_rounds,
                n=steps * num_rounds,
            ),
        ),
        (
            say("Sampling"),
            say(
                "Each {unit} is drawn independently at each step, as the accountant assumes; a"
                " step that draws nobody still releases noise.",
                unit=unit,
            ),
        ),
        (
            say("Accountant"),
            say(
                "{name} (privacy loss distributions); an upper bound. Recomputed for this report"
                " from noise multiplier, sample rate and steps.",
                name=accountant_version(),
            ),
        ),
        (
            say("Composition"),
            say(
                "Over all steps and rounds of the run, and over all earlier runs in the same"
                " ledger. A run that was begun again is spent again."
            ),
        ),
        (
            say("Settings"),
            say(
                "Noise, clipping and steps stand in the plan, fixed before a record was read. A"
                " search for good settings on the same records is covered only where it ran as a"
                " plan through the ledger."
            ),
        ),
        (
            say("Randomness"),
            say(
                "Sampling and noise come from the operating system's cryptographic generator."
                " Said by the software, not provable from a log."
            ),
        ),
        (
            say("Arithmetic"),
            say(
                "Noise is drawn in floating point. Attacks on the last digits of floating-point"
                " noise are not covered by the claim."
            ),
        ),
    ]
