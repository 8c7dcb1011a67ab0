"""The self-test passes what is sound, and finds what was measured to break the guarantee."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from model.adapter import inject_adapter, read_adapter, trained_parameters
from model.base import load_base, nano_folder
from model.config import AdapterConfig
from model.loss import base_of, hidden_states, token_nll
from privacy.dp import attribution, engine
from privacy.dp.attribution import UnitGradients
from privacy.dp.audit import TOLERANCE, made_up_units, self_test
from privacy.dp.separable import check_separable
from privacy.errors import TrainingError

MakeModel = Callable[..., nn.Module]


@pytest.mark.parametrize(
    "family", ["deepseek_v2", "deepseek_v3", "gpt_oss", "mixtral", "olmoe", "qwen3_moe"]
)
@pytest.mark.parametrize("targets", [("attention",), ("attention", "experts")])
def test_a_sound_model_passes(
    make_model: MakeModel, family: str, targets: tuple[str, ...]
) -> None:
    result = self_test(make_model(family, targets=targets))
    assert 1 - TOLERANCE <= result.sensitivity <= 1 + TOLERANCE
    assert result.num_units == 5


@pytest.mark.parametrize("train", ["B", "AB"])
def test_a_sound_model_passes_at_a_sites_rank(make_model: MakeModel, train: str) -> None:
    model = make_model(train=train, targets=("attention", "experts"), lora_rank=3)
    result = self_test(model, rank=1)
    assert 1 - TOLERANCE <= result.sensitivity <= 1 + TOLERANCE


def test_an_adapter_that_trains_both_factors_passes_from_its_start(make_model: MakeModel) -> None:
    model = make_model(train="AB")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.zero_()
    self_test(model)


def test_the_self_test_changes_nothing(make_model: MakeModel) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    digest = read_adapter(model).digest
    self_test(model)
    assert read_adapter(model).digest == digest
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(module.training for module in model.modules())


def test_made_up_units_are_the_same_for_a_seed_and_within_the_vocabulary() -> None:
    units = made_up_units(50, seed=3)
    assert units == made_up_units(50, seed=3)
    assert units != made_up_units(50, seed=4)
    assert all(0 <= token < 50 for unit in units for e in unit for token in e.input_ids)


def test_a_loss_averaged_over_the_batchs_tokens_is_found(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token_mean(
        model: nn.Module, input_ids: Tensor, attention_mask: Tensor, answer_mask: Tensor
    ) -> Tensor:
        """As `model(labels=...)` has it: one mean over all tokens, shared by all examples."""
        rows, columns = answer_mask.nonzero(as_tuple=True)
        hidden = hidden_states(model, input_ids)
        nll = token_nll(model, hidden[rows, columns - 1], input_ids[rows, columns])
        return nll.new_zeros(len(input_ids)).index_add(0, rows, nll) / len(rows)

    monkeypatch.setattr(engine, "per_example_loss", token_mean)
    with pytest.raises(TrainingError, match="norm that it has alone"):
        self_test(make_model())


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_positions_that_follow_the_longest_example_are_refused(
    make_model: MakeModel, rope_type: str
) -> None:
    model = make_model()
    check_separable(model)
    base_of(model).config.rope_parameters = {"full": {"rope_type": rope_type, "factor": 2.0}}
    with pytest.raises(TrainingError, match=f"fixed frequencies, got {rope_type}"):
        check_separable(model)


def test_a_factor_that_never_gets_a_gradient_is_found(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = UnitGradients.record

    def lose(self: UnitGradients, parameter: nn.Parameter, narrow: Tensor, *rest: object) -> None:
        is_first = parameter is self.parameters[0]
        record(self, parameter, narrow * 0 if is_first else narrow, *rest)  # type: ignore[arg-type]

    model = make_model(train="AB")
    self_test(model)
    monkeypatch.setattr(UnitGradients, "record", lose)
    with pytest.raises(TrainingError, match="move the adapter"):
        self_test(model)


def test_dropout_is_off_in_the_self_test_and_back_after_it(make_model: MakeModel) -> None:
    model = make_model(lora_dropout=0.3)
    self_test(model)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} >= {0.3}


class MixesTheBatch(nn.Module):
    """A layer that lets every example see the mean of the batch, and is not called a norm."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each example plus the batch's mean."""
        return x_BTD + 3 * x_BTD.mean(dim=(0, 1), keepdim=True)


def test_a_layer_that_mixes_examples_is_found(make_model: MakeModel) -> None:
    model = make_model("mixtral")
    norm = model.get_submodule("base_model.model.model.layers.0.input_layernorm")
    mixer = MixesTheBatch()
    norm.register_forward_hook(lambda _m, _i, output: mixer(output))
    with pytest.raises(TrainingError, match="norm that it has alone"):
        self_test(model)


def test_gradients_that_are_lost_on_the_way_are_found(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = attribution.clip_factors
    monkeypatch.setattr(engine, "clip_factors", lambda norms, clip: sound(norms, clip) * 0.9)
    with pytest.raises(TrainingError, match="a clipped unit to count for 1 clipping norm"):
        self_test(make_model())


def test_clipping_that_is_a_thousandth_too_generous_is_found(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = attribution.clip_factors
    monkeypatch.setattr(engine, "clip_factors", lambda norms, clip: sound(norms, clip * 1.001))
    with pytest.raises(TrainingError, match="at most 1 clipping norm"):
        self_test(make_model())


def test_an_adapter_whose_weights_are_not_the_ones_in_use_is_found(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    stale = [
        parameter.detach().clone().requires_grad_() for parameter in trained_parameters(model)
    ]
    monkeypatch.setattr("privacy.dp.audit.trained_parameters", lambda _model: stale)
    with pytest.raises(TrainingError, match="move the adapter and with it the loss"):
        self_test(model)


def test_an_adapter_without_any_gradient_is_found(make_model: MakeModel) -> None:
    model = make_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.zero_()
    with pytest.raises(TrainingError, match="every unit to have a gradient"):
        self_test(model)


def test_a_buffer_that_follows_the_batch_is_found(make_model: MakeModel) -> None:
    model = make_model()
    model.register_buffer("load", torch.zeros(1))
    model.register_forward_hook(lambda *_: None)

    def count(module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
        model.get_buffer("load").add_(1)

    model.get_submodule("base_model.model.model.layers.0").register_forward_hook(count)
    with pytest.raises(TrainingError, match="frozen base, got another load"):
        self_test(model)


class ReadsTheWeight(nn.Module):
    """Multiplies with an adapted layer's weight by itself, as sparse attention's indexers do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The adapter is passed by."""
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        return x_BTD @ weight.t()


def test_a_module_that_passes_an_adapter_by_is_refused_by_its_name(make_model: MakeModel) -> None:
    model = make_model("olmoe")
    attention = model.get_submodule("base_model.model.model.layers.1.self_attn")
    attention.o_proj = ReadsTheWeight(attention.get_submodule("o_proj"))
    before = read_adapter(model).digest
    with pytest.raises(TrainingError, match=r"ReadsTheWeight at .*layers\.1\.self_attn\.o_proj"):
        self_test(model)
    assert read_adapter(model).digest == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_not_taken_for_an_unusable_base(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise error

    model = make_model()
    layer = model.get_submodule("base_model.model.model.layers.0")
    monkeypatch.setattr(layer, "forward", exhausted)
    with pytest.raises(RuntimeError) as raised:
        self_test(model)
    assert raised.value is error


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa"])
def test_sparse_attention_is_refused_by_the_name_of_its_indexer(family: str) -> None:
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 12, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    base = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**sizes))  # type: ignore[arg-type]
    model = inject_adapter(base, AdapterConfig(lora_rank=2, lora_alpha=4.0))
    with pytest.raises(TrainingError, match=r"Indexer at .*self_attn\.indexer"):
        self_test(model)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_base_in_bfloat16_passes_alone_and_is_found_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The embedded base, whose products are wide enough to be cut by the batch's shape."""
    base, _ = load_base(nano_folder(), None, dtype=torch.bfloat16)
    model = inject_adapter(base, AdapterConfig(lora_rank=4, lora_alpha=8.0))
    assert self_test(model).sensitivity <= 1 + TOLERANCE
    monkeypatch.setattr(engine.PrivateGradients, "_is_alone", lambda _self: False)
    with pytest.raises(TrainingError, match="norm that it has alone"):
        self_test(model)
