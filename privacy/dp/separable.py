"""Can units be told apart in this model? What can be read off it is refused before training.

The guarantee stands on one sentence: what a unit adds to the clipped sum depends on that unit and
the weights alone. Each check here is for something that breaks it without an error. What cannot be
read off is measured by `privacy.dp.audit`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import nn

from model.adapter import trained_parameters
from model.lora import lora_pairs
from privacy.errors import TrainingError

# Every layer class whose output for one example depends on the others in training mode.
_MIXING_LAYERS = (nn.modules.batchnorm._NormBase, nn.LocalResponseNorm)
# What bases with a limit on the tokens of an expert call it: tokens over the limit are dropped, so
# that one example decides which tokens of another are seen.
_CAPACITY_FIELDS: Final = (
    "capacity_factor",
    "drop_tokens",
    "expert_capacity",
    "expert_capacity_factor",
    "moe_capacity_factor",
    "moe_eval_capacity_token_fraction",
    "moe_token_dropping",
)
# Router logits are returned in order to add a loss over the whole batch: its gradient for one
# example depends on the experts that all others chose.
_BALANCE_FIELDS: Final = ("output_router_logits",)
# A router's bias that follows the load of the batch is a statistic of records without noise.
_BIAS_FIELDS: Final = (
    "bias_update_speed",
    "moe_router_bias_update_rate",
    "router_bias_update_rate",
    "router_bias_update_speed",
)
# Rotary positions whose frequencies follow the longest sequence of a batch, or that of an earlier
# one: a long neighbour changes every shorter example.
_COUPLED_ROPE: Final = ("dynamic", "longrope")


def check_separable(model: nn.Module) -> None:
    """Check that one unit of a batch cannot change another's gradient, as far as can be read.

    Raises:
      TrainingError: A layer mixes examples, positions follow the longest one, an expert has a
        capacity limit, the router has a loss over the batch or a bias that follows it, a tensor
        trains that is not the adapter's or not in float32, or matrix products may be rounded to
        less than float32.
    """
    for name, module in model.named_modules():
        _check_layer(name, module)
        for holder in (module, getattr(module, "config", None)):
            _check_fields(name, holder)
            _check_rope(name, holder)
    _check_trained(model)
    _check_precision()


def _check_precision() -> None:
    """Check that float32 products are made of float32.

    Made of bfloat16 or TF32, a clipped gradient could be longer than the norm that it was clipped
    by. The two settings are read, and not `torch.get_float32_matmul_precision`, which raises where
    they differ; `torch.set_float32_matmul_precision` and `torch.backends.fp32_precision` set both.
    """
    for name, backend in (("cuda", torch.backends.cuda), ("mkldnn", torch.backends.mkldnn)):
        precision = backend.matmul.fp32_precision
        if precision not in ("ieee", "none"):
            raise TrainingError(
                f"expected float32 matrix products of float32, got {precision} on {name}",
                hint='set torch.backends.fp32_precision = "ieee" and call '
                'torch.set_float32_matmul_precision("highest")',
            )


def _check_layer(name: str, module: nn.Module) -> None:
    if isinstance(module, _MIXING_LAYERS):
        raise TrainingError(
            f"expected layers that keep examples apart, got {type(module).__name__} at {name}",
            hint="choose a base without batch normalisation",
        )


def _check_fields(name: str, holder: Any) -> None:  # noqa: ANN401  a module or any configuration
    for fields, expected, hint in (
        (
            _CAPACITY_FIELDS,
            "experts without a capacity limit",
            "choose a base that routes without dropping tokens",
        ),
        (
            _BALANCE_FIELDS,
            "a router without a balance loss over the batch",
            "set output_router_logits to false in the base's config.json",
        ),
        (
            _BIAS_FIELDS,
            "a router whose bias does not follow the batch",
            "take the rate out of the base's config.json: routers are frozen at a site",
        ),
    ):
        for field in fields:
            value = getattr(holder, field, None)
            # A rate of 0 updates nothing; a capacity of 0 drops everything.
            if value is None or value is False or (fields is _BIAS_FIELDS and value == 0):
                continue
            raise TrainingError(f"expected {expected}, got {field} at {name}", hint=hint)


def _check_rope(name: str, holder: Any) -> None:  # noqa: ANN401  a module or any configuration
    for field in ("rope_type", "rope_parameters", "rope_scaling"):
        coupled = sorted(set(_COUPLED_ROPE) & set(_words(getattr(holder, field, None))))
        if coupled:
            raise TrainingError(
                f"expected rotary positions of fixed frequencies, got {coupled[0]} at {name}",
                hint="choose a base whose rope_type is default, linear, yarn or llama3",
            )


def _words(value: object) -> Iterator[str]:
    """Every text in a setting: a name, or settings by layer type."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _words(part)


def _check_trained(model: nn.Module) -> None:
    factors = {id(p) for pair in lora_pairs(model) for p in (pair.a, pair.b)}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise TrainingError("expected a model with an adapter to train, got nothing trainable")
    for name, parameter in trained:
        if id(parameter) not in factors:
            raise TrainingError(
                f"expected to train the adapter only, got {name}",
                hint="only adapters that the plan lists can be clipped per unit",
            )
        if parameter.dtype != torch.float32:
            # bfloat16 noise has a few thousand distinct values.
            raise TrainingError(
                f"expected the adapter in float32, got {name} in {parameter.dtype}",
                hint="load the base in the type you want; the adapter stays in float32",
            )
    if len({id(p) for _, p in trained}) != len(trained_parameters(model)):
        raise TrainingError("expected to train the adapter only, got other trainable tensors")
