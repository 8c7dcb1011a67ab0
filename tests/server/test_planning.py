"""From PLAN.toml to what is adapted, and what a plan cannot ask for."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, MixtralConfig

from model.base import nano_folder
from model.config import AdapterConfig, ServerOptimizerConfig
from model.tensors import packed_size
from privacy.errors import ConfigError
from privacy.plan import OptimizerConfig, RunPlan
from server.config import load, template
from server.planning import _adapter, make_plan, read_plan_file
from server.roster import Roster

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


def make(folder: Path, adapter: str) -> RunPlan:
    """The plan of sites a, b and c."""
    address = "127.0.0.1:9092"
    (folder / "federation.toml").write_text(template(name="regio", address=address))
    config = load(folder)
    with Roster(config.roster_path) as roster:
        for name in "abc":
            if roster.active_site(name) is None:
                roster.add(
                    name,
                    node_key=name.encode(),
                    signing_key=name.encode() * 32,
                    certificate_serial="1",
                    num_units=100,
                    at=datetime.now(UTC),
                )
        return make_plan(write(folder, adapter=adapter), config, roster)[0]


def test_a_plan_adapts_the_shared_experts_unless_it_says_otherwise(tmp_path: Path) -> None:
    written = read_plan_file(write(tmp_path))
    _, adapter, initial = _adapter(written, tmp_path)
    assert adapter == AdapterConfig(lora_rank=32, lora_alpha=64.0, targets=("shared",))
    assert all(".shared_experts." in spec.name for spec in initial.specs)


def test_a_base_without_shared_experts_is_adapted_in_its_attention(tmp_path: Path) -> None:
    config = MixtralConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_local_experts=2,
        num_attention_heads=2, num_key_value_heads=2, vocab_size=32,
    )  # fmt: skip
    base = tmp_path / "small"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    shutil.copy(nano_folder() / "tokenizer.json", base)
    path = write(tmp_path)
    path.write_text(f'base = "{base}"\n{path.read_text()}')
    _, adapter, _ = _adapter(read_plan_file(path), tmp_path)
    assert adapter.targets == ("attention",)


def test_drop_out_is_for_attention(tmp_path: Path) -> None:
    written = read_plan_file(write(tmp_path, adapter="lora_dropout = 0.1"))
    assert _adapter(written, tmp_path)[1].targets == ("attention",)


def test_the_defaults_are_the_recipe_and_other_modes_have_their_own(tmp_path: Path) -> None:
    recipe = make(tmp_path, "")
    assert recipe.optimizer == OptimizerConfig(name="sgd", learning_rate=1.0)
    assert recipe.server_optimizer == ServerOptimizerConfig(
        name="adam", learning_rate=0.06, decay="cosine", max_noise_gain=2.5
    )
    for train in ("AB", "B-svd"):
        other = make(tmp_path, f'train = "{train}"')
        assert other.optimizer == OptimizerConfig(name="adam", learning_rate=0.01)
        assert other.server_optimizer == ServerOptimizerConfig()


def test_the_mean_is_added_whole_unless_a_plan_says_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + '[server_optimizer]\nname = "mean"\n')
    written = read_plan_file(path).server_optimizer
    assert ServerOptimizerConfig(**written.model_dump()) == ServerOptimizerConfig()


def test_targets_are_sorted_and_make_the_list_of_tensors(tmp_path: Path) -> None:
    lines = 'targets = ["shared", "experts", "attention"]\nlora_rank = 2'
    written = read_plan_file(write(tmp_path, adapter=lines))
    _, adapter, initial = _adapter(written, tmp_path)
    assert adapter.targets == ("attention", "experts", "shared")
    places = {".self_attn.", ".mlp.experts.", ".mlp.shared_experts."}
    assert {place for place in places for s in initial.specs if place in s.name} == places
    assert {s.trained for s in initial.specs if ".lora_A." in s.name} == {False}


@pytest.mark.parametrize("train", ["B", "B-svd", "AB"])
def test_a_plan_says_which_factors_train(tmp_path: Path, train: str) -> None:
    plan = make(tmp_path, f'train = "{train}"\nlora_rank = 2')
    assert plan.adapter.train == train
    largest = max(packed_size(plan.update_tensors(number)) for number in (1, 2))
    assert plan.exits.max_update_bytes == 4 * largest + 65536


def test_a_mode_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter.train: .*'AB', 'B' or 'B-svd'"):
        read_plan_file(write(tmp_path, adapter='train = "A"'))


def test_a_plan_adds_no_tracers_unless_it_says_so(tmp_path: Path) -> None:
    assert make(tmp_path, "").exposure.tracers == 0
    assert make(tmp_path, "[exposure]\ntracers = 5").exposure.tracers == 5
    with pytest.raises(ConfigError, match="at most 5 % of the 100 units of a as tracers, got 6"):
        make(tmp_path, "[exposure]\ntracers = 6")
    with pytest.raises(ConfigError, match=r"exposure\.tracers: Input should be a valid integer"):
        make(tmp_path, '[exposure]\ntracers = "5"')


def test_a_site_may_have_a_lower_rank(tmp_path: Path) -> None:
    plan = make(tmp_path, "lora_rank = 4\nsite_ranks = { a = 2, b = 4 }")
    # The adapter's own rank is written as none.
    assert [share.lora_rank for share in plan.sites] == [2, None, None]
    assert plan == make(tmp_path, "lora_rank = 4\nsite_ranks = { a = 2 }")


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ("{ d = 2 }", "site_ranks: expected sites of the plan, got d"),
        ("{ a = 5 }", "site_ranks: expected 1 to lora_rank = 4 for a, got 5"),
        ("{ a = 0 }", "site_ranks: expected 1 to lora_rank = 4 for a, got 0"),
        ('{ a = "2" }', "adapter.site_ranks.a: Input should be a valid integer"),
        ("2", "adapter.site_ranks: Input should be a valid dictionary"),
    ],
)
def test_an_impossible_rank_of_a_site_is_refused(tmp_path: Path, ranks: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, f"lora_rank = 4\nsite_ranks = {ranks}")


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
