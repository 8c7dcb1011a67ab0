"""A one-run audit of the engine: under the claim when it is sound, above it when it is not."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from model.adapter import read_adapter, trained_parameters
from model.lora import lora_pairs
from privacy.dp import attribution, canary_audit, engine
from privacy.dp.calibrate import Event, calibrate_noise
from privacy.dp.canaries import Directions, injected, made_up_canaries
from privacy.dp.canary_audit import CanaryAudit, audit_one_run, evidence
from privacy.dp.engine import PrivateGradients
from privacy.errors import TrainingError

MakeModel = Callable[..., nn.Module]
DELTA = 1e-5


@pytest.fixture
def model(make_model: MakeModel) -> nn.Module:
    return make_model("olmoe", lora_rank=32, targets=("attention", "experts"))


def releases(target: float, *, sample_rate: float = 1.0, num_steps: int = 1) -> Event:
    noise = calibrate_noise(target, DELTA, sample_rate, num_steps)
    return Event(noise, sample_rate, num_steps)


# The attack.


@pytest.mark.parametrize(("sample_rate", "num_steps"), [(1.0, 1), (0.5, 4), (0.1, 20)])
def test_a_sound_engine_is_bounded_from_below_under_its_claim(
    model: nn.Module, sample_rate: float, num_steps: int
) -> None:
    event = releases(3.0, sample_rate=sample_rate, num_steps=num_steps)
    found = audit_one_run(model, event, delta=DELTA)
    # Of 100 guesses 68 to 91 are right, and 65 are enough to bound epsilon above 0.2.
    assert 0 < found.lower_bound < found.claim <= 3.0 < found.highest
    assert not found.fires


@pytest.mark.parametrize(("sample_rate", "num_steps"), [(1.0, 1), (0.5, 4), (0.1, 20)])
def test_noise_for_a_quarter_of_the_sensitivity_is_found(
    model: nn.Module, sample_rate: float, num_steps: int
) -> None:
    event = releases(2.0, sample_rate=sample_rate, num_steps=num_steps)
    assert audit_one_run(model, event, delta=DELTA, sensitivity=4.0).fires


def test_a_clipping_that_lets_four_norms_through_is_found(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = attribution.clip_factors
    monkeypatch.setattr(engine, "clip_factors", lambda norms, clip: 4 * sound(norms, clip))
    assert audit_one_run(model, releases(2.0), delta=DELTA).fires


def test_no_clipping_at_all_is_found(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "clip_factors", lambda norms, _clip: torch.ones_like(norms))
    assert audit_one_run(model, releases(2.0), delta=DELTA).fires


def test_noise_of_a_quarter_of_its_size_is_found(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = engine.draw_noise
    monkeypatch.setattr(engine, "draw_noise", lambda size: sound(size) / 4)
    assert audit_one_run(model, releases(2.0), delta=DELTA).fires


@pytest.mark.slow
def test_everybody_in_every_step_where_a_tenth_was_claimed_is_found(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_audit, "draw_units", lambda num_units, _rate: range(num_units))
    event = releases(2.0, sample_rate=0.1, num_steps=20)
    assert audit_one_run(model, event, delta=DELTA).fires


@pytest.mark.parametrize(
    ("family", "train"),
    [
        ("deepseek_v3", "B"),
        ("deepseek_v3", "AB"),
        ("gpt_oss", "B"),
        ("mixtral", "AB"),
        ("qwen3_moe", "B"),
    ],
)
def test_every_family_can_be_audited(make_model: MakeModel, family: str, train: str) -> None:
    model = make_model(family, lora_rank=32, train=train, targets=("attention", "experts"))
    assert not audit_one_run(model, releases(2.0), delta=DELTA).fires
    assert audit_one_run(model, releases(2.0), delta=DELTA, sensitivity=4.0).fires


@pytest.mark.parametrize("train", ["B", "AB"])
def test_an_adapter_on_routed_experts_alone_can_be_audited(
    make_model: MakeModel, train: str
) -> None:
    model = make_model("olmoe", lora_rank=8, train=train, targets=("experts",))
    assert 0 < audit_one_run(model, releases(3.0), delta=DELTA).lower_bound < 3.0
    assert audit_one_run(model, releases(2.0), delta=DELTA, sensitivity=4.0).fires


def test_experts_whose_norms_are_not_counted_are_found(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("olmoe", lora_rank=8, targets=("experts",))
    sound = attribution._gram_squares
    monkeypatch.setattr(attribution, "_gram_squares", lambda kept: sound(kept) * 1e-3)
    assert audit_one_run(model, releases(2.0), delta=DELTA).fires


def test_a_site_of_a_lower_rank_can_be_audited(make_model: MakeModel) -> None:
    model = make_model("olmoe", lora_rank=32)
    for sensitivity, fires in ((1.0, False), (4.0, True)):
        found = audit_one_run(model, releases(2.0), delta=DELTA, rank=8, sensitivity=sensitivity)
        assert found.fires is fires


def test_the_audit_changes_nothing(model: nn.Module) -> None:
    before = read_adapter(model).digest
    audit_one_run(model, releases(2.0, num_steps=2), delta=DELTA, num_canaries=50)
    assert read_adapter(model).digest == before
    assert {pair.sink for pair in lora_pairs(model)} == {None}


# What the canaries are.


def clipped(model: nn.Module, num_canaries: int, chosen: list[int]) -> tuple[Tensor, Tensor]:
    """The sum of some canaries along all canaries' directions, and by itself."""
    units = made_up_canaries(64, num_canaries, seed=0)
    directions = Directions(model, num_canaries, rank=None, seed=0)
    # Few tokens a microbatch, so that a canary's place is not its number.
    with (
        PrivateGradients(model, clip_norm=0.5, max_tokens=40) as gradients,
        injected(model, directions, units, 0.5),
    ):
        summed = gradients.clipped_sum([[units[index]] for index in chosen])
    assert min(summed.norms) == pytest.approx(0.75, rel=1e-4)
    return directions.project(summed.total.double()) / 0.5, summed.total


@pytest.mark.parametrize(
    ("family", "targets", "train", "num_canaries"),
    [
        ("deepseek_v3", ("attention", "experts", "shared"), "AB", 60),
        ("gpt_oss", ("attention", "experts"), "B", 60),
        ("mixtral", ("experts",), "AB", 60),
        ("olmoe", ("attention",), "B", 60),
        ("olmoe", ("attention", "experts"), "AB", 1000),
    ],
)
def test_a_canary_counts_for_one_norm_in_its_own_direction_and_none_in_others(
    make_model: MakeModel, family: str, targets: tuple[str, ...], train: str, num_canaries: int
) -> None:
    model = make_model(family, lora_rank=32, train=train, targets=targets)
    chosen = list(range(0, num_canaries, 3))
    present_M, total = clipped(model, num_canaries, chosen)
    expected_M = torch.zeros(num_canaries, dtype=torch.float64)
    expected_M[chosen] = 1.0
    torch.testing.assert_close(present_M, expected_M, rtol=1e-4, atol=1e-6)
    assert float(total.norm()) == pytest.approx(0.5 * math.sqrt(len(chosen)), rel=1e-4)


@pytest.mark.parametrize("num_canaries", [60, 1000])
def test_half_of_a_canarys_coordinates_are_of_routed_experts(
    make_model: MakeModel, num_canaries: int
) -> None:
    model = make_model("olmoe", lora_rank=32, targets=("attention", "experts"))
    directions = Directions(model, num_canaries, rank=None, seed=0)
    routed = {
        id(p) for pair in lora_pairs(model) if pair.num_experts > 1 for p in (pair.a, pair.b)
    }
    places = directions._flat_MC
    assert len(places.unique()) == 4 * num_canaries
    ends = torch.tensor([p.numel() for p in trained_parameters(model)]).cumsum(0)
    is_routed = torch.tensor([id(p) in routed for p in trained_parameters(model)])
    num_routed = is_routed[torch.searchsorted(ends, places, right=True)].sum(1)
    assert num_routed.unique().tolist() == [2]


def test_evidence_is_the_logarithm_of_the_likelihood_ratio() -> None:
    present_M = torch.tensor([-3.0, 0.0, 0.4, 2.0], dtype=torch.float64)
    for rate in (0.2, 1.0):
        event = Event(1.3, rate, 1)

        def density(mean: float) -> Tensor:
            return torch.exp(-((present_M - mean) ** 2) / (2 * 1.3**2))

        expected_M = torch.log(((1 - rate) * density(0) + rate * density(1)) / density(0))
        torch.testing.assert_close(evidence(present_M, event), expected_M)


# What is refused.


def test_more_canaries_than_coordinates_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(TrainingError, match=r"1000 coordinates of one kind of layer, got \d+"):
        audit_one_run(make_model(), releases(2.0), delta=DELTA)


@pytest.mark.parametrize(
    "numbers", [{"num_canaries": 9}, {"sensitivity": 0.0}, {"sensitivity": math.nan}]
)
def test_impossible_numbers_are_refused(model: nn.Module, numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        audit_one_run(model, releases(2.0), delta=DELTA, **numbers)  # type: ignore[arg-type]


def test_an_audit_says_when_it_could_not_have_fired() -> None:
    found = CanaryAudit(
        claim=8.0, lower_bound=3.4, highest=3.46, num_canaries=1000, num_guesses=100, num_right=99
    )
    assert found.highest < found.claim
    assert not found.fires
