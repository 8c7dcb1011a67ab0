"""Gradients of the first terms of each product only: what a site of a lower rank trains.

A weight's adapter is a sum of terms, each a column of B times a row of A. The forward pass
computes all of them; of the rows that a layer hands over, those that make the first terms'
gradients are taken and the others are dropped before a norm is computed. So clipping is over what
is trained, and everything else is exactly zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.grouped import Groups
from privacy.dp.attribution import UnitGradients


class LeadingGradients(UnitGradients):
    """As `UnitGradients`, for the first `rank` columns of each B and rows of each A."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        """Attach to `model`.

        Raises:
          ValueError: `rank` is not from 1 to that of every adapted layer.
        """
        super().__init__(model)
        self._rank = rank
        smallest = min(len(pair.a) // pair.num_experts for pair in self._pair_of)
        if not 1 <= rank <= smallest:
            self.close()
            raise ValueError(f"expected 1 <= rank <= {smallest}, got {rank}")

    def zeros(self) -> list[Tensor]:
        """A sum of no unit, by parameter, float32, shape (E, rank, W)."""
        return [zeros_ERW[:, : self._rank].clone() for zeros_ERW in super().zeros()]

    def flat(self, sums: Sequence[Tensor]) -> Tensor:
        """A sum in the layout of an update, shape (P,), zero beyond the rank."""
        whole = super().zeros()
        for whole_ERW, sum_ERW in zip(whole, sums, strict=True):
            whole_ERW[:, : self._rank] = sum_ERW
        return super().flat(whole)

    def record(
        self, parameter: nn.Parameter, narrow_SR: Tensor, wide_SW: Tensor, groups: Groups
    ) -> None:
        """Take the part of a factor's rows that makes the first terms' gradient."""
        super().record(parameter, narrow_SR[:, : self._rank].contiguous(), wide_SW, groups)

    def mask(self) -> Tensor:
        """Which values train, in the layout of an update, shape (P,)."""
        return self.flat([torch.ones_like(zeros) for zeros in self.zeros()]).bool()
