"""What is adapted, what trains, and that an adapter is its values to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from model.adapter import (
    AdapterState,
    adapter_specs,
    initial_adapter,
    inject_adapter,
    load_adapter,
    read_adapter,
    trained_parameters,
)
from model.base import load_base, read_config
from model.config import AdapterConfig, TensorSpec, Train
from model.loss import base_of
from model.tensors import packed_digest

CONFIG = AdapterConfig(lora_rank=3, lora_alpha=6.0)
PROMPT = torch.tensor([[1, 40, 41, 42, 43, 44]])


def test_specs_are_every_projection_of_every_attention(folders: dict[str, Path]) -> None:
    names = {
        family: {
            spec.name.removeprefix("base_model.model.").split(".lora_")[0].split("self_attn.")[1]
            for spec in adapter_specs(read_config(folder), CONFIG)
        }
        for family, folder in folders.items()
    }
    plain = {"q_proj", "k_proj", "v_proj", "o_proj"}
    latent = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
    plain_families = ("gpt_oss", "mixtral", "olmoe", "qwen3_moe")
    assert names == {**dict.fromkeys(plain_families, plain), "deepseek_v3": latent}


def test_specs_are_the_same_from_configuration_model_and_injected_model(folder: Path) -> None:
    model, _ = load_base(folder, None)
    from_model = adapter_specs(model, CONFIG)
    injected = inject_adapter(model, CONFIG)
    assert from_model == adapter_specs(read_config(folder), CONFIG)
    assert from_model == read_adapter(injected).specs
    assert [spec.name for spec in from_model] == sorted(spec.name for spec in from_model)


@pytest.mark.parametrize("train", ["AB", "B", "B-svd"])
def test_exactly_the_planned_tensors_train(folder: Path, train: Train) -> None:
    config = AdapterConfig(lora_rank=3, lora_alpha=6.0, train=train)
    injected = inject_adapter(load_base(folder, None)[0], config)
    trainable = {name for name, p in injected.named_parameters() if p.requires_grad}
    assert trainable == {
        spec.name for spec in adapter_specs(base_of(injected), config) if spec.trained
    }
    assert all((".lora_B." in name) or train == "AB" for name in trainable)


def test_trained_parameters_stand_in_the_order_of_an_update(nano_like: Path) -> None:
    injected = inject_adapter(load_base(nano_like, None)[0], CONFIG)
    load_adapter(injected, drawn(nano_like, seed=1))
    flat = np.concatenate([p.detach().numpy().reshape(-1) for p in trained_parameters(injected)])
    assert np.array_equal(flat, read_adapter(injected).pack(trained_only=True))


def drawn(folder: Path, *, seed: int) -> AdapterState:
    """An adapter of which both factors are random."""
    state = initial_adapter(read_config(folder), CONFIG, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return AdapterState(
        state.specs,
        {n: torch.randn(t.shape, generator=generator) / 4 for n, t in state.tensors.items()},
    )


def test_an_adapter_is_float32_on_a_bfloat16_base(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None, dtype=torch.bfloat16)
    injected = inject_adapter(model, CONFIG)
    assert {t.dtype for t in read_adapter(injected).tensors.values()} == {torch.float32}


def test_the_initial_adapter_changes_nothing(folder: Path) -> None:
    model, _ = load_base(folder, None)
    with torch.no_grad():
        before = model(PROMPT).logits
        injected = inject_adapter(model, CONFIG)
        load_adapter(injected, initial_adapter(model, CONFIG, seed=0))
        after = injected(PROMPT).logits
    assert torch.equal(before, after)


def test_the_initial_adapter_is_a_function_of_its_seed(nano_like: Path) -> None:
    config = read_config(nano_like)
    digests = [initial_adapter(config, CONFIG, seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_a_is_within_its_bound_and_b_is_zero(nano_like: Path) -> None:
    for name, tensor in initial_adapter(read_config(nano_like), CONFIG, seed=0).tensors.items():
        bound = tensor.shape[1] ** -0.5 if ".lora_A." in name else 0.0
        assert tensor.abs().max() <= bound
        assert (".lora_A." not in name) or tensor.std() > bound / 3


def test_an_adapter_is_loaded_and_read_back_bit_for_bit(folder: Path) -> None:
    state = drawn(folder, seed=2)
    injected = inject_adapter(load_base(folder, None)[0], CONFIG)
    load_adapter(injected, state)
    assert read_adapter(injected).digest == state.digest


def test_a_read_adapter_does_not_move_with_the_model(nano_like: Path) -> None:
    injected = inject_adapter(load_base(nano_like, None)[0], CONFIG)
    before = read_adapter(injected)
    digest = before.digest
    load_adapter(injected, drawn(nano_like, seed=3))
    assert before.digest == digest


def test_packing_and_unpacking_gives_the_same_adapter(folder: Path) -> None:
    state = drawn(folder, seed=4)
    packed = state.pack(trained_only=False)
    again = AdapterState.unpack(state.specs, packed)
    assert again.digest == state.digest == packed_digest(state.specs, packed)


def test_unpacking_copies(nano_like: Path) -> None:
    state = drawn(nano_like, seed=4)
    packed = state.pack(trained_only=False)
    again = AdapterState.unpack(state.specs, packed)
    packed += 1
    assert again.digest == state.digest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(index=st.integers(0, 10**6))
def test_one_changed_value_changes_the_digest(nano_like: Path, index: int) -> None:
    state = drawn(nano_like, seed=5)
    packed = state.pack(trained_only=False)
    packed[index % packed.size] += 1e-3
    assert AdapterState.unpack(state.specs, packed).digest != state.digest


def test_an_adapter_of_another_rank_is_refused(nano_like: Path) -> None:
    injected = inject_adapter(load_base(nano_like, None)[0], CONFIG)
    other = initial_adapter(
        read_config(nano_like), AdapterConfig(lora_rank=4, lora_alpha=6.0), seed=0
    )
    with pytest.raises(ValueError, match="differs"):
        load_adapter(injected, other)


def test_tensors_that_are_not_those_of_the_specs_are_refused() -> None:
    spec = TensorSpec(name="base_model.model.x.lora_A.weight", shape=(2, 2), trained=True)
    with pytest.raises(ValueError, match="float32"):
        AdapterState((spec,), {spec.name: torch.zeros(2, 2, dtype=torch.float64)})
    with pytest.raises(ValueError, match="sorted"):
        AdapterState((spec,), {})


def test_a_layer_that_is_no_plain_product_is_refused_by_its_name() -> None:
    config = CONFIG_MAPPING["deepseek_v4"](num_hidden_layers=2)  # type: ignore[call-arg]
    with pytest.raises(
        ValueError, match=r"DeepseekV4GroupedLinear at model\.layers\.0\.self_attn"
    ):
        adapter_specs(config, CONFIG)
