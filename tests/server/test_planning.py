"""From PLAN.toml to what is adapted, and what a plan cannot ask for."""

from pathlib import Path

import pytest

from model.config import AdapterConfig
from privacy.errors import ConfigError
from server.planning import _adapter, read_plan_file

REQUIRED = """
run = "first"
[privacy]
target_epsilon = 8.0
delta = 1e-4
sample_rate = 0.1
steps_per_round = 2
{privacy}
[rounds]
num_rounds = 5
min_sites = 2
[adapter]
{adapter}
[text]
{text}
"""


def write(folder: Path, **sections: str) -> Path:
    path = folder / "PLAN.toml"
    lines = {"adapter": "", "privacy": "", "text": "", **sections}
    path.write_text(REQUIRED.format(**lines), encoding="utf-8")
    return path


def test_a_plan_adapts_attention_unless_it_says_otherwise(tmp_path: Path) -> None:
    written = read_plan_file(write(tmp_path))
    _, adapter, initial = _adapter(written, tmp_path)
    assert adapter == AdapterConfig(lora_rank=8, lora_alpha=16.0)
    assert all(".self_attn." in spec.name for spec in initial.specs)


def test_targets_are_sorted_and_make_the_list_of_tensors(tmp_path: Path) -> None:
    lines = 'targets = ["shared", "experts", "attention"]\nlora_rank = 2'
    written = read_plan_file(write(tmp_path, adapter=lines))
    _, adapter, initial = _adapter(written, tmp_path)
    assert adapter.targets == ("attention", "experts", "shared")
    places = {".self_attn.", ".mlp.experts.", ".mlp.shared_experts."}
    assert {place for place in places for s in initial.specs if place in s.name} == places
    assert {s.trained for s in initial.specs if ".lora_A." in s.name} == {False}


@pytest.mark.parametrize("targets", ["[]", '["experts", "experts"]'])
def test_no_target_and_a_target_twice_are_refused(tmp_path: Path, targets: str) -> None:
    written = read_plan_file(write(tmp_path, adapter=f"targets = {targets}"))
    with pytest.raises(ConfigError, match="expected targets from"):
        _adapter(written, tmp_path)


def test_dropout_beside_attention_is_refused(tmp_path: Path) -> None:
    lines = 'targets = ["experts"]\nlora_dropout = 0.1'
    with pytest.raises(ConfigError, match="expected lora_dropout = 0 with targets other"):
        _adapter(read_plan_file(write(tmp_path, adapter=lines)), tmp_path)


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("adapter", 'targets = ["router"]', "'attention', 'experts' or 'shared'"),
        ("adapter", "capacity_factor = 1.25", "experts have no capacity limit"),
        ("adapter", "router_aux_loss_coef = 0.01", "a balance loss couples all examples"),
        ("adapter", "router_bias_update_rate = 0.001", "a bias that follows the batch"),
        ("adapter", "train_router = true", "routers are frozen"),
        ("privacy", 'accountant = "gdp"', "the accountant is PLD"),
        ("privacy", "batch_size = 64", "drawn with `sample_rate`"),
        ("privacy", 'noise_dtype = "bfloat16"', "noise is added in float64"),
        ("privacy", 'sampling = "shuffle"', "drawn by Poisson sampling"),
        ("privacy", "shuffle = true", "drawn by Poisson sampling"),
        ("text", "packing = true", "two units never share a sequence"),
    ],
)
def test_what_would_void_the_guarantee_cannot_be_asked_for(
    tmp_path: Path, section: str, line: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan_file(write(tmp_path, **{section: line}))
