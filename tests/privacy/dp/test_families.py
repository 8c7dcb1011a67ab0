"""Every family that transformers serves through its experts interface: exact, or refused by name.

A family is exact when our experts compute what its own compute, the loss sees the model's own
logits, and every unit's gradient equals a loop over single examples, parameter by parameter. The
tables say which targets are; whoever installs another transformers finds new families here first.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from model.adapter import AdaptedModel, inject_adapter, load_adapter, read_adapter
from model.base import UnusableBaseError, _fastest, check_base, skeleton
from model.config import AdapterConfig, Target
from model.loss import head_of, hidden_states
from model.tokenizer import Example
from privacy.dp.audit import self_test
from privacy.errors import TrainingError
from tests.privacy.dp.test_experts import check_every_parameter

ALL: tuple[Target, ...] = ("attention", "experts")
EXPERTS: tuple[Target, ...] = ("experts",)
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 256,
    # So that routers and logits of an untrained model differ between tokens.
    "initializer_range": 0.2,
}  # fmt: skip
LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
INDEXER = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
# Latent attention takes its head's width from other numbers; None: as the family has it.
LATENT = {"head_dim": None}
NO_TARGET = "linear layers for target attention, got none"

# What a tiny configuration needs beside SIZES.
CONFIGS: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT | INDEXER,
    "beam": {"mlp_layer_types": ["dense", "sparse"]},
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT | INDEXER,
    "dots3_note_text": LATENT | INDEXER,
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": {
        "enable_moe_block": True,
        "top_k_experts": 2,
        "hidden_size_per_layer_input": 0,
        "global_head_dim": 8,
    },
    "glm_moe_dsa": LATENT | INDEXER,
    "granitemoehybrid": {
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 16,
    },
    "hy_v4": LATENT | INDEXER,
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
    "kimi_linear": LATENT
    | {
        "linear_head_dim": 8,
        "linear_num_heads": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "q_lora_rank": None,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mimo_v2_flash": {"head_dim": 24, "num_attention_heads": 4},
    "nemotron_h": {
        "layers_block_type": ["mamba", "moe", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "use_mamba_kernels": False,
        "moe_shared_expert_intermediate_size": 12,
    },
    "qwen3_5_moe_text": LINEAR,
    "qwen3_next": LINEAR,
    "qwen4_exp_text": LINEAR
    | {
        "indexer_n_heads": 2,
        "indexer_head_dim": 8,
        "indexer_kv_heads": 1,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}
# On attention and routed experts, tensor by tensor. Linear attention, where there is any, is left
# as it is: `attention` is the layers that are called so.
EXACT = [
    "afmoe", "aria_text", "axk1", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "dots1",
    "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "gemma4_text", "glm4_moe", "glm4_moe_lite",
    "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared",
    "hunyuan_v1_moe", "hy_v3", "jamba", "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "mellum",
    "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl_text", "mixtral", "olmoe", "phimoe",
    "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "solar_open",
]  # fmt: skip
# On routed experts; with the target `attention` refused with these words, before a record is read.
INDEXED = r"a base that runs with an adapter, got AttributeError in \w+Indexer at .*self_attn"
UNUSUAL = "one gradient an example for every trained tensor, got another form"
EXACT_ON_EXPERTS = {
    "axk2": INDEXED,
    "deepseek_v32": INDEXED,
    "deepseek_v4": "plain linear layers for target attention, got DeepseekV4GroupedLinear",
    "dots3_note_text": INDEXED,
    "glm_moe_dsa": INDEXED,
    "hy_v4": INDEXED,
    "nemotron_h": NO_TARGET,
    "qwen4_exp_text": UNUSUAL,
    "zaya": UNUSUAL,
}
# Refused as they are shipped, whatever the target, before a weight is read.
FACTOR = "a base whose logits are its head's outputs, got "
REFUSED = {
    "beam": FACTOR + "final_logit_softcapping",
    "cohere2_moe": FACTOR + "logit_scale",
    "inkling2_text": FACTOR + "final_logit_softcapping",
    "inkling_text": FACTOR + "logits_mup_width_multiplier",
    "openai_privacy_filter": "a causal language model",
    "mistral4": "a causal language model",
}
# Their language model is built alone, and is the one of the tables above.
SAME_AS = {"dots3_note": "dots3_note_text", "qwen3_5_moe": "qwen3_5_moe_text"}
# Refused because there is more in them than a language model, or none.
COMPOSITE = [
    "aria", "deepseek_ocr2", "diffusion_gemma", "ernie4_5_vl_moe", "gemma4",
    "glm4v_moe", "glm5_next", "inkling2", "inkling_mm_model", "minimax_m3_vl",
    "mistral_large4", "muse_spark", "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe",
    "qwen4_exp", "unlimited_ocr",
]  # fmt: skip


def config_of(family: str, **changes: object) -> PreTrainedConfig:
    sizes = {**SIZES, **CONFIGS.get(family, {}), **changes}
    # None is a value to some configurations: what is None here is left to the family.
    return CONFIG_MAPPING[family](**{k: v for k, v in sizes.items() if v is not None})


def base_of_family(config: PreTrainedConfig) -> PreTrainedModel:
    """As `load_base` leaves a base; checked as it checks one."""
    check_base(config)
    torch.manual_seed(0)
    base: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    attention, _ = _fastest(base)
    base.set_attn_implementation(attention)
    base.set_experts_implementation("eager")
    base.requires_grad_(False)
    return base


def adapted(base: PreTrainedModel, targets: tuple[Target, ...]) -> AdaptedModel:
    return inject_adapter(base, AdapterConfig(lora_rank=2, lora_alpha=4.0, targets=targets))


def move_adapter(model: nn.Module) -> None:
    """Values that are not zero, so that everything has a gradient."""
    state = read_adapter(model)
    generator = torch.Generator().manual_seed(1)
    for tensor in state.tensors.values():
        tensor.normal_(0, 0.2, generator=generator)
    load_adapter(model, state)


def made_up(*lengths: tuple[int, ...]) -> list[list[Example]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [Example(torch.randint(3, 64, (n,), generator=generator).tolist(), n - 2) for n in unit]
        for unit in lengths
    ]


@torch.no_grad()
def check_forward(base: PreTrainedModel, targets: tuple[Target, ...]) -> AdaptedModel:
    """Our layers compute what the family's own do, and the loss sees the model's logits."""
    input_ids = torch.tensor([example.input_ids for (example,) in made_up((9,), (9,))])
    expected = base(input_ids=input_ids, use_cache=False).logits
    model = adapted(base, targets)
    found = model(input_ids=input_ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    own = head_of(model)(hidden_states(model, input_ids))
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
    return model


def check_exact(family: str, targets: tuple[Target, ...], **changes: object) -> None:
    model = check_forward(base_of_family(config_of(family, **changes)), targets)
    move_adapter(model)
    # One longer than the pieces of 64 in which linear attention is computed.
    check_every_parameter(model, made_up((5,), (9, 4), (66,)), tolerance=1e-4)


def types_of_families() -> set[str]:
    """Every model type whose package has experts behind the interface."""
    root = Path(transformers.__file__).parent / "models"
    packages = {
        path.parent.name
        for path in root.glob("*/modeling_*.py")
        if "@use_experts_implementation" in path.read_text(encoding="utf-8")
    }
    models = {
        name
        for name in CONFIG_MAPPING
        if CONFIG_MAPPING[name].__module__.split(".")[2] in packages
    }
    return {name for name in models if is_whole(name)}


def is_whole(name: str) -> bool:
    """Not an encoder of pictures or sounds, nor the text part of what is no causal model."""
    return name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not re.search(
        r"_(text|vision|audio|encoder|sam|talker|code|visual)|_text$", name
    )


def test_every_family_is_exact_or_refused() -> None:
    tables = (EXACT, EXACT_ON_EXPERTS, REFUSED, COMPOSITE, SAME_AS)
    known = {family for table in tables for family in table}
    assert known == types_of_families()
    assert len(known) == sum(len(table) for table in tables)


@pytest.mark.parametrize("family", EXACT)
def test_a_family_is_exact_on_attention_and_experts(family: str) -> None:
    check_exact(family, ALL)


@pytest.mark.parametrize("family", sorted(EXACT_ON_EXPERTS))
def test_a_family_is_exact_on_experts_and_its_attention_is_refused(family: str) -> None:
    check_exact(family, EXPERTS)
    with pytest.raises((TrainingError, ValueError), match=EXACT_ON_EXPERTS[family]):
        self_test(adapted(base_of_family(config_of(family)), ("attention",)))


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_family_that_would_learn_something_else_is_refused(family: str) -> None:
    with pytest.raises(UnusableBaseError, match=REFUSED[family]):
        check_base(config_of(family))


@pytest.mark.parametrize("family", sorted(SAME_AS))
def test_of_these_the_language_model_is_built_alone(family: str) -> None:
    config = CONFIG_MAPPING[family]()
    check_base(config)
    assert skeleton(config).config.model_type == SAME_AS[family]


@pytest.mark.parametrize("family", COMPOSITE)
def test_more_than_a_language_model_is_refused(family: str) -> None:
    with pytest.raises(
        UnusableBaseError, match=r"expected a (causal language model|language model alone), got"
    ):
        check_base(CONFIG_MAPPING[family]())


def test_a_base_that_changes_its_logits_unnamed_is_found() -> None:
    """What the name of a factor does not give away, the self-test does."""
    model = adapted(base_of_family(config_of("mixtral")), ("attention",))
    move_adapter(model)

    def scaled(_module: nn.Module, _inputs: object, outputs: Any) -> Any:  # noqa: ANN401
        outputs.logits = outputs.logits / 24
        return outputs

    handle = model.get_base_model().register_forward_hook(scaled)
    with pytest.raises(TrainingError, match="logits are its head's outputs"):
        self_test(model)
    handle.remove()
    self_test(model)
