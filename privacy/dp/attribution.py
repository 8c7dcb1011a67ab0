"""Whose gradient is it? Per-unit norms and weighted sums from one backward pass.

In the backward pass each adapted layer hands over, for each of its two factors, rows of which a
unit's gradient is the sum of outer products: narrow rows (R wide) and wide rows (W wide). The rows
are sorted by expert and unit, so a unit's gradient in an expert is a product of consecutive rows.
When the pass is done the squared norms of all layers have been added up, and the sum of the units'
gradients, each times its factor, follows without a second pass.

Until then each layer keeps what it needs in the form that costs it least (`choose_form`):

- `PRODUCTS`: the units' gradients themselves, where a group has more rows than they are narrow, so
  that the gradients are smaller than the rows;
- `GRAM`: the rows, where groups are so small that gradients would be larger; the norms come from
  the rows' inner products (`|X X' * G G'|`, Li et al. 2021, arXiv 2110.05679).

In the first form the numbers that were clipped are, bit for bit, those that are summed. A Gram
norm is rounded by itself, so where rows cancel it could come out too small: a bound on its
rounding is added, and a unit then counts for a little less, never for more.

Shape suffixes: B examples and U units of a microbatch, S rows, E experts, G = E * U groups, R and
W columns of the narrow and of the wide rows, N rows of the largest group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor, nn

from model.adapter import trained_parameters
from model.grouped import Groups, outer
from model.lora import LoraPair, lora_pairs
from privacy.errors import TrainingError

# Values of gradients that are made at a time: 1 MiB, half of a usual second-level cache. A GPU
# has no use for pieces.
_PIECE_VALUES = {"cpu": 2**18}
_PIECE_VALUES_ELSEWHERE = 2**26
# Of the squared sum of the rows' lengths: above the rounding of inner products in float32 of
# `_INNER_COLUMNS` values, which came to 2.5e-7 at worst.
_GRAM_SLACK = 1e-6
_INNER_COLUMNS = 256
# Norms below it have squares that are float32s.
_LARGEST = 1e18


class Form(Enum):
    """What a layer keeps of a microbatch until the norms are known."""

    PRODUCTS = auto()
    GRAM = auto()


def choose_form(groups: Groups, num_narrow: int) -> Form:
    """The cheaper form by the mean number n of rows in a group.

    For each group, products are `R * W` values to write and keep, rows `n * W`; products take
    `n * R * W` multiplications, inner products `n * n * W`. Both are equal at n = R. Measured on
    one core of a busy machine, 64 experts, 16,384 rows, W 512, norms and sum included: with R 8
    products 204 ms beside 100 ms at n = 2, 121 beside 104 at 4, 65 beside 104 at 8, 15 beside 116
    at 32; with R 32, 203 beside 118 at n = 8, 121 beside 125 at 16 and 70 beside 138 at 32.
    """
    mean_rows = groups.num_rows / len(groups.ends)
    return Form.PRODUCTS if mean_rows >= num_narrow else Form.GRAM


@dataclass(slots=True)
class _Kept:
    """One factor's part of a microbatch."""

    index: int
    form: Form
    groups: Groups
    narrow: Tensor
    wide: Tensor
    products: list[Tensor]


class UnitGradients:
    """Takes the gradients of a model's adapter and tells them apart by unit.

    A `model.lora.GradientSink`. For each microbatch: `begin`, one backward pass, `norms`, `add`.
    """

    def __init__(self, model: nn.Module) -> None:
        """Attach to every adapted layer of `model`; `close` detaches."""
        self.parameters = trained_parameters(model)
        self._pairs = list(lora_pairs(model))
        self._index = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self._pair_of = [self._owner(parameter) for parameter in self.parameters]
        self._kept: list[_Kept] = []
        self._seen: set[int] = set()
        self._examples: list[int] = []
        self._num_tokens = 0
        self._linear_groups: dict[int, Groups] = {}
        self._squares_U = torch.empty(0)
        for pair in self._pairs:
            pair.sink = self

    def close(self) -> None:
        """Give the layers back to autograd."""
        for pair in self._pairs:
            pair.sink = None

    @property
    def num_units(self) -> int:
        """Units of the microbatch."""
        return len(self._examples)

    def zeros(self) -> list[Tensor]:
        """A sum of no unit, by parameter, float32, shape (E, R, W)."""
        sums = []
        for parameter, pair in zip(self.parameters, self._pair_of, strict=True):
            num_narrow = len(pair.a) // pair.num_experts
            num_wide = pair.a.shape[1] if parameter is pair.a else len(pair.b)
            sums.append(
                torch.zeros(pair.num_experts, num_narrow, num_wide, device=parameter.device)
            )
        return sums

    def flat(self, sums: Sequence[Tensor]) -> Tensor:
        """A sum in the layout of an update, shape (P,)."""
        return torch.cat(
            [
                pair.to_layout(parameter, sum_ERW).reshape(-1)
                for parameter, pair, sum_ERW in zip(
                    self.parameters, self._pair_of, sums, strict=True
                )
            ]
        )

    def begin(self, examples_per_unit: Sequence[int], num_tokens: int) -> None:
        """Expect one backward pass over examples that stand together by unit.

        Args:
          examples_per_unit: How many examples each unit has, in the order of the batch.
          num_tokens: Tokens of each example, padding included.
        """
        self._examples = list(examples_per_unit)
        self._num_tokens = num_tokens
        self._kept, self._seen, self._linear_groups = [], set(), {}
        device = self.parameters[0].device
        self._squares_U = torch.zeros(self.num_units, dtype=torch.float64, device=device)

    def row_groups(self, num_rows: int) -> Groups:
        """Whose rows a linear layer sees: the same number for every example, in order."""
        if num_rows not in self._linear_groups:
            num_examples = sum(self._examples)
            if num_rows % num_examples:
                raise TrainingError(
                    f"expected the same number of rows for each of {num_examples} examples, "
                    f"got {num_rows} rows",
                    hint="the base regroups tokens; choose another base",
                )
            ends_U = torch.tensor(self._examples).cumsum(0) * (num_rows // num_examples)
            self._linear_groups[num_rows] = Groups(
                ends=ends_U.to(self.parameters[0].device, torch.int32),
                num_experts=1,
                num_units=self.num_units,
                num_rows=num_rows,
            )
        return self._linear_groups[num_rows]

    def token_units(self, num_tokens: int) -> Tensor:
        """The unit of every token of the microbatch, int64, shape (num_tokens,)."""
        tokens_U = torch.tensor(self._examples) * self._num_tokens
        if int(tokens_U.sum()) != num_tokens:
            raise TrainingError(
                f"expected experts to see all {int(tokens_U.sum())} tokens, got {num_tokens}",
                hint="the base drops or regroups tokens; choose another base",
            )
        units_T = torch.repeat_interleave(torch.arange(self.num_units), tokens_U)
        return units_T.to(self.parameters[0].device)

    def record(
        self, parameter: nn.Parameter, narrow_SR: Tensor, wide_SW: Tensor, groups: Groups
    ) -> None:
        """Take a factor's rows, and add their squared norms up by unit."""
        index = self._index[id(parameter)]
        if index in self._seen:
            raise _wrong_form()
        self._seen.add(index)
        # The backward pass runs under the caller's autocast, which would make products of
        # bfloat16: a gradient clipped by such a norm was 1.002 norms long.
        with torch.autocast(wide_SW.device.type, enabled=False):
            self._take(index, narrow_SR, wide_SW, groups)

    def _take(self, index: int, narrow_SR: Tensor, wide_SW: Tensor, groups: Groups) -> None:
        kept = _Kept(
            index, choose_form(groups, narrow_SR.shape[1]), groups, narrow_SR, wide_SW, []
        )
        self._kept.append(kept)
        if kept.form is Form.GRAM:
            self._squares_U += _gram_squares(kept)
            return
        for product_EUP in _products(kept):
            self._squares_U += _squares(product_EUP).sum(0)
            kept.products.append(product_EUP)
        # Only the products are needed: let the rows go with the layer's activations.
        kept.narrow, kept.wide = narrow_SR[:0].clone(), wide_SW[:0].clone()

    def norms(self) -> Tensor:
        """Each unit's norm over all trained tensors, float64, shape (U,).

        Raises:
          TrainingError: A trained tensor took no part in the pass.
        """
        if len(self._seen) != len(self.parameters):
            raise _wrong_form()
        return self._squares_U.sqrt()

    def add(self, sums: Sequence[Tensor], factors_U: Tensor) -> None:
        """Add each unit's gradient times its factor to `sums`, and forget the microbatch.

        A unit with factor 0 adds nothing, whatever its gradient is.
        """
        with torch.autocast(factors_U.device.type, enabled=False):
            self._add(sums, factors_U.float())

    def _add(self, sums: Sequence[Tensor], factors_U: Tensor) -> None:
        dropped_U = factors_U == 0
        any_dropped = bool(dropped_U.any())
        while self._kept:
            kept = self._kept.pop()
            if any_dropped:
                # 0 * infinity would be NaN in the sum of everybody.
                _drop(kept, dropped_U)
            sum_ERW = sums[kept.index]
            if kept.form is Form.GRAM:
                weights_S = factors_U[_row_units(kept.groups)]
                narrow_SR = kept.narrow.float() * weights_S[:, None]
                sum_ERW += outer(narrow_SR, kept.wide.float(), kept.groups.expert_ends)
                continue
            begin = 0
            for product_EUP in kept.products:
                part_ERW = sum_ERW[begin : begin + len(product_EUP)]
                part_ERW += torch.matmul(factors_U, product_EUP).view(part_ERW.shape)
                begin += len(product_EUP)

    def _owner(self, parameter: nn.Parameter) -> LoraPair:
        for pair in self._pairs:
            if parameter is pair.a or parameter is pair.b:
                return pair
        raise TrainingError(
            "expected to train the adapter only, got other trainable tensors",
            hint="only adapters that the plan lists can be clipped per unit",
        )


def clip_factors(norms_U: Tensor, clip_norm: float) -> Tensor:
    """What each unit's gradient is multiplied with; 0 where it is not finite."""
    return torch.where(torch.isfinite(norms_U), clip_norm / norms_U.clamp_min(clip_norm), 0.0)


def _products(kept: _Kept) -> Iterator[Tensor]:
    """Gradients by expert and unit, float32, (E, U, R * W), for some experts at a time."""
    groups = kept.groups
    num_values = groups.num_units * kept.narrow.shape[1] * kept.wide.shape[1]
    limit = _PIECE_VALUES.get(kept.wide.device.type, _PIECE_VALUES_ELSEWHERE)
    step = max(1, min(groups.num_experts, limit // max(1, num_values)))
    for begin in range(0, groups.num_experts, step):
        end = min(begin + step, groups.num_experts)
        narrow_SR, wide_SW, ends_G = _piece(kept, begin, end)
        product_GRW = outer(narrow_SR, wide_SW, ends_G)
        yield product_GRW.view(end - begin, groups.num_units, -1)


def _squares(product_EUP: Tensor) -> Tensor:
    """Squared norms of gradients, float64, shape (E, U).

    In float32 throughout, a long gradient's norm came out 0.07 % too short. On a CPU float64
    throughout takes ten times as long as float32 over a few columns at a time, which makes a norm
    at most 1e-5 shorter. Where a square could have been no float32, all is done again in float64.
    Of a billion values so small that their squares are zero in float32, a norm loses less than
    1e-14, which is nothing beside a clipping norm of at least `privacy.dp.config.MIN_CLIP_NORM`.
    """
    if product_EUP.device.type == "cpu":
        parts = [
            torch.linalg.vector_norm(part.unflatten(2, (-1, width)), dim=3)
            for part, width in _chunks(product_EUP)
        ]
        norms_EUC = torch.cat(parts, dim=2)
        # `<`: also where one is not a number.
        if bool((norms_EUC < _LARGEST).all()):
            return norms_EUC.double().square().sum(2)
    norms_EU: Tensor = torch.linalg.vector_norm(product_EUP, dim=2, dtype=torch.float64)
    return norms_EU.square()


def _chunks(product_EUP: Tensor) -> Iterator[tuple[Tensor, int]]:
    """All columns, as many as there are whole chunks of and then the rest, with their width."""
    num_columns = product_EUP.shape[2]
    whole = num_columns - num_columns % _INNER_COLUMNS
    if whole:
        yield product_EUP[..., :whole], _INNER_COLUMNS
    if whole < num_columns:
        yield product_EUP[..., whole:], num_columns - whole


def _piece(kept: _Kept, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of some experts in float32, and where their groups end."""
    groups = kept.groups
    if end - begin == groups.num_experts:
        return kept.narrow.float(), kept.wide.float(), groups.ends
    first, last = groups.expert_bounds[begin], groups.expert_bounds[end]
    ends_G = groups.ends[begin * groups.num_units : end * groups.num_units] - first
    return kept.narrow[first:last].float(), kept.wide[first:last].float(), ends_G


def _gram_squares(kept: _Kept) -> Tensor:
    """Squared norms by unit, float64, shape (U,), rounded up."""
    groups = kept.groups
    counts_G = groups.counts
    starts_G = groups.ends - counts_G
    squares_G = torch.zeros(len(counts_G), dtype=torch.float64, device=counts_G.device)
    # Groups of one size at a time, so that nothing is padded.
    for size in groups.sizes:
        groups_H = (counts_G == size).nonzero()[:, 0]
        rows_HN = starts_G[groups_H, None] + torch.arange(size, device=counts_G.device)
        inner_HNN, other_HNN = (
            _inner(rows.index_select(0, rows_HN.flatten()).view(*rows_HN.shape, -1).float())
            for rows in (kept.wide, kept.narrow)
        )
        inner_HNN *= other_HNN
        lengths_H = inner_HNN.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().sum(1)
        squares_H = inner_HNN.sum((1, 2)).clamp_min(0) + _GRAM_SLACK * lengths_H.square()
        squares_G[groups_H] = squares_H
    return squares_G.view(groups.num_experts, groups.num_units).sum(0)


def _inner(rows_HNW: Tensor) -> Tensor:
    """Inner products of all pairs of rows, float64, shape (H, N, N).

    Rows are made to have a largest value of 1 first, because the squares of tiny ones are zero in
    float32. Products are summed in float32 over a few columns only: over ten thousand, rows of one
    value round the same way every time, and the error grows with the width.
    """
    largest_HN1 = rows_HNW.abs().amax(2, keepdim=True)
    scale_HN1 = largest_HN1.clamp_min(torch.finfo(torch.float32).tiny)
    rows_HNW = rows_HNW / scale_HN1
    inner_HNN = torch.zeros(
        *rows_HNW.shape[:2], rows_HNW.shape[1], dtype=torch.float64, device=rows_HNW.device
    )
    for part_HNW in rows_HNW.split(_INNER_COLUMNS, dim=2):
        inner_HNN += torch.bmm(part_HNW, part_HNW.transpose(1, 2)).double()
    scale_HN1 = scale_HN1.double()
    return inner_HNN * (scale_HN1 * scale_HN1.transpose(1, 2))


def _row_units(groups: Groups) -> Tensor:
    """The unit of each row, shape (S,)."""
    units_G = torch.arange(groups.num_units, device=groups.ends.device).repeat(groups.num_experts)
    return torch.repeat_interleave(units_G, groups.counts, output_size=groups.num_rows)


def _drop(kept: _Kept, dropped_U: Tensor) -> None:
    """Put zeros for the rows or gradients of some units."""
    if kept.products:
        kept.products = [
            product_EUP.masked_fill(dropped_U[None, :, None], 0.0) for product_EUP in kept.products
        ]
        return
    rows_S = dropped_U[_row_units(kept.groups)][:, None]
    kept.narrow = kept.narrow.masked_fill(rows_S, 0.0)
    kept.wide = kept.wide.masked_fill(rows_S, 0.0)


def _wrong_form() -> TrainingError:
    return TrainingError(
        "expected one gradient an example for every trained tensor, got another form",
        hint="the base uses an adapted layer twice or not at all; choose another base",
    )
