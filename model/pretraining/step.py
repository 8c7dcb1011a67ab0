"""Loss and gradient of a batch, in parts on threads of their own.

Shape suffixes: B sequences, T tokens of a sequence, D model width.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import DeepseekV3ForCausalLM

from model.pretraining.balance import ExpertLoad
from model.pretraining.batches import TEXT_WEIGHT, Batch
from model.pretraining.fast import head_loss, segment_mask
from model.pretraining.labels import ANSWER_WEIGHT

PART_SEQUENCES = 8
BALANCE_WEIGHT = 1e-3


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Negative log-likelihood a token, in nats; NaN where a batch has no such token."""

    text: float
    answers: float


def batch_loss(model: DeepseekV3ForCausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood divided by the number of tokens, and that of each token.

    The latter is 0 for tokens of weight 0, which are left out.
    """
    ids_BT, targets_BT, weights_BT = batch.ids[:, :-1], batch.ids[:, 1:], batch.weights[:, 1:]
    begin: int = model.config.bos_token_id or 0
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BTD = model.model(
            input_ids=ids_BT, use_cache=False, segments=segment_mask(ids_BT, begin)
        ).last_hidden_state
    learnt_BT = weights_BT > 0
    total, nats_N = head_loss(
        hidden_BTD[learnt_BT].bfloat16(),
        model.lm_head.weight,
        targets_BT[learnt_BT],
        weights_BT[learnt_BT],
    )
    nats_BT = torch.zeros_like(weights_BT).masked_scatter(learnt_BT, nats_N)
    return total / targets_BT.numel(), nats_BT


def backward(
    model: DeepseekV3ForCausalLM, load: ExpertLoad, batch: Batch, threads: Executor
) -> Losses:
    """Losses of a batch; the gradient of what is minimised becomes the parameters'.

    Two threads on two halves of the work wait for each other less than two threads on every
    product, and a thread that is held up takes fewer parts. Parts are added up in their order, so
    the sum does not depend on who computed what.
    """
    parts = list(batch.split(PART_SEQUENCES))
    parameters = list(model.parameters())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    nats = []
    for nats_BT, grads in threads.map(partial(_part_gradients, model, load), parts):
        torch._foreach_add_(sums, grads, alpha=1 / len(parts))
        nats.append(nats_BT)
    for parameter, grad in zip(parameters, sums, strict=True):
        parameter.grad = grad
    nats_BT, weights_BT = torch.cat(nats), batch.weights[:, 1:]
    return Losses(
        text=nats_BT[weights_BT == TEXT_WEIGHT].mean().item(),
        answers=nats_BT[weights_BT == ANSWER_WEIGHT].mean().item(),
    )


def _part_gradients(
    model: DeepseekV3ForCausalLM, load: ExpertLoad, part: Batch
) -> tuple[Tensor, tuple[Tensor, ...]]:
    loss, nats_BT = batch_loss(model, part)
    whole = loss + BALANCE_WEIGHT * load.loss(len(part.ids))
    return nats_BT, torch.autograd.grad(whole, list(model.parameters()))
