"""LoRA layers whose gradients can be told apart by unit in the one backward pass there is.

A layer's product with its frozen weight and with its two small factors is one autograd function.
Its backward either returns the factors' gradients as usual, or, where a sink is attached, hands
the rows from which they follow to the sink and returns none: `privacy.dp.attribution` makes of
them a gradient per unit, without a second pass and without the sum that would be thrown away.

Source: Hu et al. 2021, arXiv 2106.09685. Names and layout of the factors are peft's: A holds the
experts one below the other, (E * R, I); B holds them innermost, (O, R * E).

Shape suffixes: S rows (tokens, or token-expert pairs), I inputs, O outputs, R rank, E experts,
W columns of the wider side of a factor: inputs for A, outputs for B.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.grouped import Groups, add_product, multiply, outer


class GradientSink(Protocol):
    """What takes the rows of the factors' gradients instead of autograd."""

    def row_groups(self, num_rows: int) -> Groups:
        """Whose rows a linear layer sees: the same number for every example, in order."""

    def token_units(self, num_tokens: int) -> Tensor:
        """The unit of every token of the microbatch, int64, shape (num_tokens,)."""

    @property
    def num_units(self) -> int:
        """Units of the microbatch."""

    def record(
        self, parameter: nn.Parameter, narrow_SR: Tensor, wide_SW: Tensor, groups: Groups
    ) -> None:
        """Take a factor's gradient: per group the sum of the rows' outer products, (R, W)."""


@dataclass(eq=False, slots=True)
class LoraPair:
    """The two factors of one adapted weight.

    Attributes:
      a: Factor A, float32, shape (E * R, I).
      b: Factor B, float32, shape (O, R * E).
      scaling: lora_alpha / lora_rank.
      num_experts: E; 1 for a linear layer.
      sink: Where gradients go instead of to `.grad`; None: to `.grad`.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    num_experts: int
    sink: GradientSink | None = None

    def experts_a(self, dtype: torch.dtype) -> Tensor:
        """Factor A by expert."""
        return self.a.detach().to(dtype).view(self.num_experts, -1, self.a.shape[1])

    def experts_b(self, dtype: torch.dtype) -> Tensor:
        """Factor B by expert, transposed."""
        b_ORE = self.b.detach().to(dtype).view(len(self.b), -1, self.num_experts)
        return b_ORE.permute(2, 1, 0).contiguous()

    def delta(self) -> Tensor:
        """What the adapter adds to the weights, float32: for merging, never in a forward pass."""
        b_EOR = self.experts_b(torch.float32).transpose(1, 2)
        return self.scaling * (b_EOR @ self.experts_a(torch.float32))

    def to_layout(self, parameter: nn.Parameter, gradient_ERW: Tensor) -> Tensor:
        """A factor's gradient in the factor's own shape."""
        if parameter is self.a:
            return gradient_ERW.reshape(parameter.shape)
        return gradient_ERW.permute(2, 1, 0).reshape(parameter.shape)

    def place(
        self, parameter: nn.Parameter, experts: Tensor, narrow: Tensor, wide: Tensor
    ) -> Tensor:
        """Where values of a factor's gradient stand in the flattened factor."""
        rank = len(self.a) // self.num_experts
        if parameter is self.a:
            return (experts * rank + narrow) * self.a.shape[1] + wide
        return (wide * rank + narrow) * self.num_experts + experts


class Factor(nn.Module):
    """Holds one factor, so that it is named as peft saves it: `<path>.lora_A.weight`."""

    def __init__(self, num_rows: int, num_columns: int, device: torch.device) -> None:
        super().__init__()
        # float32 whatever the base's type: in bfloat16 noise would have few distinct values.
        self.weight = nn.Parameter(
            torch.zeros(num_rows, num_columns, dtype=torch.float32, device=device)
        )


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter beside it."""

    def __init__(
        self, base_layer: nn.Linear, *, rank: int, scaling: float, dropout: float
    ) -> None:
        super().__init__()
        device = base_layer.weight.device
        self.base_layer = base_layer
        self.lora_dropout = nn.Dropout(dropout)
        self.lora_A = Factor(rank, base_layer.in_features, device)
        self.lora_B = Factor(base_layer.out_features, rank, device)
        pair = LoraPair(self.lora_A.weight, self.lora_B.weight, scaling, num_experts=1)
        self.lora_pairs = (pair,)

    def forward(self, x: Tensor) -> Tensor:
        """`W x + b + scaling B A dropout(x)`."""
        (pair,) = self.lora_pairs
        kept = None
        if self.lora_dropout.training and self.lora_dropout.p > 0:
            kept = self.lora_dropout(torch.ones_like(x))
        weight = self.base_layer.weight
        dtype = compute_dtype(weight)
        x_SI = x.to(dtype).reshape(-1, x.shape[-1])
        groups = None
        if pair.sink is not None and torch.is_grad_enabled():
            groups = pair.sink.row_groups(len(x_SI))
        y_SO: Tensor = AdaptedProduct.apply(  # type: ignore[no-untyped-call]
            x_SI,
            weight.to(dtype).t()[None],
            pair.a,
            pair.b,
            self.base_layer.bias,
            None if kept is None else kept.reshape(x_SI.shape),
            pair,
            groups or _one_group(x_SI),
        )
        return y_SO.view(*x.shape[:-1], -1)


class AdaptedProduct(torch.autograd.Function):
    """Frozen weight and adapter in one: `x W + bias + scaling (kept * x) A^T B^T`, by group.

    Gradients: of the rows, where anything below trains; of the factors, to the sink or, without
    one, as usual; never of the frozen weight.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's own type hides the attributes that are set
        x_SI: Tensor,
        w_EIO: Tensor,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        kept_SI: Tensor | None,
        pair: LoraPair,
        groups: Groups,
    ) -> Tensor:
        """Outputs, shape (S, O)."""
        if bias is not None and groups.num_experts == 1:
            y_SO = torch.addmm(bias.to(x_SI.dtype), x_SI, w_EIO[0])
        else:
            y_SO = multiply(x_SI, w_EIO, groups)
            if bias is not None:
                y_SO += bias
        lora_x_SI = x_SI if kept_SI is None else x_SI * kept_SI
        z_SR = multiply(lora_x_SI, pair.experts_a(x_SI.dtype).transpose(1, 2), groups)
        add_product(y_SO, z_SR, pair.experts_b(x_SI.dtype), groups, pair.scaling)
        # Rows are kept for the factors that train only: A is frozen by default, and its rows are
        # the wide ones.
        rows_SI = lora_x_SI if a.requires_grad else None
        ctx.save_for_backward(
            w_EIO, rows_SI, z_SR if b.requires_grad else None, kept_SI, groups.ends
        )
        ctx.pair, ctx.groups = pair, groups
        return y_SO

    @staticmethod
    def backward(ctx: Any, g_SO: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradients of rows and factors."""
        w_EIO, rows_SI, z_SR, kept_SI, _ = ctx.saved_tensors
        pair, groups = ctx.pair, ctx.groups
        g_SO = g_SO.to(w_EIO.dtype).contiguous()
        a_ERI = pair.experts_a(g_SO.dtype)
        g_SI = u_SR = a_gradient = b_gradient = None
        if ctx.needs_input_grad[0] or rows_SI is not None:
            u_SR = multiply(g_SO, pair.experts_b(g_SO.dtype).transpose(1, 2), groups)
        if ctx.needs_input_grad[0] and u_SR is not None:
            g_SI = multiply(g_SO, w_EIO.transpose(1, 2), groups)
            if kept_SI is None:
                add_product(g_SI, u_SR, a_ERI, groups, pair.scaling)
            else:
                g_SI += multiply(u_SR, a_ERI, groups) * kept_SI * pair.scaling
        if z_SR is not None:
            b_gradient = _deliver(pair, pair.b, z_SR * pair.scaling, g_SO, groups)
        if rows_SI is not None and u_SR is not None:
            a_gradient = _deliver(pair, pair.a, u_SR * pair.scaling, rows_SI, groups)
        return g_SI, None, a_gradient, b_gradient, None, None, None, None


def _deliver(
    pair: LoraPair, parameter: nn.Parameter, narrow_SR: Tensor, wide_SW: Tensor, groups: Groups
) -> Tensor | None:
    """Hand a factor's rows to the sink, or give the gradient that autograd would."""
    if pair.sink is not None:
        # Detached: kept with its graph, a row would hold the activations of all layers below.
        pair.sink.record(parameter, narrow_SR.detach(), wide_SW.detach(), groups)
        return None
    with torch.autocast(wide_SW.device.type, enabled=False):
        gradient_ERW = outer(narrow_SR.float(), wide_SW.float(), groups.expert_ends)
    return pair.to_layout(parameter, gradient_ERW)


def lora_pairs(model: nn.Module) -> Iterator[LoraPair]:
    """Every pair of factors of a model."""
    for module in model.modules():
        yield from getattr(module, "lora_pairs", ())


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What a layer computes in: its weight's type, or autocast's."""
    if torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def _one_group(x_SI: Tensor) -> Groups:
    ends = torch.full((1,), len(x_SI), dtype=torch.int32, device=x_SI.device)
    return Groups(ends=ends, num_experts=1, num_units=1, num_rows=len(x_SI))
