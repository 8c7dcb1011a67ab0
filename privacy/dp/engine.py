"""One private step: Poisson sampling, clipping per unit, Gaussian noise (Abadi et al. 2016).

Formal guarantee: `clipped_sum` over `draw_units`, then `release`, is one release of the
Poisson-sampled Gaussian mechanism under add-or-remove-one-unit, with the sample rate and the noise
multiplier of their arguments, because

- every unit is drawn independently of all others, by the operating system's generator;
- what a unit adds to the sum has a norm of at most `clip_norm` over all trained values together,
  however many examples it has, and depends on nothing but that unit and the weights (in float32,
  where units share a pass, up to rounding: where two experts are nearly tied, rounding that
  depends on the other units may choose another expert, which the self-test measures and nothing
  here bounds; the option `alone` excludes it; in narrower types no units share a pass);
- the noise has standard deviation `noise_multiplier * clip_norm` in every trained coordinate,
  comes from the operating system's generator, and is added also when nobody was drawn;
- a coordinate that a site of a lower rank does not train is zero, whoever was drawn;
- the result is divided by a constant, not by how many were drawn.

Per-unit gradients come from the one backward pass over a microbatch (`privacy.dp.attribution`).
What would let one unit change another's is refused (`privacy.dp.separable`).

Shape suffixes: B examples and U units of a microbatch, P values of all trained tensors.
"""

import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.loss import collate, per_example_loss
from model.tokenizer import Example
from privacy.dp.attribution import UnitGradients, clip_factors
from privacy.dp.config import MIN_CLIP_NORM
from privacy.dp.leading import LeadingGradients
from privacy.dp.separable import check_separable as check_separable
from privacy.errors import TrainingError

DEFAULT_MAX_TOKENS = 2048
# A clipping norm longer than any gradient, where nothing is to be clipped: never with a release.
NO_CLIP = 1e9
# In anything narrower a unit is computed by itself.
_WIDE = (torch.float32, torch.float64)
_Values = npt.NDArray[np.floating[Any]]


def draw_units(num_units: int, sample_rate: float) -> list[int]:
    """Indices of the units that take part in a step, each with probability `sample_rate`.

    Drawn independently with the operating system's generator: an observer who could predict the
    draw would void the amplification that the accountant counts on.
    """
    if not 0 < sample_rate <= 1:
        raise ValueError(f"expected 0 < sample_rate <= 1, got {sample_rate}")
    drawn = _uniform(num_units) < sample_rate
    return [int(index) for index in np.flatnonzero(drawn)]


def draw_noise(size: int) -> _Values:
    """Independent standard normal values from the operating system's generator.

    Each is half the sum of four normals, so that the low bits, from which the noiseless value
    could be told (Mironov 2012), are no simple function of a draw (Holohan & Braghin 2021, arXiv
    2107.10138). Box & Muller's transform gives two normals for two uniforms.
    """
    uniform, angle = _uniform(2 * size), _uniform(2 * size) * (2 * math.pi)
    # 1 - uniform is in (0, 1]: the logarithm of 0 would be an infinite noise value.
    radius: _Values = np.sqrt(-2 * np.log1p(-uniform))
    first: _Values = radius * np.cos(angle)
    second: _Values = radius * np.sin(angle)
    return (first[:size] + first[size:] + second[:size] + second[size:]) / 2


def _uniform(size: int) -> _Values:
    """Independent values in [0, 1), multiples of 2**-53."""
    words = np.frombuffer(os.urandom(8 * size), dtype=np.uint64)
    values: _Values = (words >> np.uint64(11)) * 2.0**-53
    return values


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """What the drawn units contribute before noise: never leaves the site.

    Attributes:
      total: Sum of the units' clipped gradients, float32, shape (P,).
      norms: Each unit's norm before clipping, in the order of the units.
      loss: Mean loss of the examples; NaN when there is none.
    """

    total: Tensor
    norms: list[float]
    loss: float


class PrivateGradients:
    """Clipped and noised gradients of a model with an injected adapter.

    The model's dropout outside the adapter stays off; the adapter's own is drawn per example.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        clip_norm: float,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        rank: int | None = None,
        alone: bool = False,
    ) -> None:
        """Attach to `model`; `close` detaches.

        Args:
          model: As `model.adapter.inject_adapter` returns it, on its device.
          clip_norm: Largest norm of a unit's contribution.
          max_tokens: Tokens, padding included, of a microbatch; does not change the guarantee.
          rank: Only the first `rank` columns of each B and rows of each A train; None: all.
          alone: Give every unit passes of its own, also where float32 would let it share them.

        Raises:
          ValueError: `clip_norm`, `max_tokens` or `rank` is impossible.
          TrainingError: `check_separable` finds something that would void the guarantee.
        """
        if not (math.isfinite(clip_norm) and clip_norm >= MIN_CLIP_NORM):
            raise ValueError(f"expected {MIN_CLIP_NORM} <= clip_norm < infinity, got {clip_norm}")
        if max_tokens < 1:
            raise ValueError(f"expected max_tokens >= 1, got {max_tokens}")
        check_separable(model)
        self.model = model
        self.clip_norm = clip_norm
        self.max_tokens = max_tokens
        self._alone = alone
        self._mask_P: Tensor | None = None
        if rank is None:
            self._units = UnitGradients(model)
        else:
            leading = LeadingGradients(model, rank)
            self._units, self._mask_P = leading, leading.mask()
        self._was_training = {module: module.training for module in model.modules()}
        model.eval()
        for module in _training_modules(model):
            module.training = True
        self._has_dropout = any(
            isinstance(module, nn.Dropout) and module.training and module.p > 0
            for module in model.modules()
        )
        self.parameters = self._units.parameters
        self.num_values = sum(parameter.numel() for parameter in self.parameters)
        self._device = self.parameters[0].device

    def close(self) -> None:
        """Give gradients back to autograd and restore the model's mode."""
        self._units.close()
        for module, was_training in self._was_training.items():
            module.training = was_training

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def clipped_sum(self, units: Sequence[Sequence[Example]]) -> ClippedSum:
        """Sum over `units` of each one's gradient, clipped to `clip_norm`.

        A unit's gradient is the sum over all its examples. A unit whose gradient is not finite
        contributes nothing, which depends on that unit alone and so keeps the guarantee.
        """
        sums = self._units.zeros()
        norms = [0.0] * len(units)
        losses: list[Tensor] = []
        for members in _microbatches(units, 0 if self._is_alone() else self.max_tokens):
            chosen = [units[index] for index in members]
            parts = list(parts_of(chosen, self.max_tokens))
            if len(parts) == 1:
                losses.append(self._backward(chosen))
                norms_U = self._units.norms()
                self._units.add(sums, clip_factors(norms_U, self.clip_norm))
            else:
                norms_U = self._add_long(sums, parts, losses)
            for index, norm in zip(members, norms_U.tolist(), strict=True):
                norms[index] = norm
        loss = float(torch.cat(losses).double().mean()) if losses else math.nan
        return ClippedSum(self._units.flat(sums), norms, loss)

    def release(
        self, summed: ClippedSum, *, noise_multiplier: float, denominator: float
    ) -> Tensor:
        """The noised sum over a fixed denominator, float32, shape (P,): the only output.

        Args:
          summed: Of the units that were drawn; may be of none.
          noise_multiplier: Standard deviation of the noise over `clip_norm`.
          denominator: A constant, such as sample rate times the declared number of units. The
            number of units drawn would tell who was there.

        Raises:
          TrainingError: The sum is not in float32.
        """
        if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
            raise ValueError(f"expected 0 < noise_multiplier < infinity, got {noise_multiplier}")
        if not (math.isfinite(denominator) and denominator > 0):
            raise ValueError(f"expected 0 < denominator < infinity, got {denominator}")
        if summed.total.dtype != torch.float32:
            # A million draws of noise in bfloat16 have 3,599 distinct values.
            raise TrainingError(
                f"expected sums in float32 to add noise to, got {summed.total.dtype}",
                hint="sum clipped gradients in float32; only activations may be in bfloat16",
            )
        # float64 until the noise is in: in float32 a small sum under large noise would be rounded
        # to a grid that depends on the sum.
        noised_P = summed.total.double() + self._noise() * (noise_multiplier * self.clip_norm)
        return (noised_P / denominator).float()

    def _noise(self) -> Tensor:
        """Standard normal values where something trains and zero elsewhere, float64, (P,)."""
        if self._mask_P is None:
            return torch.from_numpy(draw_noise(self.num_values)).to(self._device)
        drawn = torch.from_numpy(draw_noise(int(self._mask_P.sum()))).to(self._device)
        noise_P = torch.zeros(self.num_values, dtype=torch.float64, device=self._device)
        noise_P[self._mask_P] = drawn
        return noise_P

    def split(self, flat_P: Tensor) -> list[Tensor]:
        """A flat vector as tensors of the parameters' shapes, in the order of an update."""
        parts = flat_P.split([parameter.numel() for parameter in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _is_alone(self) -> bool:
        """Whether units may not share a pass.

        Results of a product depend on its shapes in their last digits. In float32 that is far
        below what the self-test sees; in bfloat16 a unit that left took along up to 0.0035
        clipping norms of its neighbours, and no constant bounds it, because a near-tie of two
        experts can turn. Alone, the shapes depend on the unit itself, and so does its gradient.
        """
        return (
            self._alone
            or torch.is_autocast_enabled(self._device.type)
            or any(p.dtype not in _WIDE for p in self.model.parameters())
        )

    def _add_long(
        self, sums: Sequence[Tensor], parts: Sequence[list[Example]], losses: list[Tensor]
    ) -> Tensor:
        """Add one unit that is longer than a microbatch, summed up before it is clipped."""
        unit = self._units.zeros()
        for part in parts:
            losses.append(self._backward([part]))
            self._units.add(unit, torch.ones(1, device=self._device))
        squares = [torch.linalg.vector_norm(s, dtype=torch.float64).square() for s in unit]
        norm_U = torch.stack(squares).sum().sqrt()[None]
        factor = float(clip_factors(norm_U, self.clip_norm))
        if factor > 0:
            for total, part_sum in zip(sums, unit, strict=True):
                total.add_(part_sum, alpha=factor)
        return norm_U

    @contextmanager
    def _fresh_dropout(self) -> Iterator[None]:
        """Draw the adapter's drop-out anew, seeded by the operating system's generator.

        From torch's own, whose seed a process shares with everybody, masks would follow the place
        in the batch: a unit that leaves would move the masks of all after it.
        """
        if not self._has_dropout:
            yield
            return
        devices = [] if self._device.type == "cpu" else [self._device]
        with torch.random.fork_rng(devices=devices, device_type=self._device.type):
            torch.manual_seed(secrets.randbits(63))
            yield

    def _backward(self, units: Sequence[Sequence[Example]]) -> Tensor:
        """One pass over the units' examples; their losses, shape (B,)."""
        examples = [example for unit in units for example in unit]
        batch = collate(examples).to(self._device)
        if len(batch.input_ids) != len(examples):
            raise TrainingError(
                f"expected a sequence for each of {len(examples)} examples, "
                f"got {len(batch.input_ids)}",
                hint="never pack texts of two units into one sequence",
            )
        self._units.begin([len(unit) for unit in units], batch.input_ids.shape[1])
        with torch.enable_grad(), self._fresh_dropout():
            loss_B = per_example_loss(
                self.model, batch.input_ids, batch.attention_mask, batch.answer_mask
            )
            if not loss_B.requires_grad:
                raise TrainingError(
                    "expected a loss that depends on the adapter, got one that does not",
                    hint="the adapter is not part of the computation; load base and adapter anew",
                )
            loss_B.sum().backward()
        return loss_B.detach()


def _training_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Dropout before the adapter, and layers that save memory in training mode only.

    The base's own dropout must stay off, so the mode is set module by module.
    """
    for name, module in model.named_modules():
        if (".lora_" in name and not list(module.children())) or getattr(
            module, "gradient_checkpointing", False
        ):
            yield module


def _microbatches(units: Sequence[Sequence[Example]], max_tokens: int) -> Iterator[list[int]]:
    """Indices of units in groups of at most `max_tokens` tokens with padding, longest first.

    Units of like length stand together, since padding is computed like tokens. Longest first, so
    that a machine with too little memory fails at once and not in the last microbatch. With
    `max_tokens` 0 each unit stands alone.
    """
    longest = [max((len(e.input_ids) for e in unit), default=0) for unit in units]
    order = sorted(range(len(units)), key=lambda index: -longest[index])
    group: list[int] = []
    num_examples = width = 0
    for index in order:
        if not units[index]:
            continue
        if group and max(width, longest[index]) * (num_examples + len(units[index])) > max_tokens:
            yield group
            group, num_examples, width = [], 0, 0
        group.append(index)
        num_examples += len(units[index])
        width = max(width, longest[index])
    if group:
        yield group


def parts_of(units: Sequence[Sequence[Example]], max_tokens: int) -> Iterator[list[Example]]:
    """All examples in groups of at most `max_tokens` tokens with padding, longest first."""
    examples = [example for unit in units for example in unit]
    examples.sort(key=lambda example: -len(example.input_ids))
    begin = 0
    while begin < len(examples):
        end = begin + max(1, max_tokens // len(examples[begin].input_ids))
        yield examples[begin:end]
        begin = end
