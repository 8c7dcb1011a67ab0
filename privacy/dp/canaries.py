"""Gradients made up for an audit, put into the engine in the place of those of texts.

A canary owns a few coordinates of the adapter; no other canary has them. Its text is random: it
makes the passes real, and tells which canary stands where in a microbatch. When a layer hands over
the rows of which gradients are made, the rows of each text are replaced by such that make the
canary's coordinates and nothing else. All that follows is the engine's own.

Coordinates of routed experts are nobody's: which expert a text would reach is not known while it
is out. Their part of a canary is zero.

Shape suffixes: M canaries, C coordinates, S rows, R and W columns of narrow and wide rows, P
values of all trained tensors.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.adapter import trained_parameters
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
    narrow: Tensor
    wide: Tensor


class Directions:
    """Which coordinates of the adapter are whose; those of routed experts are nobody's."""

    def __init__(
        self, model: nn.Module, num_canaries: int, *, rank: int | None, seed: int
    ) -> None:
        """Share the coordinates of linear layers out.

        Raises:
          TrainingError: There are fewer than canaries.
        """
        owners = {id(p): pair for pair in lora_pairs(model) for p in (pair.a, pair.b)}
        places = []
        begin = 0
        for index, parameter in enumerate(trained_parameters(model)):
            pair = owners[id(parameter)]
            if pair.num_experts == 1:
                narrow_C, wide_C, flat_C = _coordinates(pair, parameter, rank)
                tensor_C = torch.full_like(narrow_C, index)
                places.append(torch.stack([tensor_C, narrow_C, wide_C, begin + flat_C]))
            begin += parameter.numel()
        num_places = sum(place.shape[1] for place in places)
        if num_places < num_canaries:
            raise TrainingError(
                f"expected {num_canaries} coordinates on linear layers, got {num_places}",
                hint="audit with fewer canaries, or an adapter on attention of a higher rank",
            )
        spread = min(_MAX_SPREAD, num_places // num_canaries)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(num_places, generator=generator)[: num_canaries * spread]
        chosen = torch.cat(places, dim=1)[:, order].view(4, num_canaries, spread)
        tensor_MC, narrow_MC, wide_MC, self._flat_MC = chosen
        canary_MC = torch.arange(num_canaries)[:, None].expand_as(tensor_MC)
        slot_MC = torch.arange(spread).expand_as(tensor_MC)
        self._spread = spread
        self._parts: dict[int, _Part] = {}
        for index, parameter in enumerate(trained_parameters(model)):
            here = tensor_MC == index
            self._parts[id(parameter)] = _Part(
                canary_MC[here], slot_MC[here], narrow_MC[here], wide_MC[here]
            )

    def project(self, values_P: Tensor) -> Tensor:
        """A flat vector along each canary's direction, shape (M,)."""
        return values_P[self._flat_MC].sum(1) / math.sqrt(self._spread)

    def rows(
        self, parameter: nn.Parameter, first_M: Tensor, sizes_M: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row, narrow column, wide column and value of what canaries add to a tensor.

        Args:
          parameter: A trained tensor.
          first_M: Each canary's first row of the microbatch, or a negative number.
          sizes_M: Length of each canary's gradient.
        """
        part = self._parts[id(parameter)]
        first_C = first_M[part.canary]
        here = first_C >= 0
        values = sizes_M[part.canary] / math.sqrt(self._spread)
        rows = first_C + part.slot
        return rows[here], part.narrow[here], part.wide[here], values[here]


def _coordinates(
    pair: LoraPair, parameter: nn.Parameter, rank: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Narrow and wide column, and place in the flat tensor, of a linear layer's coordinates."""
    num_narrow = len(pair.a)
    num_wide = parameter.numel() // num_narrow
    number_1RW = torch.arange(parameter.numel()).view(1, num_narrow, num_wide)
    flat_RW = torch.empty(parameter.numel(), dtype=torch.int64)
    flat_RW[pair.to_layout(parameter, number_1RW).flatten()] = torch.arange(parameter.numel())
    flat_RW = flat_RW.view(num_narrow, num_wide)[:rank]
    narrow_C, wide_C = (
        index.flatten()
        for index in torch.meshgrid(
            torch.arange(len(flat_RW)), torch.arange(num_wide), indexing="ij"
        )
    )
    return narrow_C, wide_C, flat_RW.flatten()


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
        self._places_M = torch.empty(0, dtype=torch.int64)

    def look(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Learn from the tokens of a microbatch which canary stands where."""
        self._places_M = torch.full((len(self._sizes_M),), -1)
        for index, text in enumerate(inputs[0].tolist()):
            self._places_M[self._numbers[tuple(text)]] = index

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
        first_M = self._places_M * (groups.num_rows // groups.num_units)
        rows, narrow, wide, values = (
            part.to(device) for part in self._directions.rows(parameter, first_M, self._sizes_M)
        )
        narrow_SR[rows, narrow] = 1.0
        wide_SW[rows, wide] = values.to(wide_SW.dtype)
        self._sink.record(parameter, narrow_SR, wide_SW, groups)


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
    handle = embeddings.register_forward_pre_hook(injector.look)
    for pair in pairs:
        pair.sink = injector
    try:
        yield
    finally:
        handle.remove()
