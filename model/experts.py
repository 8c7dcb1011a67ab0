"""LoRA on routed experts: one function for every family that transformers serves.

transformers keeps a layer's experts as three-dimensional weights and calls a registered function
with the tokens, their experts and the experts' weights. This is that function. It sorts the
token-expert pairs once, by expert and within an expert by unit: the order that the products need
is then also the one in which gradients are told apart by unit.

There is no capacity limit: every pair is computed, so no token decides what another one gets.

Shape suffixes: T tokens (batch and sequence flattened), D model width, F width inside an expert,
E experts, K experts per token, S = T * K token-expert pairs in sorted order.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from model.grouped import Groups
from model.lora import AdaptedProduct, Factor, LoraPair

IMPLEMENTATION: Final = "cloister"


@dataclass(frozen=True, slots=True)
class Route:
    """Which pair is which token's.

    Attributes:
      order: Place of each sorted pair in the order in which tokens name them.
      tokens: Token of each pair.
      inverse: Place of each pair, in the order in which tokens name them, among the sorted.
      expert_ids: Expert of each pair, ascending.
      top_k: K.
      groups: The pairs by expert and unit.
    """

    order: Tensor
    tokens: Tensor
    inverse: Tensor
    expert_ids: Tensor
    top_k: int
    groups: Groups


def make_route(
    index_TK: Tensor, *, num_experts: int, units_T: Tensor | None, num_units: int
) -> Route:
    """Sort the pairs by `expert * num_units + unit`."""
    keys_S = index_TK.reshape(-1) * num_units
    if units_T is not None:
        keys_S = (index_TK * num_units + units_T[:, None]).reshape(-1)
    sorted_S, order_S = torch.sort(keys_S, stable=True)
    # How many keys are at most the group's: its end. No count leaves the device for it.
    numbers_G = torch.arange(num_experts * num_units, device=index_TK.device)
    ends_G = torch.searchsorted(sorted_S, numbers_G, right=True, out_int32=True)
    inverse_S = torch.empty_like(order_S)
    inverse_S[order_S] = torch.arange(len(order_S), device=order_S.device)
    top_k = index_TK.shape[1]
    tokens_S = order_S // top_k
    groups = Groups(
        ends=ends_G,
        num_experts=num_experts,
        num_units=num_units,
        num_rows=len(order_S),
        tokens=tokens_S,
    )
    return Route(order_S, tokens_S, inverse_S, sorted_S // num_units, top_k, groups)


def experts_forward(
    experts: Any,  # noqa: ANN401  transformers' experts classes share no type
    hidden_TD: Tensor,
    index_TK: Tensor,
    weights_TK: Tensor,
) -> Tensor:
    """What transformers' own implementations compute, with the adapter, shape (T, D).

    Raises:
      ValueError: The experts are spread over devices, whose pairs this function does not see.
    """
    if experts._is_expert_parallel:
        raise ValueError("expected all experts on one device, got expert parallelism")
    sink = experts.lora_pairs[0].sink
    units_T, num_units = None, 1
    if sink is not None and torch.is_grad_enabled():
        units_T, num_units = sink.token_units(len(hidden_TD)), sink.num_units
    route = make_route(
        index_TK, num_experts=experts.num_experts, units_T=units_T, num_units=num_units
    )
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    x_SD: Tensor = _Dispatch.apply(hidden_TD, route)  # type: ignore[no-untyped-call]
    h_SF = _project(experts, first, x_SD, route)
    h_SF = experts._apply_gate(h_SF) if experts.has_gate else experts.act_fn(h_SF)
    y_SD = _project(experts, "down_proj", h_SF, route)
    if experts.has_post_expert_norm:
        y_SD = experts.post_expert_norm(y_SD)
    out_TD: Tensor = _Combine.apply(y_SD, weights_TK, route)  # type: ignore[no-untyped-call]
    return out_TD.to(hidden_TD.dtype)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward)


def expert_weights(experts: nn.Module) -> list[str]:
    """Names of the three-dimensional weights, in the order of the module."""
    return [name for name, p in experts.named_parameters(recurse=False) if p.ndim == 3]


def is_experts(module: nn.Module) -> bool:
    """Whether a module's forward goes through transformers' experts interface."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias"))


def attach_experts(experts: nn.Module, *, rank: int, scaling: float) -> None:
    """Put an adapter on every weight of the experts but their biases, in place.

    peft wraps the module once for each weight, the first innermost, so that in the names that it
    saves every weight but the last has `base_layer` before it. The same tree is built here.

    Args:
      experts: A module of transformers' experts interface.
      rank: Of the factors.
      scaling: lora_alpha / lora_rank.
    """
    pairs: dict[str, LoraPair] = {}
    parameters = expert_weights(experts)
    holder = experts
    for name in reversed(parameters):
        weight: nn.Parameter = getattr(experts, name)
        num_experts, num_inputs, num_outputs = expert_shape(experts, name)
        holder.lora_A = Factor(num_experts * rank, num_inputs, weight.device)
        holder.lora_B = Factor(num_outputs, rank * num_experts, weight.device)
        pairs[name] = LoraPair(holder.lora_A.weight, holder.lora_B.weight, scaling, num_experts)
        if name != parameters[0]:
            holder.base_layer = nn.Module()
            holder = holder.base_layer
    # Plain attributes: the factors are already in the tree.
    experts.lora_pair_of = pairs  # type: ignore[assignment]
    experts.lora_pairs = tuple(pairs.values())  # type: ignore[assignment]


def detach_experts(experts: Any) -> None:  # noqa: ANN401
    """Add the adapter to the weights and take it off, in place."""
    for name, pair in experts.lora_pair_of.items():
        weight: nn.Parameter = getattr(experts, name)
        delta_EOI = pair.delta()
        delta = delta_EOI.transpose(1, 2) if experts.is_transposed else delta_EOI
        weight.data = (weight.data.float() + delta).to(weight.dtype)
    for name in ("lora_A", "lora_B", "base_layer", "lora_pair_of", "lora_pairs"):
        if hasattr(experts, name):
            delattr(experts, name)


def expert_shape(experts: nn.Module, name: str) -> tuple[int, int, int]:
    """Experts, inputs and outputs of a three-dimensional weight, however it is stored."""
    num_experts, second, third = getattr(experts, name).shape
    if experts.is_transposed:
        return num_experts, second, third
    return num_experts, third, second


class _Dispatch(torch.autograd.Function):
    """A token's row for each of its pairs, sorted; backward adds the pairs' gradients up.

    Indexing's own backward adds row by row, and in no fixed order on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, route: Route) -> Tensor:  # noqa: ANN401
        """Rows, shape (S, D)."""
        ctx.route = route
        return x_TD.index_select(0, route.tokens)

    @staticmethod
    def backward(ctx: Any, g_SD: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        """Gradient of the tokens."""
        route: Route = ctx.route
        g_TKD = g_SD.index_select(0, route.inverse).unflatten(0, (-1, route.top_k))
        return g_TKD.sum(1), None


class _Combine(torch.autograd.Function):
    """The weighted sum of each token's pairs."""

    @staticmethod
    def forward(ctx: Any, y_SD: Tensor, weights_TK: Tensor, route: Route) -> Tensor:  # noqa: ANN401
        """Tokens, shape (T, D), in the wider of both types."""
        ctx.save_for_backward(y_SD, weights_TK)
        ctx.route = route
        y_TKD = y_SD.index_select(0, route.inverse).unflatten(0, (-1, route.top_k))
        dtype = torch.promote_types(y_SD.dtype, weights_TK.dtype)
        return torch.bmm(weights_TK.to(dtype)[:, None], y_TKD.to(dtype))[:, 0]

    @staticmethod
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor, Tensor | None, None]:  # noqa: ANN401
        """Gradients of the pairs, and of their weights where the router sees something trained."""
        y_SD, weights_TK = ctx.saved_tensors
        route: Route = ctx.route
        g_SD = g_TD.to(y_SD.dtype).index_select(0, route.tokens)
        g_TK = None
        if ctx.needs_input_grad[1]:
            g_S = torch.linalg.vecdot(g_SD, y_SD)
            g_TK = g_S[route.inverse].view_as(weights_TK).to(weights_TK.dtype)
        weights_S = weights_TK.reshape(-1).index_select(0, route.order).to(y_SD.dtype)
        return g_SD.mul_(weights_S[:, None]), g_TK, None


def _project(
    experts: Any,  # noqa: ANN401
    name: str,
    x_SI: Tensor,
    route: Route,
) -> Tensor:
    weight: Tensor = getattr(experts, name)
    pair: LoraPair = experts.lora_pair_of[name]
    bias_SO = None
    if experts.has_bias:
        bias_SO = getattr(experts, f"{name}_bias").index_select(0, route.expert_ids)
    y_SO: Tensor = AdaptedProduct.apply(  # type: ignore[no-untyped-call]
        x_SI.to(weight.dtype),
        weight if experts.is_transposed else weight.transpose(1, 2),
        pair.a,
        pair.b,
        bias_SO,
        None,
        pair,
        route.groups,
    )
    return y_SO
