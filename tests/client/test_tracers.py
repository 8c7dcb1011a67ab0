"""Tracers: the same each time, beside records that have no part in them, and found if known."""

import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from client import app, dataset, train
from client.dataset import MaskingStats, SiteDataset, TokenizedUnit
from client.framing import frame
from client.home import file_digest
from client.traced import Candidates, rank_secrets, tokenized
from client.tracers import digest, make_tracers
from client.train import train_round
from client.worker import Worker
from model.adapter import AdapterState, load_adapter, read_adapter, trained_parameters
from model.base import nano_folder
from model.config import AdapterConfig
from model.loss import collate, per_example_loss
from model.tensors import add_update
from model.tokenizer import Example, encode
from privacy import wire
from privacy.dp import engine, exposure
from privacy.dp.calibrate import calibrate_noise
from privacy.dp.engine import PrivateGradients
from privacy.errors import ConfigError, TrainingError
from privacy.masking.config import MaskingConfig
from privacy.plan import (
    ExposureConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)
from tests.client.room import SETTINGS, nano_plan, tiny_adapted

KEY = bytes(range(32))
ADAPTER = AdapterConfig(lora_rank=8, lora_alpha=16.0)


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    """Two tracers at a site of 40 units."""
    return replace(nano_plan(MaskingConfig())[0], exposure=ExposureConfig(tracers=2))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(nano_folder())
    return loaded


# -- how they are made ---------------------------------------------------------------------------


def test_tracers_are_the_same_after_a_restart_and_in_training_as_when_looked_for(
    plan: RunPlan,
) -> None:
    again = RunPlan.parse(plan.canonical())
    assert make_tracers(KEY, plan, "s", num_secrets=9) == make_tracers(
        KEY, again, "s", num_secrets=9
    )
    for trained, looked_for in zip(
        make_tracers(KEY, plan, "s", num_secrets=1), make_tracers(KEY, plan, "s"), strict=True
    ):
        assert (trained.prompt, trained.secret) == (looked_for.prompt, looked_for.secret)


def test_a_known_key_and_plan_give_known_tracers(plan: RunPlan) -> None:
    """Computed apart from the code: no version looks for other secrets than one before trained."""
    fixed = SimpleNamespace(exposure=plan.exposure, digest="sha256:" + "0" * 64)
    first, second = make_tracers(KEY, fixed, "s", num_secrets=3)  # type: ignore[arg-type]
    assert first.prompt == "Made-up file 22410b170651f0d2, number"
    assert second.secrets == ("16666523", "69450902", "62750203")


def test_key_plan_run_site_and_number_each_give_other_secrets(plan: RunPlan) -> None:
    made = [
        *make_tracers(KEY, plan, "s", num_secrets=1),
        *make_tracers(bytes(32), plan, "s", num_secrets=1),
        *make_tracers(KEY, plan, "t", num_secrets=1),
        *make_tracers(KEY, replace(plan, run="other"), "s", num_secrets=1),
        *make_tracers(KEY, replace(plan, initial_adapter="sha256:" + "1" * 64), "s"),
    ]
    assert len({tracer.secret for tracer in made}) == len({t.prompt for t in made}) == 10


def test_a_tracer_has_as_many_different_secrets_of_eight_digits_as_it_is_ranked_among(
    plan: RunPlan,
) -> None:
    for tracer in make_tracers(KEY, plan, "s"):
        assert len(set(tracer.secrets)) == len(tracer.secrets) == exposure.NUM_CANDIDATES
        assert all(len(secret) == 8 and secret.isdigit() for secret in tracer.secrets)
        # Each digit is as likely as the others, at the first place too.
        counts = np.bincount([int(secret[0]) for secret in tracer.secrets], minlength=10)
        assert 60 < counts.min() <= counts.max() < 150


def test_a_plan_without_tracers_needs_no_key(plan: RunPlan) -> None:
    assert make_tracers(b"", replace(plan, exposure=ExposureConfig()), "s") == ()
    with pytest.raises(ValueError, match="expected an exposure key of 32 bytes, got 0"):
        make_tracers(b"", plan, "s")


def test_the_digest_pins_what_is_trained_on_and_nothing_else(plan: RunPlan) -> None:
    tracers = make_tracers(KEY, plan, "s", num_secrets=1)
    assert digest(tracers) == digest(make_tracers(KEY, plan, "s"))
    assert digest(tracers) != digest(make_tracers(KEY, plan, "t", num_secrets=1))
    assert digest(tracers) != digest(tracers[::-1])


# -- as the model sees them ----------------------------------------------------------------------


def test_a_tracer_is_one_sequence_whose_secret_is_learnt(
    plan: RunPlan, tokenizer: PreTrainedTokenizerBase
) -> None:
    tracers = make_tracers(KEY, plan, "s")
    for tracer, candidates in zip(tracers, tokenized(tracers, tokenizer, plan), strict=True):
        example = candidates.trained
        # As a record with this prompt and answer would be.
        assert example == encode(tokenizer, tracer.prompt, tracer.secret, plan.text)
        learnt = tokenizer.decode(example.input_ids[example.answer_start :])
        assert learnt == f" {tracer.secret}{tokenizer.eos_token}"
        assert tracer.prompt in tokenizer.decode(example.input_ids)
        assert len(candidates.answers) == exposure.NUM_CANDIDATES


def test_the_shortest_sequences_that_a_plan_may_have_hold_a_whole_secret(
    plan: RunPlan, tokenizer: PreTrainedTokenizerBase
) -> None:
    short = replace(plan, text=TextConfig(max_tokens=63))
    made = make_tracers(KEY, short, "s")
    for tracer, candidates in zip(made, tokenized(made, tokenizer, short), strict=True):
        assert len(candidates.prompt) + max(map(len, candidates.answers)) <= 63
        # Cut, all tracers might begin alike.
        assert tracer.prompt in tokenizer.decode(candidates.prompt)
        assert candidates.trained.input_ids[-1] == tokenizer.eos_token_id


def test_a_template_without_room_is_refused(plan: RunPlan) -> None:
    text = TextConfig(prompt_template="one two three " * 40 + "{prompt}", max_tokens=64)
    with pytest.raises(ValueError, match=r"expected max_tokens >= 616 with tracers .*, got 64"):
        replace(plan, text=text)
    # A tokenizer may take more than a token a byte.
    tight = replace(plan, text=TextConfig(max_tokens=63))
    wide = Blind(per_character=2)
    with pytest.raises(ConfigError, match="with room for a tracer's prompt"):
        tokenized(make_tracers(KEY, tight, "s"), wide, tight)  # type: ignore[arg-type]


class Blind:
    """A tokenizer that knows no digit, or spells each in many tokens."""

    eos_token_id = 1
    bos_token_id = None

    def __init__(self, per_character: int) -> None:
        self._per_character = per_character

    def encode(self, text: str, **_: object) -> list[int]:
        """As a tokenizer does."""
        return [0] * (len(text) * self._per_character)


@pytest.mark.parametrize(
    ("per_character", "message"), [(1, "got two alike"), (3, "at most 16 tokens")]
)
def test_a_tokenizer_that_cannot_tell_secrets_apart_is_refused(
    plan: RunPlan, per_character: int, message: str
) -> None:
    roomy = replace(plan, text=TextConfig(max_tokens=512))
    with pytest.raises(ConfigError, match=message):
        tokenized(make_tracers(KEY, roomy, "s"), Blind(per_character), roomy)  # type: ignore[arg-type]


# -- no record has a part in them ----------------------------------------------------------------


def units_of(num_units: int, seed: int = 0) -> list[TokenizedUnit]:
    generator = torch.Generator().manual_seed(seed)
    return [
        TokenizedUnit(
            unit_id=str(index),
            examples=(Example(torch.randint(3, 64, (8,), generator=generator).tolist(), 5),),
        )
        for index in range(num_units)
    ]


def load(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    plan: RunPlan,
    tokenizer: PreTrainedTokenizerBase,
    units: Sequence[TokenizedUnit],
    key: bytes | None = KEY,
) -> app.Node:
    """`Node.load` at a site with these units."""
    path = folder / "site.toml"
    path.write_text(
        '[site]\nname = "s"\ncoordinator = "h:1"\n[data]\npath = "d.jsonl"\nnum_units = 40\n'
        "[budget]\nepsilon = 8\ndelta = 1e-3\n"
    )
    data = SiteDataset(
        train=tuple(units),
        held_out=(),
        labels=(),
        masking=MaskingStats(num_records=len(units), num_masked={}),
    )
    monkeypatch.setattr(dataset, "load", lambda *_, **__: data)
    monkeypatch.setattr(app, "load_adapted", lambda *_: (nn.Identity(), tokenizer))
    monkeypatch.setattr(app, "self_test", lambda *_, **__: None)
    return app.Node.load(path, plan, b"h" * 32, None, key)


def test_taking_any_unit_away_leaves_every_tracer_as_it_is_to_the_byte(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plan: RunPlan,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    units = units_of(5)
    whole = load(monkeypatch, tmp_path, plan, tokenizer, units)
    assert len(whole.tracers) == 2
    for left in range(len(units)):
        fewer = load(monkeypatch, tmp_path, plan, tokenizer, units[:left] + units[left + 1 :])
        assert fewer.tracers == whole.tracers
        assert len(fewer.data.train) == 4


def test_tracers_are_no_units_of_the_site(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plan: RunPlan,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """What is measured of a site, and what it trains alone to compare, is of its own units."""
    units = units_of(3)
    node = load(monkeypatch, tmp_path, plan, tokenizer, units)
    assert node.data.train == tuple(units)
    assert node.data.num_units == 3
    assert node.units == (*units, *node.tracers)
    assert len(node.units) == 5
    assert node.masking()["num_records"] == 3


def test_a_round_trains_on_the_sites_units_and_the_tracers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plan: RunPlan,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    node = load(monkeypatch, tmp_path, plan, tokenizer, units_of(3))
    _, first = nano_plan(MaskingConfig())
    instruction = replace(first, plan=plan.digest)
    given: list[tuple[object, int]] = []

    def caught(_: object, units: object, __: object, share: SiteShare, **___: object) -> None:
        given.append((units, share.num_units))
        raise TrainingError("enough")

    monkeypatch.setattr(app, "_node", lambda _: node)
    monkeypatch.setattr(app, "load_adapter", lambda *_: None)
    monkeypatch.setattr(app, "train_round", caught)
    content = wire.write_instruction(instruction, plan)
    with pytest.raises(TrainingError, match="enough"):
        app.train(SimpleNamespace(content=content), None)  # type: ignore[arg-type]
    # The denominator is the declared number, as without tracers.
    assert given == [((*units_of(3), *node.tracers), 40)]


def test_a_plan_with_tracers_and_no_key_for_them_is_trained_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plan: RunPlan,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    # Membership inference needs none, and gets none.
    node = load(monkeypatch, tmp_path, plan, tokenizer, units_of(3), None)
    assert node.tracers == ()
    with pytest.raises(ConfigError, match="expected a key for the plan's tracers"):
        _ = node.units


def test_who_ranks_takes_no_record() -> None:
    assert list(inspect.signature(rank_secrets).parameters) == ["model", "traced"]
    assert list(inspect.signature(exposure.summarise).parameters) == ["ranks"]
    assert list(inspect.signature(make_tracers).parameters) == [
        "key", "plan", "site", "num_secrets",
    ]  # fmt: skip


def test_taking_any_unit_away_moves_the_clipped_sum_by_that_unit_alone() -> None:
    """With tracers in the sum as without: by the unit's own clipped gradient, no more."""
    model = tiny_adapted(AdapterConfig(lora_rank=2, lora_alpha=4.0), width=16)
    units, made_up = units_of(6), units_of(3, seed=9)
    with PrivateGradients(model, clip_norm=0.05) as gradients:

        def summed(of: Sequence[TokenizedUnit]) -> torch.Tensor:
            return gradients.clipped_sum([unit.examples for unit in of]).total

        whole = summed([*units, *made_up])
        for left in range(len(units)):
            fewer = summed([*units[:left], *units[left + 1 :], *made_up])
            alone = summed([units[left]])
            torch.testing.assert_close(whole - fewer, alone, rtol=1e-3, atol=1e-6)
            assert float((whole - fewer).norm()) <= 0.05 * 1.0001
        # Clipping is at work, or the bound would be no bound.
        assert min(gradients.clipped_sum([u.examples for u in made_up]).norms) > 0.05


# -- what is remembered --------------------------------------------------------------------------


@pytest.fixture
def model() -> nn.Module:
    """A tiny base with an adapter that is large enough to learn by heart."""
    return tiny_adapted(ADAPTER, width=32)


def random_candidates(num_tracers: int, seed: int) -> list[Candidates]:
    """Tracers of the tiny vocabulary: four tokens of a prompt, six digits, the end."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(num_tracers):
        prompt = torch.randint(20, 64, (4,), generator=generator).tolist()
        answers: dict[tuple[int, ...], None] = {}
        while len(answers) < exposure.NUM_CANDIDATES:
            digits = torch.randint(3, 13, (6,), generator=generator).tolist()
            answers[(*digits, 1)] = None
        found.append(Candidates(prompt, [list(answer) for answer in answers]))
    return found


def test_an_adapter_that_knows_no_secret_ranks_them_evenly(model: nn.Module) -> None:
    """Over seeds: no p-value is small, and the ranks lie everywhere."""
    ranks = rank_secrets(model, random_candidates(12, seed=5))
    p_values = [exposure.summarise(ranks[start : start + 4]).p_value for start in range(0, 12, 4)]
    assert min(p_values) > 0.01
    # Three standard deviations of a mean of twelve.
    assert abs(np.mean(ranks) - 512) < 3 * 296 / 12**0.5
    even = (np.arange(12) + 0.5) / 12
    assert np.abs(np.sort(ranks) / exposure.NUM_CANDIDATES - even).max() < 0.4


def test_an_adapter_that_learnt_tracers_by_heart_is_told(model: nn.Module) -> None:
    traced = random_candidates(4, seed=1)
    batch = collate([candidates.trained for candidates in traced])
    optimizer = torch.optim.Adam(trained_parameters(model), lr=0.05)
    for _ in range(60):
        loss = per_example_loss(model, batch.input_ids, batch.attention_mask, batch.answer_mask)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    found = exposure.summarise(rank_secrets(model, traced))
    assert found.mean > 7
    assert found.p_value < 1e-3


def test_the_same_tracers_at_a_small_epsilon_are_not_told(
    model: nn.Module, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained as often, among 40 other units, at epsilon 1; the noise is drawn the same."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(engine, "draw_noise", rng.standard_normal)
    monkeypatch.setattr(
        train, "draw_units", lambda count, rate: np.flatnonzero(rng.random(count) < rate).tolist()
    )
    state = read_adapter(model)
    private = replace(
        plan,
        adapter=ADAPTER,
        tensors=state.specs,
        initial_adapter=state.digest,
        mechanism=replace(
            plan.mechanism,
            target_epsilon=1.0,
            noise_multiplier=calibrate_noise(1.0, 1e-3, 0.5, 60),
            clip_norm=0.1,
            sample_rate=0.5,
            steps_per_round=30,
        ),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.05),
        rounds=RoundsConfig(num_rounds=2, min_sites=1),
        sites=(SiteShare(name="s", num_units=80),),
    )
    traced = random_candidates(4, seed=1)
    tracers = [
        TokenizedUnit(unit_id=f"tracer {number}", examples=(candidates.trained,))
        for number, candidates in enumerate(traced)
    ]
    for server_round in (1, 2):
        load_adapter(model, state)
        update = train_round(
            model,
            [*units_of(40), *tracers],
            private,
            private.sites[0],
            server_round=server_round,
        ).update
        packed = add_update(private.tensors, state.pack(trained_only=False), update)
        state = AdapterState.unpack(private.tensors, packed)
    load_adapter(model, state)
    found = exposure.summarise(rank_secrets(model, traced))
    assert found.p_value > 0.05
    assert found.mean < exposure.allowed_mean(1.0, 1e-3)


def test_an_adapter_whose_losses_are_no_numbers_looks_in_no_way_safe(model: nn.Module) -> None:
    with torch.no_grad():
        next(iter(trained_parameters(model))).fill_(float("nan"))
    with pytest.raises(TrainingError, match="expected finite losses"):
        rank_secrets(model, random_candidates(1, seed=1))


def test_a_base_with_a_window_of_attention_ranks_the_same(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There each candidate goes through whole."""
    traced = random_candidates(1, seed=3)
    in_tree = rank_secrets(model, traced)
    config = SimpleNamespace(sliding_window=8)
    monkeypatch.setattr("client.traced.base_of", lambda _: SimpleNamespace(config=config))
    (whole,) = rank_secrets(model, traced)
    # By rounding, neighbours may change places.
    assert abs(whole - in_tree[0]) <= 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_room_ranks_where_there_are_no_records_at_all(tmp_path: Path) -> None:
    """The program as the command starts it, at a site whose file of records is not there."""
    nano, instruction = nano_plan(MaskingConfig())
    plan = replace(
        nano,
        exposure=ExposureConfig(tracers=1),
        sites=(SiteShare(name="s", num_units=40),),
    )
    settings = tmp_path / "site.toml"
    settings.write_text(SETTINGS.format(path=tmp_path / "missing.jsonl"))
    header = {
        "site_config": str(settings),
        "site_config_digest": file_digest(settings),
        "plan": plan.canonical().decode(),
        "exposure_key": KEY.hex(),
    }
    packed = instruction.adapter.astype("<f4").tobytes()
    with Worker(
        [sys.executable, "-m", "client.exposure"],
        environment={"OMP_NUM_THREADS": "1"},
        hide=[],
        memory_limit_mb=4000,
    ) as room:
        asked = frame(header, packed)
        answer = room.call(asked, timeout_s=240, on_progress=lambda _: None)
        again = room.call(asked, timeout_s=240, on_progress=lambda _: None)
        settings.write_text(settings.read_text() + "\n")
        with pytest.raises(TrainingError, match="as it was when the test began"):
            room.call(asked, timeout_s=240, on_progress=lambda _: None)
    ranks = json.loads(answer)["ranks"]
    exposure.check_ranks(ranks)
    assert json.loads(again) == {"ranks": ranks}
