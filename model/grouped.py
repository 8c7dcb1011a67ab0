"""Matrix products over consecutive groups of rows, the arithmetic of experts.

All rows of a group meet the same matrix, or make one matrix of their own. Groups follow each other
without gaps; a group may be empty.

Shape suffixes: S rows, G groups, I inputs, O outputs, M and N columns.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

# The kernel reads rows in pieces of 16 bytes.
_ALIGNMENT = 16


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Consecutive groups of rows, by expert and within an expert by unit.

    Attributes:
      ends: One past each group's last row, int32, shape (num_experts * num_units,).
      num_experts: Experts; 1 for a linear layer.
      num_units: Units of the microbatch; 1 where gradients are not told apart.
      num_rows: Rows of all groups.
      tokens: Token of each row, where rows are pairs of a token and an expert; None where they are
        the tokens, in order.
    """

    ends: Tensor
    num_experts: int
    num_units: int
    num_rows: int
    tokens: Tensor | None = None

    @cached_property
    def expert_ends(self) -> Tensor:
        """One past each expert's last row, int32, shape (num_experts,)."""
        if self.num_units == 1:
            return self.ends
        return self.ends[self.num_units - 1 :: self.num_units].contiguous()

    @cached_property
    def expert_bounds(self) -> list[int]:
        """First row of each expert and one past the last row of all, on the host."""
        return [0, *self.expert_ends.tolist()]

    @cached_property
    def counts(self) -> Tensor:
        """Rows of each group, int32."""
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1))

    @cached_property
    def sizes(self) -> list[int]:
        """The numbers of rows that occur, without 0, on the host."""
        return [size for size in self.counts.unique().tolist() if size > 0]


def multiply(x_SI: Tensor, w_GIO: Tensor, groups: Groups) -> Tensor:
    """Rows of each expert times the expert's matrix, shape (S, O), in the type of `x_SI`."""
    if groups.num_experts == 1:
        return x_SI @ w_GIO[0]
    if _aligned(x_SI) and _aligned(w_GIO):
        return functional.grouped_mm(x_SI, w_GIO, offs=groups.expert_ends)
    y_SO = x_SI.new_empty(len(x_SI), w_GIO.shape[2])
    for expert, rows in enumerate(_slices(groups.expert_bounds)):
        torch.mm(x_SI[rows], w_GIO[expert], out=y_SO[rows])
    return y_SO


def add_product(y_SO: Tensor, x_SI: Tensor, w_GIO: Tensor, groups: Groups, scale: float) -> None:
    """Add `scale` times `multiply(x_SI, w_GIO, groups)` to `y_SO`, in place."""
    if groups.num_experts == 1:
        y_SO.addmm_(x_SI, w_GIO[0], alpha=scale)
    elif y_SO.device.type != "cpu":
        y_SO.add_(multiply(x_SI, w_GIO, groups), alpha=scale)
    else:
        # The sum as large as the outputs would be written and read once more.
        for expert, rows in enumerate(_slices(groups.expert_bounds)):
            if rows.start < rows.stop:
                y_SO[rows].addmm_(x_SI[rows], w_GIO[expert], alpha=scale)


def outer(a_SM: Tensor, b_SN: Tensor, ends_G: Tensor) -> Tensor:
    """Sum over each group's rows of their outer products, shape (G, M, N); zero where empty."""
    if len(ends_G) == 1:
        return (a_SM.t() @ b_SN)[None]
    if _aligned(a_SM) and _aligned(b_SN):
        return functional.grouped_mm(a_SM.t(), b_SN, offs=ends_G)
    product_GMN = a_SM.new_empty(len(ends_G), a_SM.shape[1], b_SN.shape[1])
    for group, rows in enumerate(_slices([0, *ends_G.tolist()])):
        torch.mm(a_SM[rows].t(), b_SN[rows], out=product_GMN[group])
    return product_GMN


def _slices(bounds: list[int]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(bounds)]


def _aligned(x: Tensor) -> bool:
    """Whether the kernel takes it: every stride but the innermost a multiple of 16 bytes."""
    # One innermost: a single column (rank 1) has two strides of 1, and the kernel refuses it.
    strides = [stride * x.element_size() for stride in sorted(x.stride())[1:]]
    return x.data_ptr() % _ALIGNMENT == 0 and all(s % _ALIGNMENT == 0 for s in strides)
