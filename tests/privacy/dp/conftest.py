"""Tiny Mixture-of-Experts models of six families, and made-up units."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from model.adapter import inject_adapter, load_adapter, read_adapter
from model.config import AdapterConfig
from model.tokenizer import Example

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "deepseek_v3": lambda: DeepseekV3Config(
        **SIZES,
        moe_intermediate_size=12,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=None,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    ),
    "deepseek_v2": lambda: DeepseekV2Config(
        **SIZES,
        moe_intermediate_size=12,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    ),
    "gpt_oss": lambda: GptOssConfig(**SIZES, head_dim=8, num_local_experts=4),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4),
    "olmoe": lambda: OlmoeConfig(**SIZES, num_experts=4),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **{**SIZES, "head_dim": 8}, num_experts=4, moe_intermediate_size=12
    ),
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    """A tiny base with an adapter whose values are not zero, so that everything has a gradient."""

    def make(family: str = "deepseek_v3", **adapter: object) -> nn.Module:
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(
            CONFIGS[family](), experts_implementation="grouped_mm"
        )
        numbers: dict[str, object] = {"lora_rank": 2, "lora_alpha": 4.0, **adapter}
        model = inject_adapter(base, AdapterConfig(**numbers))  # type: ignore[arg-type]
        state = read_adapter(model)
        generator = torch.Generator().manual_seed(1)
        for tensor in state.tensors.values():
            tensor.normal_(0, 0.2, generator=generator)
        load_adapter(model, state)
        return model

    return make


@pytest.fixture
def make_units() -> Callable[..., list[list[Example]]]:
    """Units with examples of the given lengths."""

    def make(*lengths: tuple[int, ...], seed: int = 0) -> list[list[Example]]:
        generator = torch.Generator().manual_seed(seed)
        return [
            [
                Example(torch.randint(3, 64, (n,), generator=generator).tolist(), n - 2)
                for n in unit
            ]
            for unit in lengths
        ]

    return make
