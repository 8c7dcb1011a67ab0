"""Does the model in hand keep the promise that the accountant computes with? Run before training.

The guarantee stands on one sentence: taking any unit away moves the clipped sum by at most the
clipping norm. Nothing in a framework enforces it; a loss averaged over the batch breaks it 15-fold
and a capacity limit of the experts 6-fold, without an error. So it is measured, on made-up tokens
and on the very model that will be trained, and so is that the weights move: an adapter that trains
nothing would still spend budget.
"""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.adapter import trained_parameters
from model.lora import LoraLinear
from model.loss import base_of, head_of, hidden_states
from model.tokenizer import Example
from privacy.dp.engine import NO_CLIP, ClippedSum, PrivateGradients
from privacy.errors import TrainingError

TOLERANCE = 1e-4
# Lengths of the examples of each made-up unit: alone and together, short and long, so that
# padding, microbatches and units of several records all occur. The longest is longer than the
# pieces of 64 tokens in which linear attention is computed.
_SHAPES = ((70,), (6,), (10, 5, 8), (14,), (5,))
_ANSWER_TOKENS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfTest:
    """What was measured; made of made-up tokens, so it tells nothing about a record.

    Attributes:
      sensitivity: Largest move of the clipped sum when a unit leaves, in clipping norms.
      num_units: How many units were taken away in turn.
    """

    sensitivity: float
    num_units: int


def self_test(model: nn.Module, *, seed: int = 0, rank: int | None = None) -> SelfTest:
    """Check, on made-up tokens, that clipping holds and that training trains. Changes nothing.

    Args:
      model: As `model.adapter.inject_adapter` returns it.
      seed: Of the made-up tokens.
      rank: As the site trains (`PrivateGradients`).

    Raises:
      TrainingError: The base changes logits after its head, taking a unit away moves the clipped
        sum by more than the clipping norm or by less than nearly all of it, a trained tensor gets
        no gradient or does not move (before noise: some experts of a tensor may stay, where no
        token reached them), moving it changes no loss, or a step changes something that is not
        trained.
    """
    units = made_up_units(int(base_of(model).config.vocab_size), seed=seed)
    with (
        without_dropout(model),
        PrivateGradients(model, clip_norm=NO_CLIP, rank=rank) as gradients,
    ):
        with _naming_the_module(model):
            gradients.clipped_sum(units[:1])
            _check_head(model, units[0][0])
        whole = gradients.clipped_sum(units)
        smallest = min(whole.norms)
        if not smallest > 0:
            raise TrainingError(
                "expected every unit to have a gradient, got one without",
                hint="the adapter is not part of the computation; load base and adapter anew",
            )
        _check_apart(gradients, units, whole)
    # Half of the smallest norm: every unit is clipped, so each must count for exactly one norm.
    with (
        without_dropout(model),
        PrivateGradients(model, clip_norm=smallest / 2, max_tokens=64, rank=rank) as gradients,
    ):
        result = _check_sensitivity(gradients, units)
        _check_movement(model, gradients, units)
    return result


def made_up_units(vocab_size: int, *, seed: int) -> list[list[Example]]:
    """Units of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            Example(
                torch.randint(0, vocab_size, (length,), generator=generator).tolist(),
                length - _ANSWER_TOKENS,
            )
            for length in lengths
        ]
        for lengths in _SHAPES
    ]


@contextmanager
def _naming_the_module(model: nn.Module) -> Iterator[None]:
    """Make a refusal of a failure inside the base: not every module takes an adapted layer.

    Some read a layer's weight and multiply with it themselves, so that an adapter would be passed
    by. The texts are made up: the error tells nothing about a record.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # Of a GPU; on the CPU torch says so in words only.
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise
        paths = {id(module): path for path, module in model.named_modules()}
        frames = (
            frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)
        )
        # The innermost one that is not ours: an adapted layer is what is asked, not who asks.
        inside = [m for m in frames if id(m) in paths and not isinstance(m, LoraLinear)]
        if not inside:
            raise
        raise TrainingError(
            f"expected a base that runs with an adapter, got {type(error).__name__} in "
            f"{type(inside[-1]).__name__} at {paths[id(inside[-1])]}: {error}",
            hint="units cannot be told apart in this base; choose another one, or other targets",
        ) from error


@torch.no_grad()
def _check_head(model: nn.Module, example: Example) -> None:
    """Check that the loss sees the logits that the base itself would give.

    Not for privacy: a base that scales or cuts them afterwards would learn something else.
    """
    input_ids = torch.tensor([example.input_ids], device=trained_parameters(model)[0].device)
    own: Tensor = base_of(model)(input_ids=input_ids, use_cache=False).logits
    seen: Tensor = head_of(model)(hidden_states(model, input_ids))
    if own.shape != seen.shape or not bool(
        ((own - seen).abs() <= 1e-3 * own.abs().max().clamp_min(1e-6)).all()
    ):
        raise TrainingError(
            "expected a base whose logits are its head's outputs, got others",
            hint="choose a base that neither scales nor cuts its logits",
        )


@contextmanager
def restored(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Put the values back afterwards, whatever happens; gives what they are."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield before
    finally:
        _restore(parameters, before)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """The adapter's dropout off: it is drawn anew each time, and what is compared here is not."""
    layers = [(m, m.p) for m in model.modules() if isinstance(m, nn.Dropout)]
    for layer, _ in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, probability in layers:
            layer.p = probability


def _check_apart(
    gradients: PrivateGradients, units: Sequence[Sequence[Example]], whole: ClippedSum
) -> None:
    """Check that every unit has the gradient that it has alone.

    Where everybody is clipped, as below, a neighbour that makes a gradient longer or shorter could
    not be seen.
    """
    rest = whole.total.double()
    for unit, together in zip(units, whole.norms, strict=True):
        alone = gradients.clipped_sum([unit])
        rest = rest - alone.total.double()
        if not abs(alone.norms[0] - together) <= TOLERANCE * together:
            raise TrainingError(
                f"expected a unit's gradient to have the norm that it has alone, "
                f"got {together / alone.norms[0]:.4f} of it",
                hint="the base or the loss lets one example change another",
            )
    if not float(rest.norm()) <= TOLERANCE * max(whole.norms):
        raise TrainingError(
            "expected the sum to be that of the units' gradients alone, "
            f"got a difference of {float(rest.norm()) / max(whole.norms):.4f} norms",
            hint="the base or the loss lets one example change another",
        )


def _check_sensitivity(
    gradients: PrivateGradients, units: Sequence[Sequence[Example]]
) -> SelfTest:
    whole = gradients.clipped_sum(units).total
    moves = []
    for index in range(len(units)):
        rest = gradients.clipped_sum([*units[:index], *units[index + 1 :]]).total
        move = torch.linalg.vector_norm(whole - rest, dtype=torch.float64)
        moves.append(float(move) / gradients.clip_norm)
    # `not <=`: a NaN must not pass.
    if not max(moves) <= 1 + TOLERANCE:
        raise TrainingError(
            f"expected a unit to move the clipped sum by at most 1 clipping norm, "
            f"got {max(moves):.4f}",
            hint="the base lets one example change another; it cannot be trained privately",
        )
    if not min(moves) >= 1 - TOLERANCE:
        raise TrainingError(
            f"expected a clipped unit to count for 1 clipping norm, got {min(moves):.4f}",
            hint="gradients are lost on the way; report the base's name and library versions",
        )
    return SelfTest(sensitivity=max(moves), num_units=len(units))


def _check_movement(
    model: nn.Module, gradients: PrivateGradients, units: Sequence[Sequence[Example]]
) -> None:
    parameters = trained_parameters(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first = gradients.clipped_sum(units)
    with restored(parameters) as before:
        direction = gradients.split(first.total / gradients.clip_norm)
        _step(parameters, direction)
        moved = [bool((p != old).any()) for p, old in zip(parameters, before, strict=True)]
        second = gradients.clipped_sum(units)
    # B's gradient is zero in experts that no token reached, but a tensor holds all experts of its
    # layer. A, where it is trained, has no gradient as long as B is zero: then all of A stays.
    names = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    moved_by = {
        factor: {m for name, m in zip(names, moved, strict=True) if f".lora_{factor}." in name}
        for factor in ("A", "B")
    }
    # Once B has moved, every A has one.
    stuck = [
        name
        for name, part in zip(names, gradients.split(second.total), strict=True)
        if ".lora_A." in name and not part.any()
    ]
    if moved_by["B"] != {True} or len(moved_by["A"]) > 1 or stuck or second.loss == first.loss:
        raise TrainingError(
            "expected a step to move the adapter and with it the loss, got no change",
            hint="the adapter is not part of the computation; load base and adapter anew",
        )
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and parameter.grad is not None:
            raise TrainingError(f"expected a frozen base, got a gradient for {name}")
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            raise TrainingError(
                f"expected a frozen base, got another {name} after a step",
                hint="a router's statistics of the batch would leave the site without noise",
            )


@torch.no_grad()
def _step(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor]) -> None:
    for parameter, move in zip(parameters, direction, strict=True):
        parameter.sub_(move)


@torch.no_grad()
def _restore(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
