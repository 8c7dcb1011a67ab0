"""How much can be told about who took part, from what one run really released?

The accountant bounds epsilon from above, on paper. This bounds it from below, by an attack on the
engine as it is: made-up units (canaries) are in or out by fair coins, go through sampling, pass,
clipping, sum and noise for all steps, and are then guessed from the releases alone. A lower bound
above the claim means that something on that way is wrong. One below it proves nothing: the attack
may be weak.

The canaries are gradients (`privacy.dp.canaries`), the worst that the guarantee speaks of: each
has a few coordinates of its own, far longer than the clipping norm, so that none hides another.
What comes before they are put in, the backward pass, is compared with single examples elsewhere
(`privacy.dp.audit` and the tests).

Source: Steinke, Nasr and Jagielski 2023, arXiv 2305.08846.

Shape suffixes: M canaries, P values of all trained tensors.
"""

import math
import secrets
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.adapter import trained_parameters
from model.loss import base_of
from privacy.dp.audit import restored, without_dropout
from privacy.dp.calibrate import Event, epsilon
from privacy.dp.canaries import Directions, injected, made_up_canaries
from privacy.dp.engine import PrivateGradients, draw_units
from privacy.dp.one_run import epsilon_lower_bound

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryAudit:
    """What the guesser got out of one run.

    Attributes:
      claim: Epsilon by the accountant, from above.
      lower_bound: Epsilon by the guesses, from below, at the audit's confidence.
      highest: What the lower bound would be, had all guesses been right. Where the claim is above
        it, the audit could not have fired: take more canaries.
      num_canaries: Made-up units, each in or out by a fair coin.
      num_guesses: For how many the guesser did not abstain.
      num_right: How many guesses were right.
    """

    claim: float
    lower_bound: float
    highest: float
    num_canaries: int
    num_guesses: int
    num_right: int

    @property
    def fires(self) -> bool:
        """Whether the claim is refuted."""
        return self.lower_bound > self.claim


def audit_one_run(
    model: nn.Module,
    releases: Event,
    *,
    delta: float,
    num_canaries: int = 1000,
    clip_norm: float = 1.0,
    sensitivity: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> CanaryAudit:
    """Run `releases.num_steps` private steps on canaries only, and guess. Changes nothing.

    Args:
      model: As `model.adapter.inject_adapter` returns it, with an adapter on linear layers.
      releases: Noise, sample rate and number of steps that are audited.
      delta: Of the claim.
      num_canaries: The more, the tighter. Guesses are made for the tenth of the strongest
        evidence.
      clip_norm: Of a unit.
      sensitivity: Makes contributions so many times longer than the noise is made for, on
        purpose: above 1 the claim is false, which shows that the audit can find out.
      rank: As the site trains (`PrivateGradients`).
      seed: Of tokens and coordinates; coins, draws and noise are the operating system's.
      confidence: Of the lower bound. Who runs n audits and looks whether any fires gives each
        1 - 0.05 / n (Bonferroni), or true claims are refuted in more than one run of twenty.

    Raises:
      ValueError: Fewer than 10 canaries, or a number is impossible.
      TrainingError: The model cannot be trained privately, or is too small for the canaries.
    """
    if num_canaries < 10:
        raise ValueError(f"expected num_canaries >= 10, got {num_canaries}")
    if not (math.isfinite(sensitivity) and sensitivity > 0):
        raise ValueError(f"expected 0 < sensitivity < infinity, got {sensitivity}")
    directions = Directions(model, num_canaries, rank=rank, seed=seed)
    units = made_up_canaries(int(base_of(model).config.vocab_size), num_canaries, seed=seed)
    is_in = [index for index in range(num_canaries) if secrets.randbits(1)]
    denominator = releases.sample_rate * num_canaries / 2
    evidence_M = torch.zeros(num_canaries, dtype=torch.float64)
    parameters = trained_parameters(model)
    with (
        without_dropout(model),
        restored(parameters),
        PrivateGradients(model, clip_norm=sensitivity * clip_norm, rank=rank) as gradients,
        injected(model, directions, units, clip_norm),
    ):
        for _ in range(releases.num_steps):
            drawn = [is_in[index] for index in draw_units(len(is_in), releases.sample_rate)]
            released_P = gradients.release(
                gradients.clipped_sum([[units[index]] for index in drawn]),
                noise_multiplier=releases.noise_multiplier / sensitivity,
                denominator=denominator,
            )
            seen_P = released_P.cpu().double() * (denominator / clip_norm)
            evidence_M += evidence(directions.project(seen_P), releases)
            with torch.no_grad():
                # So that later steps have other weights, as in training.
                for parameter, part in zip(parameters, gradients.split(released_P), strict=True):
                    parameter.sub_(part, alpha=1e-3 / clip_norm)
    num_guesses = num_canaries // 10
    chosen = evidence_M.abs().argsort(descending=True)[:num_guesses].tolist()
    members = set(is_in)
    num_right = sum((float(evidence_M[index]) > 0) == (index in members) for index in chosen)
    lower_bound, highest = (
        epsilon_lower_bound(num_canaries, num_guesses, count, delta=delta, confidence=confidence)
        for count in (num_right, num_guesses)
    )
    return CanaryAudit(
        claim=epsilon([releases], delta),
        lower_bound=lower_bound,
        highest=highest,
        num_canaries=num_canaries,
        num_guesses=num_guesses,
        num_right=num_right,
    )


def evidence(present_M: Tensor, releases: Event) -> Tensor:
    """Log-likelihood ratio of in against out for each canary, by one release, float64, (M,).

    Args:
      present_M: The release along each canary's direction, in clipping norms: the noise around 1
        where it was drawn and around 0 where not.
      releases: Noise, and the sample rate with which a canary that is in was drawn.
    """
    rate = releases.sample_rate
    drawn_M = (present_M - 0.5) / releases.noise_multiplier**2 + math.log(rate)
    not_drawn = torch.tensor(math.log1p(-rate) if rate < 1 else -math.inf, dtype=torch.float64)
    return torch.logaddexp(not_drawn, drawn_M)
