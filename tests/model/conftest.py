"""Tiny bases of five families, saved as a download of them would lie on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)
from transformers.utils import logging

from model.base import load_base

NUM_TOKENS = 259
SHARED: dict[str, Any] = {
    "vocab_size": NUM_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Larger than usual, so that routers and logits of an untrained model differ between tokens.
    "initializer_range": 0.3,
}
FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt_oss": lambda: GptOssConfig(
        **SHARED, head_dim=8, num_local_experts=4, num_key_value_heads=2
    ),
    "mixtral": lambda: MixtralConfig(**SHARED, num_local_experts=4, num_key_value_heads=2),
    "olmoe": lambda: OlmoeConfig(**SHARED, num_experts=4, num_key_value_heads=2),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHARED, num_experts=4, num_key_value_heads=2, norm_topk_prob=True
    ),
    "deepseek_v3": lambda: DeepseekV3Config(
        **SHARED,
        num_key_value_heads=4,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, behind three special ones."""
    letters = ["<|pad|>", "<|bos|>", "<|eos|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",  # noqa: S106  a token of text
        bos_token="<|bos|>",  # noqa: S106
        eos_token="<|eos|>",  # noqa: S106
        model_max_length=256,
    )


def save_base(folder: Path, config: PreTrainedConfig) -> Path:
    """Write an untrained model of a configuration, and the tokenizer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable_progress_bar()
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: save_base(root / name, config()) for name, config in FAMILIES.items()}


@pytest.fixture(params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """Each family in turn; a test must not write into it."""
    return folders[request.param]


@pytest.fixture
def nano_like(folders: dict[str, Path]) -> Path:
    """The family of the embedded base alone."""
    return folders["deepseek_v3"]


@pytest.fixture
def tokenizer(nano_like: Path) -> PreTrainedTokenizerBase:
    return load_base(nano_like, None)[1]
