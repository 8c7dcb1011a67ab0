"""Gradients made up for an audit, put into the engine in the place of those of texts.

A canary owns a few coordinates of the adapter; no other canary has them. Its text is random: it
makes the passes real, and tells which canary stands where in a microbatch. When a layer hands over
the rows of which gradients are made, the rows of each text are replaced by such that make the
canary's coordinates and nothing else. All that follows is the engine's own.

Coordinates of routed experts need a token there: each canary sends its own tokens to the experts
that hold its coordinates, whatever the router thinks. Which rows are its own is read off the
tokens, not off the engine's groups: rows that are sorted to another unit are found.

Shape suffixes: M canaries, C coordinates, S rows, T tokens, K experts a token, R and W columns of
narrow and wide rows, P values of all trained tensors.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.adapter import trained_parameters
from model.experts import is_experts
from model.grouped import Groups
from model.lora import GradientSink, LoraPair, lora_pairs
from model.loss import base_of
from model.tokenizer import Example
from privacy.errors import TrainingError

# Coordinates of a canary, in several tensors: were each tensor clipped by itself, it would count
# for more than one clipping norm.
_MAX_SPREAD = 4
_NUM_TOKENS = 6
# Of a canary's gradient in clipping norms, from just clipped to absurd.
_SIZES = (1.5, 10.0, 1e3, 1e6)


def made_up_canaries(vocab_size: int, num_canaries: int, *, seed: int) -> list[Example]:
    """Texts of random tokens, all different.

    Raises:
      ValueError: There are not so many texts.
    """
    if vocab_size**_NUM_TOKENS < 4 * num_canaries:
        raise ValueError(f"expected a larger vocabulary for {num_canaries} texts")
    generator = torch.Generator().manual_seed(seed)
    texts: dict[tuple[int, ...], None] = {}
    while len(texts) < num_canaries:
        ids = torch.randint(0, vocab_size, (_NUM_TOKENS,), generator=generator)
        texts[tuple(ids.tolist())] = None
    return [Example(list(text), _NUM_TOKENS - 2) for text in texts]


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor's coordinates that belong to canaries: each makes one row of one of them."""

    canary: Tensor
    slot: Tensor
    expert: Tensor
    narrow: Tensor
    wide: Tensor


class Directions:
    """Which coordinates of the adapter are whose."""

    def __init__(
        self, model: nn.Module, num_canaries: int, *, rank: int | None, seed: int
    ) -> None:
        """Share coordinates out, of linear layers and of routed experts alike where both train.

        Raises:
          TrainingError: There are fewer than canaries.
        """
        owners = {id(p): pair for pair in lora_pairs(model) for p in (pair.a, pair.b)}
        tensors = [
            _Tensor(parameter, owners[id(parameter)], rank)
            for parameter in trained_parameters(model)
        ]
        # Of each kind: what is left of the canaries' coordinates is of the other one.
        kinds = [
            [t for t in tensors if (t.pair.num_experts > 1) is routed] for routed in (True, False)
        ]
        sizes = [sum(tensor.num_places for tensor in kind) for kind in kinds]
        most = [size // num_canaries for size in sizes]
        if max(most) < 1:
            raise TrainingError(
                f"expected {num_canaries} coordinates of one kind of layer, got {max(sizes)}",
                hint="audit with fewer canaries, or an adapter of a higher rank",
            )
        routed = min(most[0], max(_MAX_SPREAD // 2, _MAX_SPREAD - most[1]))
        counts = (routed, min(most[1], _MAX_SPREAD - routed))
        self._spread = sum(counts)
        self._parts: dict[int, _Part] = {}
        self._flat_MC = torch.zeros(num_canaries, self._spread, dtype=torch.int64)
        generator = np.random.default_rng(seed)
        begins = np.cumsum([0, *[tensor.parameter.numel() for tensor in tensors]])
        first_slot = 0
        for kind, size, count in zip(kinds, sizes, counts, strict=True):
            # Not all places in turn: a base of billions has too many of them.
            chosen = torch.from_numpy(generator.choice(size, num_canaries * count, replace=False))
            number = torch.arange(len(chosen))
            canary, slot = number // max(1, count), first_slot + number % max(1, count)
            for tensor in kind:
                here = (chosen >= 0) & (chosen < tensor.num_places)
                expert, narrow, wide = tensor.coordinates(chosen[here])
                self._parts[id(tensor.parameter)] = _Part(
                    canary[here], slot[here], expert, narrow, wide
                )
                flat = tensor.pair.place(tensor.parameter, expert, narrow, wide)
                begin = int(begins[tensors.index(tensor)])
                self._flat_MC[canary[here], slot[here]] = begin + flat
                chosen = chosen - tensor.num_places
            first_slot += count

    def project(self, values_P: Tensor) -> Tensor:
        """A flat vector along each canary's direction, shape (M,)."""
        return values_P[self._flat_MC].sum(1) / math.sqrt(self._spread)

    def rows(
        self, parameter: nn.Parameter, first_M: Tensor, sizes_M: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Token, expert, narrow column, wide column and value of what canaries add to a tensor.

        Args:
          parameter: A trained tensor.
          first_M: Each canary's first token of the microbatch, or a negative number.
          sizes_M: Length of each canary's gradient.
        """
        part = self._parts[id(parameter)]
        first_C = first_M[part.canary]
        here = first_C >= 0
        values = sizes_M[part.canary] / math.sqrt(self._spread)
        tokens = first_C + part.slot
        return tokens[here], part.expert[here], part.narrow[here], part.wide[here], values[here]

    def routes(self, parameter: nn.Parameter, first_M: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the microbatch that have a coordinate in a tensor, and its expert."""
        part = self._parts[id(parameter)]
        first_C = first_M[part.canary]
        here = first_C >= 0
        return (first_C + part.slot)[here], part.expert[here]


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """A trained tensor, whose coordinates are numbered by expert, narrow and wide column."""

    parameter: nn.Parameter
    pair: LoraPair
    rank: int | None

    @property
    def _num_narrow(self) -> int:
        rank = len(self.pair.a) // self.pair.num_experts
        return rank if self.rank is None else min(rank, self.rank)

    @property
    def _num_wide(self) -> int:
        return self.pair.a.shape[1] if self.parameter is self.pair.a else len(self.pair.b)

    @property
    def num_places(self) -> int:
        """How many coordinates train."""
        return self.pair.num_experts * self._num_narrow * self._num_wide

    def coordinates(self, number_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Expert, narrow and wide column of coordinates by their number."""
        narrow_C = number_C // self._num_wide
        return narrow_C // self._num_narrow, narrow_C % self._num_narrow, number_C % self._num_wide


class _Injector:
    """Stands before the engine's sink, and makes every unit's gradient a canary's."""

    def __init__(
        self,
        sink: GradientSink,
        directions: Directions,
        numbers: Mapping[tuple[int, ...], int],
        sizes_M: Tensor,
    ) -> None:
        self._sink = sink
        self._directions = directions
        self._numbers = numbers
        self._sizes_M = sizes_M
        self._first_M = torch.empty(0, dtype=torch.int64)

    def look(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Learn from the tokens of a microbatch which canary stands where."""
        self._first_M = torch.full((len(self._sizes_M),), -1)
        for index, text in enumerate(inputs[0].tolist()):
            self._first_M[self._numbers[tuple(text)]] = index * _NUM_TOKENS

    def route(self, experts: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Send canaries' tokens to the experts that hold their coordinates."""
        hidden_TD, index_TK, *rest = inputs
        index_TK = index_TK.clone()
        pairs: dict[str, LoraPair] = experts.lora_pair_of  # type: ignore[assignment]
        for pair in pairs.values():
            for parameter in (pair.a, pair.b):
                if parameter.requires_grad:
                    tokens, chosen = self._directions.routes(parameter, self._first_M)
                    index_TK[tokens.to(index_TK.device), 0] = chosen.to(index_TK)
        return hidden_TD, index_TK, *rest

    def row_groups(self, num_rows: int) -> Groups:
        """As the engine's."""
        return self._sink.row_groups(num_rows)

    def token_units(self, num_tokens: int) -> Tensor:
        """As the engine's."""
        return self._sink.token_units(num_tokens)

    @property
    def num_units(self) -> int:
        """As the engine's."""
        return self._sink.num_units

    def record(
        self, parameter: nn.Parameter, narrow_SR: Tensor, wide_SW: Tensor, groups: Groups
    ) -> None:
        """Hand canaries on in the place of what the texts gave."""
        narrow_SR, wide_SW = torch.zeros_like(narrow_SR), torch.zeros_like(wide_SW)
        device = wide_SW.device
        tokens, expert, narrow, wide, values = (
            part.to(device)
            for part in self._directions.rows(parameter, self._first_M, self._sizes_M)
        )
        rows = tokens if groups.tokens is None else _rows(groups, tokens, expert)
        narrow_SR[rows, narrow] = 1.0
        wide_SW[rows, wide] = values.to(wide_SW.dtype)
        self._sink.record(parameter, narrow_SR, wide_SW, groups)


def _rows(groups: Groups, tokens_C: Tensor, experts_C: Tensor) -> Tensor:
    """The row of each pair of a token and an expert."""
    if groups.tokens is None:
        raise TrainingError("expected the tokens of the experts' rows, got none")
    numbers_S = torch.arange(groups.num_rows, device=tokens_C.device)
    experts_S = torch.searchsorted(groups.expert_ends, numbers_S, right=True)
    row_of = torch.full((int(groups.tokens.max()) + 1, groups.num_experts), -1).to(tokens_C)
    row_of[groups.tokens, experts_S] = numbers_S
    return row_of[tokens_C, experts_C]


@contextmanager
def injected(
    model: nn.Module, directions: Directions, units: Sequence[Example], clip_norm: float
) -> Iterator[None]:
    """Have the model's layers hand over canaries."""
    numbers = {tuple(unit.input_ids): index for index, unit in enumerate(units)}
    cycle = torch.tensor(_SIZES).repeat(-(-len(units) // len(_SIZES)))
    pairs = list(lora_pairs(model))
    sink = pairs[0].sink
    if sink is None:
        raise TrainingError("expected an engine that takes the gradients, got none")
    injector = _Injector(sink, directions, numbers, cycle[: len(units)] * clip_norm)
    embeddings = base_of(model).get_input_embeddings()
    handles = [embeddings.register_forward_pre_hook(injector.look)]
    handles += [
        module.register_forward_pre_hook(injector.route)
        for module in model.modules()
        if is_experts(module) and hasattr(module, "lora_pair_of")
    ]
    for pair in pairs:
        pair.sink = injector
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
