"""Tracers as the model sees them: in training, and when their secrets are ranked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from client.progress import report
from client.tracers import Tracer
from model.loss import base_of
from model.metrics import answer_nll, label_scores
from model.tokenizer import Example, encode_answer, encode_prompt
from privacy.dp import exposure
from privacy.errors import ConfigError, TrainingError
from privacy.plan import TRACER_ANSWER_TOKENS, RunPlan

# Room for an answer, the same for every secret: else a prompt's end could tell of its length.
_ROOM = TRACER_ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class Candidates:
    """Token ids of a tracer's prompt, and of what may follow it, its own secret first."""

    prompt: list[int]
    answers: list[list[int]]

    @property
    def trained(self) -> Example:
        """The one sequence that is trained on."""
        return Example(self.prompt + self.answers[0], len(self.prompt))


def tokenized(
    tracers: Sequence[Tracer], tokenizer: PreTrainedTokenizerBase, plan: RunPlan
) -> list[Candidates]:
    """Each tracer with all of its secrets.

    Raises:
      ConfigError: The plan's template leaves no room, or the tokenizer spells two secrets alike,
        or in too many tokens.
    """
    found = []
    roomy = replace(plan.text, max_tokens=min(2 * plan.text.max_tokens, 8192))
    for tracer in tracers:
        try:
            prompt, whole = (
                encode_prompt(tokenizer, tracer.prompt, text, num_reserved=_ROOM)
                for text in (plan.text, roomy)
            )
        except ValueError as error:
            raise ConfigError(f"text.prompt_template: {error}") from None
        if len(whole) > len(prompt):
            # Cut, several tracers may have one prompt, and their secrets compete behind it.
            raise ConfigError(
                f"expected max_tokens with room for a tracer's prompt of {len(whole)} tokens, got"
                f" {plan.text.max_tokens}"
            )
        answers = [encode_answer(tokenizer, secret, plan.text) for secret in tracer.secrets]
        longest = max(len(answer) for answer in answers)
        if longest > _ROOM or any(answer[-1] != tokenizer.eos_token_id for answer in answers):
            raise ConfigError(f"expected secrets of at most {_ROOM} tokens, got {longest}")
        if len(set(map(tuple, answers))) < len(answers):
            # Digits that a tokenizer does not know would tie with others.
            raise ConfigError("expected a tokenizer that tells all secrets apart, got two alike")
        found.append(Candidates(prompt, answers))
    return found


def rank_secrets(model: nn.Module, traced: Sequence[Candidates]) -> list[int]:
    """The rank of each tracer's own secret among its candidates, 1 for the likeliest.

    Formal guarantee: a function of the model, which is the released adapter and the base, and of
    made-up secrets. It takes no record, so given the adapter it is post-processing: it costs no
    budget, whatever the unit and whoever is a neighbour (Dwork & Roth 2014, proposition 2.1).

    Args:
      model: With the released adapter in it.
      traced: As `tokenized` gives them.

    Raises:
      TrainingError: A loss is no finite number.
    """
    model.eval()
    ranks = []
    for number, candidates in enumerate(traced, 1):
        losses = _losses(model, candidates)
        try:
            ranks.append(exposure.rank_of(losses))
        except ValueError:
            raise TrainingError(
                "expected finite losses of the secrets, got infinity or NaN",
                hint="the adapter is of no use: its run diverged",
            ) from None
        report("ranking", tracer=number)
    return ranks


def _losses(model: nn.Module, candidates: Candidates) -> list[float]:
    """Negative log-likelihood of each candidate behind the prompt, in nats."""
    prompt, answers = candidates.prompt, candidates.answers
    if getattr(base_of(model).config, "sliding_window", None) is None:
        # The prompt once, and common beginnings once: a tenth of the time.
        losses = label_scores(model, [prompt], answers)[0]
    else:
        # A window may be shorter than the tree of all candidates.
        losses = answer_nll(model, [Example(prompt + answer, len(prompt)) for answer in answers])
    found: list[float] = losses.to(torch.float64).tolist()
    return found
