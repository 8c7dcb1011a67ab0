"""One round of private training: what leaves is made of clipped units and noise alone."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from client import train
from client.dataset import MaskingStats, SiteDataset, TokenizedUnit
from client.evaluate import _train_alone
from client.train import train_round
from model.adapter import (
    AdapterState,
    adapter_specs,
    load_adapter,
    read_adapter,
    set_trained,
)
from model.config import AdapterConfig, BaseRef, Train
from model.factors import after_round
from model.loss import base_of
from model.tensors import packed_size
from model.tokenizer import Example
from privacy.dp.config import MechanismConfig, Unit
from privacy.dp.engine import ClippedSum, PrivateGradients
from privacy.errors import TrainingError
from privacy.masking.config import MaskingConfig
from privacy.plan import (
    ExitConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)
from server.aggregate import StreamingMean
from tests.client.room import tiny_adapted

ADAPTER = AdapterConfig(lora_rank=2, lora_alpha=4.0)
MECHANISM: dict[str, object] = {
    "unit": Unit.RECORD,
    "target_epsilon": 8.0,
    "delta": 1e-3,
    "noise_multiplier": 1.0,
    "clip_norm": 0.1,
    "sample_rate": 0.5,
    "steps_per_round": 2,
}


@pytest.fixture
def model() -> nn.Module:
    return tiny_adapted(ADAPTER, width=16)


@pytest.fixture
def make_plan(model: nn.Module) -> Callable[..., RunPlan]:
    def make(
        optimizer: OptimizerConfig | None = None,
        max_update_norm: float = 1e6,
        train: Train = "B",
        **changes: object,
    ) -> RunPlan:
        adapter = replace(ADAPTER, train=train)
        set_trained(model, adapter_specs(base_of(model).config, adapter))
        state = read_adapter(model)
        return RunPlan(
            federation="care",
            run="first",
            base=BaseRef(name="tiny", digest="sha256:" + "0" * 64),
            adapter=adapter,
            tensors=state.specs,
            initial_adapter=state.digest,
            text=TextConfig(),
            masking=MaskingConfig(),
            mechanism=MechanismConfig(**{**MECHANISM, **changes}),  # type: ignore[arg-type]
            optimizer=optimizer or OptimizerConfig(name="sgd", learning_rate=1.0),
            rounds=RoundsConfig(num_rounds=3, min_sites=1),
            exits=ExitConfig(max_update_norm=max_update_norm, max_update_bytes=10**6),
            sites=(SiteShare(name="north", num_units=10),),
        )

    return make


def share(num_units: int, lora_rank: int | None = None) -> SiteShare:
    return SiteShare(name="north", num_units=num_units, lora_rank=lora_rank)


def make_units(num_units: int) -> list[TokenizedUnit]:
    generator = torch.Generator().manual_seed(0)
    return [
        TokenizedUnit(
            unit_id=str(index),
            examples=(
                Example(torch.randint(3, 64, (8,), generator=generator).tolist(), 6),
                Example(torch.randint(3, 64, (5,), generator=generator).tolist(), 3),
            ),
        )
        for index in range(num_units)
    ]


def test_the_update_is_the_change_of_the_trained_tensors(
    model: nn.Module, make_plan: Callable[..., RunPlan]
) -> None:
    plan = make_plan()
    before = read_adapter(model)
    result = train_round(model, make_units(10), plan, share(10), server_round=1)
    after = read_adapter(model)
    change = after.pack(trained_only=True) - before.pack(trained_only=True)
    assert result.update.dtype == np.float32
    assert result.update.shape == (packed_size(plan.trained_tensors),)
    np.testing.assert_allclose(result.update, change, atol=1e-6)
    for name, tensor in before.tensors.items():
        if ".lora_A." in name:
            torch.testing.assert_close(after.tensors[name], tensor, rtol=0, atol=0)
    assert result.num_steps == 2
    assert result.loss_local > 0
    assert result.seconds > 0


def test_without_a_drawn_unit_the_update_is_noise_of_the_stated_size(
    model: nn.Module, make_plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "draw_units", lambda _num_units, _sample_rate: [])
    result = train_round(
        model, make_units(3), make_plan(steps_per_round=1), share(10), server_round=1
    )
    # Learning rate 1: noise_multiplier 1.0 * clip_norm 0.1 / (sample_rate 0.5 * 10 units).
    size = len(result.update)
    assert float(result.update.std()) == pytest.approx(0.02, rel=5 / math.sqrt(2 * size))
    assert math.isnan(result.loss_local)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_variance_that_the_plan_tells_is_that_of_the_mean_of_updates(
    model: nn.Module,
    make_plan: Callable[..., RunPlan],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    monkeypatch.setattr(train, "draw_units", lambda _num_units, _sample_rate: [])
    shares = (SiteShare(name="east", num_units=10), SiteShare(name="west", num_units=30))
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.5)
    plan = replace(make_plan(optimizer=optimizer, steps_per_round=steps), sites=shares)
    start = read_adapter(model)
    mean = StreamingMean(packed_size(plan.trained_tensors))
    for one in shares:
        load_adapter(model, start)
        update = train_round(model, make_units(3), plan, one, server_round=1).update
        mean.add(update, float(one.num_units))
    measured = float(mean.mean().astype(np.float64).var())
    told = plan.noise_variance(["east", "west"])
    assert measured == pytest.approx(
        told, rel=5 * math.sqrt(2 / packed_size(plan.trained_tensors))
    )


def test_no_variance_is_told_where_sites_take_adams_steps_or_nobody_answers(
    make_plan: Callable[..., RunPlan],
) -> None:
    assert make_plan(optimizer=OptimizerConfig(name="adam")).noise_variance(["north"]) == 0
    assert make_plan().noise_variance([]) == 0


def test_the_declared_number_of_units_is_the_denominator_and_not_the_true_one(
    model: nn.Module, make_plan: Callable[..., RunPlan]
) -> None:
    plan = make_plan(noise_multiplier=1e-9, sample_rate=1.0, steps_per_round=1)
    start = read_adapter(model)
    few = train_round(model, make_units(5), plan, share(5), server_round=1).update
    load_adapter(model, start)
    many = train_round(model, make_units(5), plan, share(50), server_round=1).update
    np.testing.assert_allclose(few, 10 * many, rtol=1e-3, atol=1e-7)


def test_every_step_draws_and_noises_anew(
    model: nn.Module, make_plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = []
    release = PrivateGradients.release

    def spy(self: PrivateGradients, summed: ClippedSum, **numbers: float) -> torch.Tensor:
        releases.append(numbers)
        return release(self, summed, **numbers)

    monkeypatch.setattr(PrivateGradients, "release", spy)
    train_round(model, make_units(10), make_plan(steps_per_round=5), share(20), server_round=1)
    assert releases == [{"noise_multiplier": 1.0, "denominator": 10.0}] * 5


def test_training_lowers_the_loss_where_noise_allows(
    model: nn.Module, make_plan: Callable[..., RunPlan]
) -> None:
    units = make_units(20)
    adam = OptimizerConfig(name="adam", learning_rate=0.1)
    numbers = {"noise_multiplier": 1e-3, "sample_rate": 1.0}
    first = train_round(
        model, units, make_plan(adam, steps_per_round=1, **numbers), share(20), server_round=1
    )
    train_round(
        model, units, make_plan(adam, steps_per_round=30, **numbers), share(20), server_round=1
    )
    last = train_round(
        model, units, make_plan(adam, steps_per_round=1, **numbers), share(20), server_round=1
    )
    assert last.loss_local < 0.95 * first.loss_local


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_an_update_is_scaled_down_to_the_plans_largest_norm(
    model: nn.Module, make_plan: Callable[..., RunPlan], name: str
) -> None:
    optimizer = OptimizerConfig(name=name, learning_rate=5.0)  # type: ignore[arg-type]
    result = train_round(
        model, make_units(5), make_plan(optimizer, max_update_norm=0.25), share(5), server_round=1
    )
    norm = np.linalg.norm(result.update.astype(np.float64))
    assert norm == pytest.approx(0.25, rel=1e-4)
    assert norm <= 0.25


@pytest.mark.parametrize(("server_round", "factor"), [(1, "B"), (2, "A"), (3, "B")])
def test_the_factor_whose_turn_it_is_trains_and_the_other_stays(
    model: nn.Module, make_plan: Callable[..., RunPlan], server_round: int, factor: str
) -> None:
    plan = make_plan(train="AB")
    before = read_adapter(model)
    result = train_round(model, make_units(10), plan, share(10), server_round=server_round)
    after = read_adapter(model)
    assert result.update.shape == (packed_size(plan.update_tensors(server_round)),)
    moved = [name for name, old in before.tensors.items() if not after.tensors[name].equal(old)]
    assert moved == [spec.name for spec in plan.tensors if f".lora_{factor}." in spec.name]


@pytest.mark.parametrize("server_round", [1, 2])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_site_of_a_lower_rank_moves_the_first_terms_only(
    model: nn.Module, make_plan: Callable[..., RunPlan], name: str, server_round: int
) -> None:
    optimizer = OptimizerConfig(name=name, learning_rate=1.0)  # type: ignore[arg-type]
    plan = replace(make_plan(optimizer, train="AB"), sites=(share(10, lora_rank=1),))
    trained = share(10, lora_rank=1)
    mask = plan.update_mask("north", server_round)
    result = train_round(model, make_units(10), plan, trained, server_round=server_round)
    assert mask is not None
    assert mask.sum() * 2 == len(mask)
    # To the bit, as the door asks for it.
    assert not result.update[~mask].view(np.uint32).any()
    assert (result.update[mask] != 0).all()


def test_training_goes_on_from_new_factors_of_the_same_product(
    model: nn.Module, make_plan: Callable[..., RunPlan]
) -> None:
    plan, units = make_plan(train="B-svd"), make_units(10)
    train_round(model, units, plan, share(10), server_round=1)
    tokens = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = model(tokens).logits
    old = read_adapter(model).pack(trained_only=False)
    new = after_round(plan.tensors, plan.adapter, old)
    load_adapter(model, AdapterState.unpack(plan.tensors, new))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, before, rtol=1e-4, atol=1e-4)
    assert not np.allclose(new, old)
    assert train_round(model, units, plan, share(10), server_round=2).update.any()


@pytest.mark.parametrize("train", ["B", "B-svd", "AB"])
def test_a_site_alone_goes_through_the_rounds_of_every_mode(
    model: nn.Module, make_plan: Callable[..., RunPlan], train: Train
) -> None:
    plan, before = make_plan(train=train), read_adapter(model)
    masked = MaskingStats(num_records=10, num_masked={})
    data = SiteDataset(train=tuple(make_units(10)), held_out=(), labels=(), masking=masked)
    _train_alone(model, data, plan, share(10), before)
    moved = {
        name.split(".lora_")[1][0]
        for name, tensor in read_adapter(model).tensors.items()
        if not tensor.equal(before.tensors[name])
    }
    assert moved == ({"B"} if train == "B" else {"A", "B"})


def test_a_site_without_units_does_not_train(
    model: nn.Module, make_plan: Callable[..., RunPlan]
) -> None:
    with pytest.raises(TrainingError, match="at least one training unit"):
        train_round(model, [], make_plan(), share(10), server_round=1)


def test_an_optimizer_that_trains_nothing_is_found(
    model: nn.Module, make_plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [nn.Parameter(torch.zeros(3))]
    monkeypatch.setattr(train, "make_optimizer", lambda *_: torch.optim.SGD(other, lr=1.0))
    with pytest.raises(TrainingError, match="every trained tensor to move"):
        train_round(model, make_units(5), make_plan(), share(5), server_round=1)


def test_weights_that_run_off_to_infinity_are_refused(
    model: nn.Module, make_plan: Callable[..., RunPlan]
) -> None:
    optimizer = OptimizerConfig(name="sgd", learning_rate=3e38)
    with pytest.raises(TrainingError, match="finite"):
        train_round(
            model,
            make_units(5),
            make_plan(optimizer, noise_multiplier=1e4),
            share(5),
            server_round=1,
        )
