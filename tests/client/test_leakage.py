"""Attacks on an adapter: what was over-fitted is told, what was trained in private is not."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from client import leakage
from client.dataset import TokenizedUnit
from client.framing import frame, unframe
from client.leakage import _losses, measure
from client.train import train_round
from client.worker import Worker
from model.adapter import (
    AdapterState,
    load_adapter,
    read_adapter,
    trained_parameters,
)
from model.config import AdapterConfig
from model.loss import collate, per_example_loss
from model.tensors import add_update
from model.tokenizer import Example
from privacy.dp import membership
from privacy.dp.calibrate import calibrate_noise
from privacy.dp.engine import DEFAULT_MAX_TOKENS
from privacy.errors import ConfigError
from privacy.masking.config import MaskingConfig
from privacy.plan import OptimizerConfig, RoundsConfig, RunPlan, SiteShare
from tests.client.room import nano_plan, request, tiny_adapted

ADAPTER = AdapterConfig(lora_rank=8, lora_alpha=16.0)


@pytest.fixture
def model() -> nn.Module:
    """A tiny base with an adapter that is large enough to learn by heart."""
    return tiny_adapted(ADAPTER, width=32)


@pytest.fixture(scope="module")
def nano() -> RunPlan:
    return nano_plan(MaskingConfig())[0]


@pytest.fixture
def plan(model: nn.Module, nano: RunPlan) -> RunPlan:
    """Two rounds of ten steps over a tenth of the units each, at epsilon 8 and delta 1e-3."""
    state = read_adapter(model)
    mechanism = replace(
        nano.mechanism,
        noise_multiplier=calibrate_noise(8.0, 1e-3, 0.1, 20),
        clip_norm=0.1,
        sample_rate=0.1,
        steps_per_round=10,
    )
    return replace(
        nano,
        adapter=ADAPTER,
        tensors=state.specs,
        initial_adapter=state.digest,
        mechanism=mechanism,
        optimizer=OptimizerConfig(name="adam", learning_rate=0.02),
        rounds=RoundsConfig(num_rounds=2, min_sites=1),
    )


def random_units(num_units: int, seed: int) -> list[list[Example]]:
    """Units of one or two texts whose ends follow from nothing: only to be learnt by heart."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            Example(torch.randint(3, 64, (8,), generator=generator).tolist(), 5)
            for _ in range(1 + number % 2)
        ]
        for number in range(num_units)
    ]


def over_fit(
    model: nn.Module, units: Sequence[Sequence[Example]], num_steps: int = 60
) -> AdapterState:
    """An adapter that was trained on `units` without clipping and noise."""
    batch = collate([example for unit in units for example in unit])
    optimizer = torch.optim.Adam(trained_parameters(model), lr=0.05)
    for _ in range(num_steps):
        loss = per_example_loss(model, batch.input_ids, batch.attention_mask, batch.answer_mask)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return read_adapter(model)


def train_privately(
    model: nn.Module, units: Sequence[Sequence[Example]], plan: RunPlan
) -> AdapterState:
    """An adapter after all rounds of a plan with this site alone."""
    share = SiteShare(name="north", num_units=len(units))
    trained = [
        TokenizedUnit(unit_id=str(number), examples=tuple(unit))
        for number, unit in enumerate(units)
    ]
    state = read_adapter(model)
    for server_round in range(1, plan.rounds.num_rounds + 1):
        load_adapter(model, state)
        update = train_round(model, trained, plan, share, server_round=server_round).update
        packed = add_update(plan.tensors, state.pack(trained_only=False), update)
        state = AdapterState.unpack(plan.tensors, packed)
    return state


def areas(found: dict[str, object]) -> dict[str, membership.Estimate]:
    attacks = found["attacks"]
    assert isinstance(attacks, dict)
    return {name: membership.Estimate(**attack["auc"]) for name, attack in attacks.items()}


def test_an_adapter_that_learnt_by_heart_is_told(model: nn.Module, plan: RunPlan) -> None:
    members, others = random_units(24, seed=1), random_units(24, seed=2)
    found = measure(model, members, others, plan, over_fit(model, members))
    assert areas(found)["loss"].low > 0.8
    assert areas(found)["reference"].low > 0.7
    # By what may leave, too.
    noised = membership.release(found["counts"], 0.5)
    area = membership.estimate("loss", noised, 0.5).auc
    assert area is not None
    assert area.low > 0.6


def test_an_adapter_that_was_trained_at_epsilon_8_is_not_told(
    model: nn.Module, plan: RunPlan
) -> None:
    members, others = random_units(120, seed=1), random_units(120, seed=2)
    adapter = train_privately(model, members, plan)
    found = areas(measure(model, members, others, plan, adapter))
    for area in found.values():
        # 0.53 was usual; chance alone has a standard deviation of 0.04. By heart, it is 1.
        assert abs(area.value - 0.5) < 0.2


def test_an_untouched_adapter_has_no_reference_score(model: nn.Module, plan: RunPlan) -> None:
    # B is zero: the adapter is the base, and no unit's loss has changed.
    found = measure(model, random_units(20, 1), random_units(10, 2), plan, read_adapter(model))
    assert areas(found)["reference"].value == 0.5


def test_a_units_score_is_the_same_whoever_else_is_there(model: nn.Module, plan: RunPlan) -> None:
    """To the last bit: otherwise a count could move by more than one when a unit is taken away."""
    members, others = random_units(6, seed=1), random_units(4, seed=2)
    adapter = over_fit(model, members, 3)
    whole = measure(model, members, others, plan, adapter)["counts"]
    for left in range(len(members)):
        fewer = measure(model, members[:left] + members[left + 1 :], others, plan, adapter)[
            "counts"
        ]
        for name in membership.FIELDS:
            moved = sum(abs(a - b) for a, b in zip(whole[name], fewer[name], strict=True))
            assert moved == (1 if name.endswith("members") else 0)


def test_a_unit_with_many_records_is_counted_once(model: nn.Module, plan: RunPlan) -> None:
    many = [[unit[0]] * 7 for unit in random_units(5, seed=1)]
    found = measure(model, many, random_units(5, seed=2), plan, read_adapter(model))
    assert found["num_members"] == sum(found["counts"]["loss_members"]) == 5


def long_unit(num_records: int) -> list[Example]:
    """A unit whose records differ in length, and are more than fit into one microbatch."""
    generator = torch.Generator().manual_seed(7)
    return [
        Example(torch.randint(3, 64, (5 + number % 9,), generator=generator).tolist(), 3)
        for number in range(num_records)
    ]


def test_a_unit_with_thousands_of_records_goes_through_in_parts_to_the_same_score(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.eval()
    unit, sizes = long_unit(1500), []

    def watched(model: nn.Module, input_ids: torch.Tensor, *masks: torch.Tensor) -> torch.Tensor:
        sizes.append(input_ids.numel())
        return per_example_loss(model, input_ids, *masks)

    monkeypatch.setattr(leakage, "per_example_loss", watched)
    (in_parts,) = _losses(model, [unit], "adapter")
    assert len(sizes) > 1
    assert max(sizes) <= DEFAULT_MAX_TOKENS
    monkeypatch.setattr(leakage, "DEFAULT_MAX_TOKENS", 10**9)
    (at_once,) = _losses(model, [unit], "adapter")
    assert in_parts == pytest.approx(at_once, abs=1e-5)


def test_a_long_units_score_is_the_same_to_the_last_bit_whoever_else_is_there(
    model: nn.Module,
) -> None:
    model.eval()
    unit, around = long_unit(500), random_units(5, seed=3)
    (alone,) = _losses(model, [unit], "adapter")
    for place in range(len(around) + 1):
        units = [*around[:place], unit, *around[place:]]
        assert _losses(model, units, "adapter")[place] == alone


def test_without_held_out_units_nothing_is_attacked(model: nn.Module, plan: RunPlan) -> None:
    with pytest.raises(ConfigError, match="units held out, got 3 and 0"):
        measure(model, random_units(3, 1), [], plan, read_adapter(model))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_real_room_answers_with_figures_and_no_text(tmp_path: Path) -> None:
    """The program as the command starts it: records in, figures and counts out."""
    words = ("harbour", "lantern", "quarrel")
    data = tmp_path / "data.jsonl"
    rows = [
        {
            "id": f"r{n}",
            "prompt": f"{' '.join(words)} {n}",
            "completion": "none",
            "label": "flu" if n % 2 else "cold",
        }
        for n in range(30)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan, instruction = nano_plan(MaskingConfig())
    header, _ = unframe(request(tmp_path, data, plan, instruction))
    asked = frame(header, instruction.adapter.astype("<f4").tobytes())
    with Worker(
        [sys.executable, "-m", "client.leakage"],
        environment={"OMP_NUM_THREADS": "1"},
        hide=[],
        memory_limit_mb=4000,
    ) as room:
        answer = room.call(asked, timeout_s=240, on_progress=lambda _: None)
    found = json.loads(answer)
    assert found["num_members"] + found["num_others"] == 30
    # The initial adapter is the base.
    assert found["attacks"]["reference"]["auc"]["value"] == 0.5
    assert set(found["counts"]) == set(membership.FIELDS)
    assert not any(word.encode() in answer for word in words)
