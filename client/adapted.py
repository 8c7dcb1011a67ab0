"""The plan's base with its adapter in it, computed the way this site's settings say.

`[compute]` of site.toml holds what cannot change the guarantee: device, type of the activations,
what is computed again instead of kept. The adapter, what is clipped and summed, and the noise are
in float32 or wider whatever it says (`privacy.dp.engine`).
"""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from client.config import ComputeSection
from model.adapter import AdaptedModel, adapter_specs, inject_adapter
from model.base import UnusableBaseError, load_base, nano_folder
from privacy.errors import ConfigError
from privacy.plan import RunPlan

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_adapted(
    plan: RunPlan, folder: Path | None, compute: ComputeSection
) -> tuple[AdaptedModel, PreTrainedTokenizerBase]:
    """The base of `plan`, by digest, with the initial adapter, on the site's device.

    Args:
      plan: Names base and adapter.
      folder: Of the base; None for the embedded one.
      compute: How it is computed.

    Raises:
      ConfigError: The base is another one, its adapter has other tensors than the plan, or it
        cannot compute what `compute` asks for.
    """
    try:
        base, tokenizer = load_base(
            folder or nano_folder(), plan.base, dtype=_TYPES[compute.activations]
        )
    except UnusableBaseError as error:
        raise ConfigError(str(error), hint=error.hint) from None
    base = base.to(compute.device)  # type: ignore[arg-type]  # annotated narrower
    if adapter_specs(base, plan.adapter) != plan.tensors:
        raise ConfigError("expected the adapter tensors of the plan, got others from the base")
    adapted = inject_adapter(base, plan.adapter)
    if compute.gradient_checkpointing:
        if not base.supports_gradient_checkpointing:
            raise ConfigError(
                f"expected a base that can compute activations again, got {plan.base.name}",
                hint="set compute.gradient_checkpointing = false in site.toml",
            )
        # Not the reentrant kind: it needs inputs that require a gradient, which a frozen
        # embedding's outputs do not, and would train nothing.
        base.activation_checkpointing_enable({"use_reentrant": False})
    return adapted, tokenizer
