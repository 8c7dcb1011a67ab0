"""The base model: any Hugging Face Mixture-of-Experts folder, by digest, offline, frozen.

Nothing is fetched and no code of the folder is run: configuration, tokenizer and weights
(safetensors only) are read from disk after the digest of all of them was compared with the plan's.
What would make the guarantee hollow is refused before a weight is read: a model without routed
experts, outputs that `model.loss` would compute wrongly, and an adapter lying in the folder, which
transformers would load unasked.
"""

import hashlib
from pathlib import Path

import rfc8785
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from model.config import BaseRef

# Everything in a folder that can change what the model computes or how text becomes tokens.
_DIGESTED = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)
# transformers would load these without being asked.
_REFUSED = ("adapter_config.json", "adapter_model.*")
# Factors on hidden states or logits after the last layer: `model.loss` takes the head alone.
_HEAD_FACTORS = (
    "final_logit_softcapping",
    "lm_head_multiplier",
    "logit_scale",
    "logits_mup_width_multiplier",
    "logits_scaling",
)

_CHOOSE = "choose a Mixture-of-Experts base such as Mixtral, OLMoE, Qwen3-MoE or DeepSeek-V3"


class UnusableBaseError(ValueError):
    """A folder holds no base that could be trained on, or not the one that was agreed on.

    Attributes:
      hint: What to do next, one sentence in lower case.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def nano_folder() -> Path:
    """Where the embedded base lies."""
    return Path(__file__).parent / "nano"


def base_digest(folder: Path) -> str:
    """Digest of a base: of its configuration, weights and tokenizer files, by name and SHA-256.

    Files that change nothing (a card, measurements, defaults for generation) are not part of it.

    Raises:
      UnusableBaseError: There is no configuration or no safetensors file in `folder`.
    """
    paths = {path for pattern in _DIGESTED for path in folder.glob(pattern) if path.is_file()}
    names = {path.name for path in paths}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise UnusableBaseError(
            f"expected config.json and *.safetensors in {folder}, got {sorted(names)}",
            hint="name the folder that `save_pretrained` or a download of the base wrote",
        )
    digests = {}
    for path in paths:
        with path.open("rb") as opened:
            digests[path.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return "sha256:" + hashlib.sha256(rfc8785.dumps(digests)).hexdigest()


def load_base(
    folder: Path, ref: BaseRef | None, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder, in evaluation mode with every parameter frozen, on the CPU.

    Move the model to its device before an adapter is injected: moved afterwards, the optimizer may
    hold tensors that the model no longer has (opacus issue 820), which trains nothing and still
    spends budget.

    Args:
      folder: As `save_pretrained` writes it.
      ref: What was agreed on; None where nothing was agreed on yet, as when a plan is being
        written.
      dtype: Type of the base's weights; adapters are float32 in any case.

    Raises:
      UnusableBaseError: The digest is not the agreed one, or the folder holds no Mixture of
        Experts in safetensors that transformers knows.
    """
    refused = sorted(path.name for pattern in _REFUSED for path in folder.glob(pattern))
    if refused:
        raise UnusableBaseError(
            f"expected a base alone in {folder}, got {refused[0]} too",
            hint="move the adapter out of the base's folder",
        )
    digest = base_digest(folder)
    if ref is not None and digest != ref.digest:
        raise UnusableBaseError(
            f"expected base {ref.name} with digest {ref.digest}, got {digest} in {folder}",
            hint="compare the folder with the one that the consortium agreed on, file by file",
        )
    check_base(read_config(folder))
    show_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnusableBaseError(
            f"expected weights and tokenizer that transformers can load in {folder}, got: {error}",
            hint="save the base with save_pretrained, tokenizer included, as safetensors",
        ) from None
    finally:
        if show_bars:
            logging.enable_progress_bar()
    attention, experts = _fastest(model)
    model.set_attn_implementation(attention)
    model.set_experts_implementation(experts)
    model.requires_grad_(False)
    model.eval()
    return model, tokenizer


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a base's folder.

    Raises:
      UnusableBaseError: There is none, or it names a family that transformers itself does not
        know.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise UnusableBaseError(
            f"expected config.json of a family that transformers knows in {folder}, got: {error}",
            hint="bases that need code of their own are not loaded",
        ) from None
    return config


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration without memory for its weights: names and shapes only.

    Raises:
      UnusableBaseError: It is no causal language model.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, trust_remote_code=False
            )
    # What is missing in a config.json shows in many ways.
    except (AttributeError, TypeError, ValueError) as error:
        raise UnusableBaseError(
            f"expected a causal language model, got {config.model_type}: {error}",
            hint=_CHOOSE,
        ) from None
    return model


def check_base(config: PreTrainedConfig) -> None:
    """Check that a configuration is of a base that can be trained on.

    Raises:
      UnusableBaseError: It has parts for pictures or sounds, no routed experts, or multiplies its
        logits by a factor that the loss leaves out.
    """
    bare = skeleton(config)
    parts = sorted(getattr(bare.config, "sub_configs", {}))
    if parts:
        raise UnusableBaseError(
            f"expected a language model alone, got {config.model_type} with {', '.join(parts)}",
            hint="save its language model as a base of its own",
        )
    if count_experts(bare) < 2:
        raise UnusableBaseError(
            f"expected a Mixture of Experts, got {config.model_type} without routed experts",
            hint=_CHOOSE,
        )
    for name in _HEAD_FACTORS:
        factor = getattr(config, name, None)
        if factor not in (None, 1, 1.0):
            raise UnusableBaseError(
                f"expected a base whose logits are its head's outputs, got {name} {factor}",
                hint="choose a base without such a factor",
            )


def count_experts(model: nn.Module) -> int:
    """Largest number of routed experts in a layer; 0 for a dense model."""
    counts = [0]
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] != "experts":
            continue
        if isinstance(module, nn.ModuleList):
            counts.append(len(module))
        # transformers 5 keeps all experts of a layer in one three-dimensional parameter.
        counts.extend(len(p) for p in module.parameters(recurse=False) if p.ndim == 3)
    return max(counts)


def _fastest(model: PreTrainedModel) -> tuple[str, str]:
    """Names of the attention and of the experts' implementation."""
    # Measured on the embedded base (8 experts, width 256), one core, sequences of 64 and 128: the
    # plain versions train 13 to 20 % faster under bfloat16 autocast, which grouped_mm ignores, and
    # are equal in float32. From 16 experts on grouped_mm takes 0.75 of the time, at 64 half.
    if count_experts(model) < 16 and model.config.hidden_size <= 512:
        return "eager", "eager"
    # gpt-oss has attention sinks, which the fused kernel does not know.
    return "sdpa" if model._supports_sdpa else "eager", "grouped_mm"
