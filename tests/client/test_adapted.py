"""What `[compute]` may change about a step, and what it never changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.adapted import load_adapted
from client.config import ComputeSection
from client.dataset import TokenizedUnit
from client.train import train_round
from model.adapter import read_adapter, set_trained, trained_parameters
from model.loss import base_of
from model.tokenizer import Example
from privacy.dp.audit import TOLERANCE, self_test
from privacy.dp.engine import ClippedSum, PrivateGradients
from privacy.errors import ConfigError
from privacy.plan import RunPlan
from tests.client.tiny import plan_for, tiny_base

BFLOAT16 = ComputeSection(activations="bfloat16")
AGAIN = ComputeSection(gradient_checkpointing=True)
BOTH = ComputeSection(activations="bfloat16", gradient_checkpointing=True)
LENGTHS = ((5,), (9, 4, 7), (12,), (3,), (6, 6), (15,))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def plan(base: Path) -> RunPlan:
    return plan_for(base, targets=("attention", "experts", "shared"))


@pytest.fixture
def load(base: Path, plan: RunPlan) -> Callable[[ComputeSection], nn.Module]:
    def adapted(compute: ComputeSection) -> nn.Module:
        model, _ = load_adapted(plan, base, compute)
        set_trained(model, plan.round_tensors(1))
        return model

    return adapted


def units() -> list[list[Example]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [Example(torch.randint(3, 259, (n,), generator=generator).tolist(), n - 2) for n in unit]
        for unit in LENGTHS
    ]


def clipped(model: nn.Module, chosen: list[list[Example]], clip_norm: float) -> ClippedSum:
    with PrivateGradients(model, clip_norm=clip_norm) as gradients:
        return gradients.clipped_sum(chosen)


@pytest.mark.parametrize("compute", [BFLOAT16, AGAIN, BOTH], ids=["bfloat16", "again", "both"])
def test_whatever_the_settings_a_unit_moves_the_sum_by_one_clipping_norm(
    load: Callable[[ComputeSection], nn.Module], compute: ComputeSection
) -> None:
    model, everybody = load(compute), units()
    whole = clipped(model, everybody, 1e-4)
    assert min(whole.norms) > 1e-4
    for index in (1, 5):
        rest = clipped(model, everybody[:index] + everybody[index + 1 :], 1e-4)
        move = float((whole.total - rest.total).double().norm()) / 1e-4
        assert 1 - TOLERANCE <= move <= 1 + TOLERANCE


def test_the_self_test_passes_with_both_settings(
    load: Callable[[ComputeSection], nn.Module],
) -> None:
    assert self_test(load(BOTH)).sensitivity <= 1 + TOLERANCE


def test_activations_that_are_computed_again_give_the_same_gradients(
    load: Callable[[ComputeSection], nn.Module],
) -> None:
    expected = clipped(load(ComputeSection()), units(), 1e-2)
    model = load(AGAIN)
    passes: list[bool] = []
    layer = base_of(model).get_submodule("model.layers.1.mlp.experts")
    layer.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    found = clipped(model, units(), 1e-2)
    # Once forwards, and once again for the backward pass.
    assert len(passes) == 2
    torch.testing.assert_close(found.total, expected.total, rtol=1e-6, atol=1e-9)
    assert found.norms == pytest.approx(expected.norms, rel=1e-6)


def test_drop_out_is_the_same_when_it_is_computed_again(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(base, targets=("attention",))
    monkeypatch.setattr("privacy.dp.engine.secrets.randbits", lambda _bits: 7)
    found = []
    for compute in (ComputeSection(), AGAIN):
        model, _ = load_adapted(plan, base, compute)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        found.append(clipped(model, units(), 1e6).total)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_in_bfloat16_adapter_sums_and_noise_are_wider(
    load: Callable[[ComputeSection], nn.Module], plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(BOTH)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if ".lora_" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if ".lora_" not in name} == {torch.bfloat16}
    release, seen = PrivateGradients.release, []

    def watched(self: PrivateGradients, summed: ClippedSum, **numbers: float) -> Tensor:
        released = release(self, summed, **numbers)
        seen.append((summed.total.dtype, self._noise().dtype, released.dtype))
        return released

    monkeypatch.setattr(PrivateGradients, "release", watched)
    chosen = [TokenizedUnit(unit_id=str(i), examples=tuple(u)) for i, u in enumerate(units())]
    result = train_round(model, chosen, plan, plan.sites[0], server_round=1)
    assert set(seen) == {(torch.float32, torch.float64, torch.float32)}
    assert result.update.dtype == np.float32
    # Not on the grid of bfloat16: nothing on the way was rounded to it.
    moved = torch.from_numpy(result.update)
    assert float((moved == moved.bfloat16().float()).float().mean()) < 0.01
    assert all(p.dtype == torch.float32 for p in trained_parameters(model))


def test_in_bfloat16_each_unit_has_passes_of_its_own(
    load: Callable[[ComputeSection], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, seen = PrivateGradients._backward, []

    def counted(self: PrivateGradients, chosen: list[list[Example]]) -> Tensor:
        seen.append(len(chosen))
        return backward(self, chosen)

    monkeypatch.setattr(PrivateGradients, "_backward", counted)
    clipped(load(BFLOAT16), units(), 1.0)
    assert seen == [1] * len(LENGTHS)
    seen.clear()
    clipped(load(ComputeSection()), units(), 1.0)
    assert seen == [len(LENGTHS)]


def test_the_settings_change_nothing_of_what_is_agreed_on(
    load: Callable[[ComputeSection], nn.Module], plan: RunPlan
) -> None:
    for compute in (ComputeSection(), BFLOAT16, AGAIN):
        state = read_adapter(load(compute))
        assert [(s.name, s.shape) for s in state.specs] == [
            (s.name, s.shape) for s in plan.tensors
        ]
        assert state.digest == plan.initial_adapter


def test_a_base_that_cannot_compute_activations_again_is_refused(
    base: Path, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DeepseekV3ForCausalLM

    monkeypatch.setattr(DeepseekV3ForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match="compute activations again"):
        load_adapted(plan, base, AGAIN)


def test_another_type_of_activations_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        ComputeSection(activations="float16")  # type: ignore[arg-type]
