"""Attention, experts and head for training on a CPU, in bfloat16 matrix products of fixed shapes.

The same function as transformers', for pre-training only; at a site `model.base` chooses. Three
things cost most of a plain step on a CPU: attention whose values are narrower than its keys takes
the slow path, a matrix product of a size never seen before is compiled first (and the number of
tokens of an expert is new in every step), and the logits are the largest tensors of all.

Shape suffixes: B sequences, T tokens of a sequence, N tokens of the batch, K experts a token,
E experts, C slots an expert, D model width, F expert width, H heads, V vocabulary.
"""

# ruff: noqa: D102  forward and backward of an autograd function, as torch calls them

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "cloister_pretraining"
SLOT_STEP = 64
HEAD_CHUNK = 512


class Context(Protocol):
    """What a forward pass keeps for its backward pass."""

    saved_tensors: tuple[Tensor, ...]
    scaling: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...
    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


class Experts(Protocol):
    """The experts of a layer, as transformers keeps them."""

    num_experts: int
    gate_up_proj: Tensor
    down_proj: Tensor
    act_fn: Callable[[Tensor], Tensor]


class NormModule(Protocol):
    """A root-mean-square norm of transformers."""

    weight: Tensor
    variance_epsilon: float


def segment_mask(ids_BT: Tensor, bos: int) -> Tensor:
    """What to add to attention scores, ``(B, 1, T, T)`` in bfloat16.

    0 where a token may attend: to earlier ones of its own document, which begins with `bos`.
    """
    segments_BT = (ids_BT == bos).cumsum(-1)
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    mask_BTT = torch.zeros(same_BTT.shape, dtype=torch.bfloat16)
    return mask_BTT.masked_fill_(~same_BTT.tril(), -1e4)[:, None]


class Attention(torch.autograd.Function):
    """Plain attention in batched products; keys and values may differ in width."""

    @staticmethod
    def forward(
        ctx: Context, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float
    ) -> Tensor:
        query = query * scaling
        scores = (query @ key.transpose(-1, -2)).add_(mask)
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scaling = scaling
        return weights @ value

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, weights = ctx.saved_tensors
        grad_weights = grad @ value.transpose(-1, -2)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        return (
            (grad_scores @ key) * ctx.scaling,
            grad_scores.transpose(-1, -2) @ query,
            weights.transpose(-1, -2) @ grad,
            None,
            None,
        )


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    segments: Tensor,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, all ``(B, H, T, width)``; `segments` is the mask."""
    dtype = segments.dtype
    # Autocast would take the softmax to float32 and back, the largest tensors of a layer.
    with torch.autocast("cpu", enabled=False):
        out = apply(Attention, query.to(dtype), key.to(dtype), value.to(dtype), segments, scaling)
    return out.transpose(1, 2).contiguous(), None


class Dispatch(torch.autograd.Function):
    """Copies each token to the slots of its experts; the gradient is gathered, never scattered."""

    @staticmethod
    def forward(ctx: Context, x_ND: Tensor, token_of_slot: Tensor, slot_NK: Tensor) -> Tensor:
        ctx.save_for_backward(slot_NK)
        return x_ND.index_select(0, token_of_slot)

    @staticmethod
    def backward(ctx: Context, grad_SD: Tensor) -> tuple[Tensor, None, None]:
        (slot_NK,) = ctx.saved_tensors
        first, *rest = (grad_SD.index_select(0, slot_N) for slot_N in slot_NK.unbind(1))
        return sum(rest, first), None, None


class Combine(torch.autograd.Function):
    """Adds up what a token's experts answered, by their weights."""

    @staticmethod
    def forward(
        ctx: Context, y_SD: Tensor, weight_NK: Tensor, token_of_slot: Tensor, slot_NK: Tensor
    ) -> Tensor:
        ctx.save_for_backward(y_SD, weight_NK, token_of_slot, slot_NK)
        weight_NK = weight_NK.to(y_SD.dtype)
        out_ND = y_SD.index_select(0, slot_NK[:, 0]) * weight_NK[:, :1]
        for k in range(1, slot_NK.shape[1]):
            out_ND += y_SD.index_select(0, slot_NK[:, k]) * weight_NK[:, k : k + 1]
        return out_ND

    @staticmethod
    def backward(ctx: Context, grad_ND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y_SD, weight_NK, token_of_slot, slot_NK = ctx.saved_tensors
        # A slot that no token filled has weight 0 and so no gradient.
        weight_S = y_SD.new_zeros(len(y_SD))
        weight_S[slot_NK.flatten()] = weight_NK.flatten().to(y_SD.dtype)
        grad_SD = grad_ND.index_select(0, token_of_slot)
        weight_grads = [
            (y_SD.index_select(0, slot_N) * grad_ND).sum(-1, dtype=torch.float32)
            for slot_N in slot_NK.unbind(1)
        ]
        return grad_SD * weight_S[:, None], torch.stack(weight_grads, 1), None, None


def padded_experts(experts: Experts, x_ND: Tensor, expert_NK: Tensor, weight_NK: Tensor) -> Tensor:
    """All experts in two batched products, every expert padded to the slots of the busiest.

    The number of slots is a multiple of `SLOT_STEP`, so that few shapes occur.
    """
    num_experts, num_chosen = experts.num_experts, expert_NK.numel()
    flat = expert_NK.flatten()
    order = flat.argsort(stable=True)
    counts_E = torch.bincount(flat, minlength=num_experts)
    slots = -(-int(counts_E.max()) // SLOT_STEP) * SLOT_STEP
    begins_E = counts_E.cumsum(0) - counts_E
    sorted_expert = flat[order]
    slot_sorted = torch.arange(num_chosen) - begins_E[sorted_expert] + sorted_expert * slots
    slot_NK = torch.empty_like(flat).scatter_(0, order, slot_sorted).view_as(expert_NK)
    token_of_slot = torch.zeros(num_experts * slots, dtype=torch.long)
    token_of_slot[slot_sorted] = order // expert_NK.shape[1]
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x_ND.dtype
    x_ECD = apply(Dispatch, x_ND.to(dtype), token_of_slot, slot_NK).view(num_experts, slots, -1)
    gate, up = torch.bmm(x_ECD, experts.gate_up_proj.to(dtype).transpose(1, 2)).chunk(2, dim=-1)
    y_ECD = torch.bmm(experts.act_fn(gate) * up, experts.down_proj.to(dtype).transpose(1, 2))
    return apply(Combine, y_ECD.flatten(0, 1), weight_NK, token_of_slot, slot_NK).to(x_ND.dtype)


class HeadLoss(torch.autograd.Function):
    """Weighted sum of negative log-likelihoods, a chunk of tokens at a time, gradient included."""

    @staticmethod
    def forward(
        ctx: Context, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, weight_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        head = head_VD.to(hidden_ND.dtype)
        weighted_ND = hidden_ND * weight_N[:, None].to(head.dtype)
        grad_VD = torch.zeros_like(head_VD)
        grad_ND = torch.empty_like(hidden_ND)
        nats_N = torch.empty_like(weight_N)
        for begin in range(0, len(hidden_ND), HEAD_CHUNK):
            part = slice(begin, begin + HEAD_CHUNK)
            target = target_N[part, None]
            p = torch.softmax(hidden_ND[part] @ head.T, -1)
            chosen = p.gather(1, target)
            nats_N[part] = -chosen.float().log().squeeze(1)
            p[torch.arange(len(p)), target[:, 0]] -= 1  # In place: `scatter_` copies all of it.
            grad_ND[part] = p @ head
            grad_VD += p.T @ weighted_ND[part]
        grad_ND *= weight_N[:, None].to(head.dtype)
        ctx.save_for_backward(grad_ND, grad_VD)
        ctx.mark_non_differentiable(nats_N)
        return nats_N @ weight_N, nats_N

    @staticmethod
    def backward(ctx: Context, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return grad_ND * grad.to(grad_ND.dtype), grad_VD * grad, None, None


class Norm(torch.autograd.Function):
    """Root-mean-square norm of float32 to bfloat16, which is what every reader of it casts to."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
        x = x.float()
        factor = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, scale, factor)
        return ((x * factor) * scale).bfloat16()

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale, factor = ctx.saved_tensors
        grad, y = grad.float(), x * factor
        grad_scale = (grad * y).flatten(0, -2).sum(0)
        grad_y = grad * scale
        shrink = (grad_y * y).mean(-1, keepdim=True)
        return grad_y.sub_(y.mul_(shrink)).mul_(factor), grad_scale, None


def use_fast_parts(model: PreTrainedModel) -> None:
    """Let `model` train with the attention, experts and norms above."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_normed, cast("NormModule", module))
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_EXPERTS_FUNCTIONS.register(NAME, padded_experts)
    model.set_attn_implementation(NAME)
    model.set_experts_implementation(NAME)


def head_loss(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, weight_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum over tokens of weight times negative log-likelihood, and the latter of each, in nats."""
    call: Callable[..., tuple[Tensor, Tensor]] = HeadLoss.apply
    return call(hidden_ND, head_VD, target_N, weight_N)


def apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """Run an autograd function of one result; torch leaves `apply` untyped."""
    call: Callable[..., Tensor] = function.apply
    return call(*arguments)


def _normed(module: NormModule, x: Tensor) -> Tensor:
    out = apply(Norm, x, module.weight, module.variance_epsilon)
    return out.to(x.dtype) if not torch.is_autocast_enabled("cpu") else out
