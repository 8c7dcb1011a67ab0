"""One private step: Poisson sampling, clipping per unit, Gaussian noise (Abadi et al. 2016).

Formal guarantee: `clipped_sum` over `draw_units`, then `release`, is one release of the
Poisson-sampled Gaussian mechanism under add-or-remove-one-unit, with the sample rate and the noise
multiplier of their arguments, because

- every unit is drawn independently of all others, by the operating system's generator;
- what a unit adds to the sum has a norm of at most `clip_norm` over all trained tensors together,
  however many examples it has, and depends on nothing but that unit and the weights;
- the noise has standard deviation `noise_multiplier * clip_norm` in every coordinate, comes from
  the operating system's generator, and is added also when nobody was drawn;
- the result is divided by a constant, not by how many were drawn.

Per-example gradients come from Opacus' hooks (Yousefpour et al. 2021, arXiv 2109.12298), without
wrapping the model. They are exact for linear layers. Layers that mix examples are refused.

Shape suffixes: B examples and U units of a microbatch, T tokens, I inputs and O outputs of a
layer, P values of all trained tensors.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import Tensor, nn

from model.adapter import trained_parameters
from model.loss import collate, per_example_loss
from model.tokenizer import Example
from privacy.errors import TrainingError

# Every layer class whose output for one example depends on the others in training mode.
_MIXING_LAYERS = (nn.modules.batchnorm._NormBase, nn.LocalResponseNorm)
# What bases with a limit on the tokens of an expert call it: tokens over the limit are dropped, so
# that one example decides which tokens of another are seen.
_CAPACITY_FIELDS = ("expert_capacity", "capacity_factor", "moe_capacity_factor", "drop_tokens")
DEFAULT_MAX_TOKENS = 2048
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
        self, model: nn.Module, *, clip_norm: float, max_tokens: int = DEFAULT_MAX_TOKENS
    ) -> None:
        """Attach to `model`; `close` detaches.

        Args:
          model: As `model.adapter.inject_adapter` returns it, on its device.
          clip_norm: Largest norm of a unit's contribution.
          max_tokens: Tokens, padding included, of a microbatch; does not change the guarantee.

        Raises:
          TrainingError: The model has a layer that mixes examples, limits an expert's tokens, or
            trains something else than float32 matrices of linear layers.
        """
        if not (math.isfinite(clip_norm) and clip_norm > 0):
            raise ValueError(f"expected 0 < clip_norm < infinity, got {clip_norm}")
        if max_tokens < 1:
            raise ValueError(f"expected max_tokens >= 1, got {max_tokens}")
        check_separable(model)
        self.model = model
        self.clip_norm = clip_norm
        self.max_tokens = max_tokens
        self.parameters = trained_parameters(model)
        self.num_values = sum(parameter.numel() for parameter in self.parameters)
        self._device = self.parameters[0].device
        self._was_training = {module: module.training for module in model.modules()}
        model.eval()
        for module in _adapter_layers(model):
            # Hooks see modules in training mode only; the base's dropout must stay off.
            module.train()
        self._hooks = _Hooks(model, loss_reduction="sum")

    def close(self) -> None:
        """Take the hooks off and restore the model's mode."""
        self._hooks.cleanup()
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
        sum_P = torch.zeros(self.num_values, device=self._device)
        norms = [0.0] * len(units)
        total_loss = 0.0
        num_examples = 0
        for members in _microbatches(units, self.max_tokens):
            gradient_UP, losses = self._unit_gradients([units[index] for index in members])
            clipped_P, norms_U = _clip_and_sum(gradient_UP, self.clip_norm)
            sum_P += clipped_P
            for index, norm in zip(members, norms_U.tolist(), strict=True):
                norms[index] = norm
            total_loss += sum(losses)
            num_examples += len(losses)
        return ClippedSum(sum_P, norms, total_loss / num_examples if num_examples else math.nan)

    def release(
        self, summed: ClippedSum, *, noise_multiplier: float, denominator: float
    ) -> Tensor:
        """The noised sum over a fixed denominator, float32, shape (P,): the only output.

        Args:
          summed: Of the units that were drawn; may be of none.
          noise_multiplier: Standard deviation of the noise over `clip_norm`.
          denominator: A constant, such as sample rate times the declared number of units. The
            number of units drawn would tell who was there.
        """
        if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
            raise ValueError(f"expected 0 < noise_multiplier < infinity, got {noise_multiplier}")
        if not (math.isfinite(denominator) and denominator > 0):
            raise ValueError(f"expected 0 < denominator < infinity, got {denominator}")
        # float64 until the noise is in: in float32 a small sum under large noise would be rounded
        # to a grid that depends on the sum.
        noise_P = torch.from_numpy(draw_noise(self.num_values)).to(self._device)
        noised_P = summed.total.double() + noise_P * (noise_multiplier * self.clip_norm)
        return (noised_P / denominator).float()

    def split(self, flat_P: Tensor) -> list[Tensor]:
        """A flat vector as tensors of the parameters' shapes, in the order of an update."""
        parts = flat_P.split([parameter.numel() for parameter in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _unit_gradients(self, units: Sequence[Sequence[Example]]) -> tuple[Tensor, list[float]]:
        """Gradient of each unit, float32, shape (U, P), and the loss of each example.

        A unit longer than a microbatch comes alone, and is summed up in parts.
        """
        owners = [index for index, unit in enumerate(units) for _ in unit]
        examples = [example for unit in units for example in unit]
        gradient_UP = torch.zeros(len(units), self.num_values, device=self._device)
        losses: list[float] = []
        for part in _parts(examples, self.max_tokens):
            gradients_B, losses_B = self._example_gradients([examples[index] for index in part])
            owners_B = torch.tensor([owners[index] for index in part], device=self._device)
            begin = 0
            for gradient_B in gradients_B:
                flat_B = gradient_B.flatten(1)
                gradient_UP[:, begin : begin + flat_B.shape[1]].index_add_(0, owners_B, flat_B)
                begin += flat_B.shape[1]
            losses.extend(losses_B)
        return gradient_UP, losses

    def _example_gradients(self, examples: Sequence[Example]) -> tuple[list[Tensor], list[float]]:
        """Gradient of every trained tensor for each example, and each example's loss."""
        batch = collate(examples).to(self._device)
        with torch.enable_grad():
            loss_B = per_example_loss(
                self.model, batch.input_ids, batch.attention_mask, batch.answer_mask
            )
            loss_B.sum().backward()
        gradients = []
        for parameter in self.parameters:
            gradient: Any = getattr(parameter, "grad_sample", None)
            if not isinstance(gradient, Tensor) or len(gradient) != len(examples):
                raise TrainingError(
                    "expected one gradient an example for every trained tensor, got another form",
                    hint="the base uses an adapted layer twice or not at all; choose another base",
                )
            gradients.append(gradient.float())
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        return gradients, loss_B.detach().tolist()


def check_separable(model: nn.Module) -> None:
    """Check that one example of a batch cannot change another's gradient, as far as can be read.

    What cannot be read off the layers is what `privacy.dp.audit` measures.

    Raises:
      TrainingError: A layer mixes examples, an expert has a capacity limit, or a trained parameter
        is not a float32 matrix of a linear layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, _MIXING_LAYERS):
            raise TrainingError(
                f"expected layers that keep examples apart, got {type(module).__name__} at {name}",
                hint="choose a base without batch normalisation",
            )
        for field in _CAPACITY_FIELDS:
            for holder in (module, getattr(module, "config", None)):
                if getattr(holder, field, None) not in (None, False):
                    raise TrainingError(
                        f"expected experts without a capacity limit, got {field} at {name}",
                        hint="choose a base that routes without dropping tokens",
                    )
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise TrainingError("expected a model with an adapter to train, got nothing trainable")
    for name, parameter in trained:
        if id(parameter) not in linear or parameter.dtype != torch.float32:
            raise TrainingError(
                f"expected float32 matrices of linear layers to train, got {name}",
                hint="only adapters on linear layers can be clipped per unit",
            )
    if len({id(p) for _, p in trained}) != len(trained_parameters(model)):
        raise TrainingError("expected to train the adapter only, got other trainable tensors")


def _linear_gradient(
    layer: nn.Linear, activations: list[Tensor], backprops: Tensor
) -> dict[Tensor, Tensor]:
    """Per-example gradient of a linear layer's weight, float32, shape (B, O, I)."""
    # Multi-head latent attention calls its layers with another dimension between B and the last.
    num_examples = len(backprops)
    backprops_BTO = backprops.float().reshape(num_examples, -1, layer.out_features)
    inputs_BTI = activations[0].float().reshape(num_examples, -1, layer.in_features)
    return {layer.weight: torch.bmm(backprops_BTO.transpose(1, 2), inputs_BTI)}


class _Hooks(GradSampleHooks):  # type: ignore[misc]  # Opacus is not annotated
    """Opacus' hooks, with a linear layer's gradient summed up in float32 under autocast too."""

    GRAD_SAMPLERS: ClassVar = {**GradSampleHooks.GRAD_SAMPLERS, nn.Linear: _linear_gradient}


def _adapter_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The layers whose parameters train, and the dropout before them."""
    for name, module in model.named_modules():
        if ".lora_" in name and not list(module.children()):
            yield module


def _microbatches(units: Sequence[Sequence[Example]], max_tokens: int) -> Iterator[list[int]]:
    """Indices of units in groups of at most `max_tokens` tokens with padding, longest first.

    Units of like length stand together, since padding is computed like tokens. Longest first, so
    that a machine with too little memory fails at once and not in the last microbatch.
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


def _parts(examples: Sequence[Example], max_tokens: int) -> Iterator[list[int]]:
    """Indices of examples in groups of at most `max_tokens` tokens with padding."""
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index].input_ids))
    begin = 0
    while begin < len(order):
        width = len(examples[order[begin]].input_ids)
        end = begin + max(1, max_tokens // width)
        yield order[begin:end]
        begin = end


def _clip_and_sum(gradient_UP: Tensor, clip_norm: float) -> tuple[Tensor, Tensor]:
    """Sum of the rows, each scaled down to a norm of at most `clip_norm`, and their norms."""
    norms_U = torch.linalg.vector_norm(gradient_UP, dim=1, dtype=torch.float64)
    finite_U = torch.isfinite(norms_U)
    factors_U = torch.where(finite_U, clip_norm / norms_U.clamp_min(clip_norm), 0.0)
    if not bool(finite_U.all()):
        # 0 * infinity would be NaN in the sum of everybody.
        gradient_UP = torch.where(finite_U[:, None], gradient_UP, 0.0)
    # Not a matrix product, which may be computed in TF32 or bfloat16 and then exceed the norm.
    return (gradient_UP * factors_U.float()[:, None]).sum(0), norms_U
