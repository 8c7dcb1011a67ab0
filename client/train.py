"""One round of private training at a site: from the global adapter to an update that may leave.

The units come masked and tokenised, and the round is already reserved in the ledger: what happens
here is spent. Losses and norms of this site's units stay here; only the update is fit to leave.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from model.adapter import AdapterState, read_adapter, set_trained, trained_parameters
from model.factors import after_round
from model.fedopt import Moments, server_step
from model.tensors import Packed, add_update
from privacy.dp.engine import PrivateGradients, draw_units
from privacy.errors import TrainingError

if TYPE_CHECKING:
    from client.dataset import TokenizedUnit
    from privacy.plan import OptimizerConfig, RunPlan, SiteShare

# An update at the bound itself could fail the door's check by rounding.
_WITHIN = 1 - 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a round gives.

    Attributes:
      update: New minus old values of the trained tensors, packed, float32: all that may leave.
      num_steps: Optimizer steps.
      loss_local: Mean loss of the examples drawn. Not private: stays at the site.
      seconds: How long the round took. Depends on who was drawn: stays at the site.
    """

    update: Packed
    num_steps: int
    loss_local: float
    seconds: float


def train_round(
    model: nn.Module,
    units: Sequence["TokenizedUnit"],
    plan: "RunPlan",
    share: "SiteShare",
    *,
    server_round: int,
) -> TrainResult:
    """Train `plan.mechanism.steps_per_round` private steps from the adapter that is in `model`.

    Formal guarantee: the update is a function of the adapter before, and of as many releases of
    the Poisson-sampled Gaussian mechanism as there are steps (`privacy.dp.engine`); all else is
    post-processing, such as the optimizer, and scaling down to the plan's largest norm. Which
    tensors train, and how many of their columns, follows from the plan and the round alone; the
    others change in no step.

    Args:
      model: With the round's global adapter loaded; holds the site's own afterwards.
      units: All training units of the site.
      plan: The approved plan, which decides everything about privacy.
      share: The site's part in it: its public number of units, the fixed denominator of its
        gradients, and its rank.
      server_round: Which round; with `AB` the factors take turns.

    Raises:
      TrainingError: There is nothing to train on, a tensor did not move, or a value is not finite.
    """
    if not units:
        raise TrainingError(
            "expected at least one training unit, got none",
            hint="check the site's data: everything may have been held out or refused",
        )
    begun = time.monotonic()
    mechanism = plan.mechanism
    set_trained(model, plan.round_tensors(server_round))
    before = read_adapter(model).pack(trained_only=True)
    parameters = trained_parameters(model)
    optimizer = make_optimizer(parameters, plan.optimizer)
    losses = []
    with PrivateGradients(model, clip_norm=mechanism.clip_norm, rank=share.lora_rank) as gradients:
        for _ in range(mechanism.steps_per_round):
            drawn = draw_units(len(units), mechanism.sample_rate)
            summed = gradients.clipped_sum([units[index].examples for index in drawn])
            released = gradients.release(
                summed,
                noise_multiplier=mechanism.noise_multiplier,
                denominator=mechanism.sample_rate * share.num_units,
            )
            for parameter, gradient in zip(parameters, gradients.split(released), strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad()
            losses.append(summed.loss)
    after = read_adapter(model)
    update = _update(before, after.pack(trained_only=True), plan.exits.max_update_norm)
    _check_moved(update, [parameter.numel() for parameter in parameters])
    finite = [loss for loss in losses if math.isfinite(loss)]
    return TrainResult(
        update=update,
        num_steps=mechanism.steps_per_round,
        loss_local=sum(finite) / len(finite) if finite else math.nan,
        seconds=time.monotonic() - begun,
    )


def run_rounds(
    plan: "RunPlan",
    state: AdapterState,
    mean_update: Callable[[int, AdapterState], Packed],
    *,
    noise_variance: float,
) -> AdapterState:
    """The adapter after all rounds of a plan: what a coordinator makes of the mean updates.

    For comparisons in one process, such as this site alone; a federation's steps are the
    coordinator's.

    Args:
      plan: Rounds and server optimizer.
      state: The first adapter.
      mean_update: Of a round, from its number and the adapter that it starts from.
      noise_variance: In each value of a mean update (`RunPlan.noise_variance`).
    """
    packed, moments = state.pack(trained_only=False), None
    for server_round in range(1, plan.rounds.num_rounds + 1):
        current = AdapterState.unpack(plan.tensors, packed)
        update = mean_update(server_round, current)
        if moments is None or plan.server_optimizer.name == "mean":
            # Where the factors take turns, updates differ in size.
            moments = Moments.none(update.size)
        rate = plan.server_optimizer.rate(server_round, plan.rounds.num_rounds)
        step, moments = server_step(
            plan.server_optimizer, update, moments, rate=rate, noise_variance=noise_variance
        )
        packed = add_update(plan.round_tensors(server_round), packed, step)
        packed = after_round(plan.tensors, plan.adapter, packed)
    return AdapterState.unpack(plan.tensors, packed)


def make_optimizer(
    parameters: Sequence[nn.Parameter], config: "OptimizerConfig"
) -> torch.optim.Optimizer:
    """The plan's optimizer, as every round begins it."""
    if config.name == "adam":
        return torch.optim.Adam(parameters, lr=config.learning_rate)
    return torch.optim.SGD(parameters, lr=config.learning_rate)


def _update(before: Packed, after: Packed, max_norm: float) -> Packed:
    """The change, scaled down to `max_norm` where it is longer: what is private stays private."""
    change = after.astype(np.float64) - before
    norm = float(np.linalg.norm(change))
    if not math.isfinite(norm):
        # Whether it is finite follows from the noised gradients, so it is one output of a release
        # that is paid for; the agent never trains this round again.
        raise TrainingError(
            "expected a finite update, got infinity or NaN",
            hint="ask for a plan with a lower learning rate",
        )
    if norm > max_norm * _WITHIN:
        change *= max_norm * _WITHIN / norm
    return change.astype(np.float32)


def _check_moved(update: Packed, sizes: Sequence[int]) -> None:
    """Check that every trained tensor moved: noise alone moves it, if it is trained at all."""
    begin = 0
    for size in sizes:
        if not update[begin : begin + size].any():
            raise TrainingError(
                "expected every trained tensor to move, got one that did not",
                hint="the adapter is not part of the computation; load base and adapter anew",
            )
        begin += size
