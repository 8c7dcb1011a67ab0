"""A private step: exact gradients, clipping per unit, noise of the right size, honest draws."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.adapter import read_adapter, set_trained, trained_parameters
from model.config import Target
from model.factors import factor_of, leading_mask
from model.lora import lora_pairs
from model.loss import base_of, collate, per_example_loss
from model.tokenizer import Example
from privacy.dp.attribution import clip_factors
from privacy.dp.engine import PrivateGradients, check_separable, draw_noise, draw_units
from privacy.errors import TrainingError

MakeModel = Callable[..., nn.Module]
MakeUnits = Callable[..., list[list[Example]]]
LENGTHS = ((5,), (9, 4, 7), (12,), (3,), (6, 6), (15,))


def one_by_one(model: nn.Module, unit: Sequence[Example]) -> Tensor:
    """A unit's gradient, one example at a time and without any hook."""
    parameters = trained_parameters(model)
    total = torch.zeros(sum(parameter.numel() for parameter in parameters))
    for example in unit:
        batch = collate([example])
        loss = per_example_loss(model, batch.input_ids, batch.attention_mask, batch.answer_mask)
        gradients = torch.autograd.grad(loss.sum(), parameters)
        total += torch.cat([gradient.flatten() for gradient in gradients])
    return total


# Gradients and clipping.


@pytest.mark.parametrize("train", ["B", "AB"])
@pytest.mark.parametrize(
    "family", ["deepseek_v2", "deepseek_v3", "gpt_oss", "mixtral", "olmoe", "qwen3_moe"]
)
def test_unit_gradients_equal_a_loop_over_single_examples(
    make_model: MakeModel, make_units: MakeUnits, family: str, train: str
) -> None:
    model, units = make_model(family, train=train), make_units(*LENGTHS)
    expected = [one_by_one(model, unit) for unit in units]
    with PrivateGradients(model, clip_norm=1e6) as gradients:
        summed = gradients.clipped_sum(units)
    assert summed.norms == pytest.approx([float(g.norm()) for g in expected], rel=1e-4)
    torch.testing.assert_close(summed.total, sum(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 8, 20, 10_000])
def test_the_sum_does_not_depend_on_the_microbatches(
    make_model: MakeModel, make_units: MakeUnits, max_tokens: int
) -> None:
    model, units = make_model(), make_units(*LENGTHS)
    clip_norm = 0.01
    expected = torch.zeros(0)
    for unit in units:
        gradient = one_by_one(model, unit)
        clipped = gradient * min(1.0, clip_norm / float(gradient.norm()))
        expected = clipped if not len(expected) else expected + clipped
    with PrivateGradients(model, clip_norm=clip_norm, max_tokens=max_tokens) as gradients:
        total = gradients.clipped_sum(units).total
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "family", ["deepseek_v2", "deepseek_v3", "gpt_oss", "mixtral", "olmoe", "qwen3_moe"]
)
def test_taking_any_unit_away_moves_the_sum_by_at_most_the_clipping_norm(
    make_model: MakeModel, make_units: MakeUnits, family: str
) -> None:
    model, units = make_model(family), make_units(*LENGTHS)
    with PrivateGradients(model, clip_norm=1e-3, max_tokens=40) as gradients:
        whole = gradients.clipped_sum(units)
        assert min(whole.norms) > 1e-3
        for index in range(len(units)):
            rest = gradients.clipped_sum(units[:index] + units[index + 1 :])
            assert float((whole.total - rest.total).norm()) == pytest.approx(1e-3, rel=1e-4)


def test_a_unit_with_many_records_counts_no_more_than_one_with_a_single_record(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model = make_model()
    with PrivateGradients(model, clip_norm=1e-4, max_tokens=30) as gradients:
        for unit in (make_units((7,)), make_units((7,) * 50)):
            total = gradients.clipped_sum(unit).total
            assert float(total.norm()) == pytest.approx(1e-4, rel=1e-5)


def test_a_gradient_below_the_clipping_norm_is_left_as_it_is(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model, units = make_model(), make_units((7,))
    with PrivateGradients(model, clip_norm=1e6) as gradients:
        total = gradients.clipped_sum(units).total
    torch.testing.assert_close(total, one_by_one(model, units[0]), rtol=1e-4, atol=1e-6)


def test_nobody_drawn_sums_to_zero(make_model: MakeModel) -> None:
    with PrivateGradients(make_model(), clip_norm=1.0) as gradients:
        summed = gradients.clipped_sum([])
    assert not summed.total.any()
    assert math.isnan(summed.loss)


@given(
    norms=st.lists(st.floats(1e-30, 1e18), min_size=1, max_size=6),
    clip_norm=st.floats(1e-6, 1e6),
)
@settings(deadline=None)
def test_no_row_is_longer_than_the_clipping_norm(norms: list[float], clip_norm: float) -> None:
    norms_U = torch.tensor(norms, dtype=torch.float64)
    clipped_U = norms_U * clip_factors(norms_U, clip_norm).float()
    assert float(clipped_U.max()) <= clip_norm * (1 + 1e-6)
    torch.testing.assert_close(clipped_U[norms_U <= clip_norm], norms_U[norms_U <= clip_norm])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("targets", [("attention",), ("attention", "experts")])
def test_a_unit_whose_gradient_is_not_finite_contributes_nothing(
    make_model: MakeModel, make_units: MakeUnits, value: float, targets: tuple[str, ...]
) -> None:
    model, units = make_model(targets=targets), make_units((7,), (9,), (7,))
    # Only the second unit has the last token.
    units[1][0].input_ids[4] = 63
    for unit in (units[0], units[2]):
        unit[0].input_ids[:] = [min(token, 62) for token in unit[0].input_ids]
    with PrivateGradients(model, clip_norm=0.01) as gradients:
        expected = gradients.clipped_sum([units[0], units[2]]).total
        cast(nn.Embedding, base_of(model).get_input_embeddings()).weight.data[63] = value
        summed = gradients.clipped_sum(units)
    assert not math.isfinite(summed.norms[1])
    torch.testing.assert_close(summed.total, expected, rtol=1e-4, atol=1e-8)


def test_the_adapters_dropout_is_drawn_and_the_bases_stays_off(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model, units = make_model(lora_dropout=0.5), make_units((9,), (9,))
    with PrivateGradients(model, clip_norm=1e6) as gradients:
        assert any(isinstance(m, nn.Dropout) and m.training for m in model.modules())
        base_dropout = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Dropout) and ".lora_" not in name
        ]
        assert not any(module.training for module in base_dropout)
        first, second = gradients.clipped_sum(units), gradients.clipped_sum(units)
    assert not torch.equal(first.total, second.total)


def test_dropout_does_not_follow_the_generator_that_everybody_knows(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model, units = make_model(lora_dropout=0.5), make_units((9,), (9,))
    with PrivateGradients(model, clip_norm=1e6) as gradients:
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = gradients.clipped_sum(units)
        # Nor is it moved, from which the number of passes could be read.
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(0)
        assert not torch.equal(gradients.clipped_sum(units).total, first.total)


@pytest.mark.parametrize("max_tokens", [20, 10_000])
def test_alone_no_digit_of_a_gradient_depends_on_others(
    make_model: MakeModel, make_units: MakeUnits, max_tokens: int
) -> None:
    model, units = make_model("olmoe"), make_units(*LENGTHS)
    with PrivateGradients(model, clip_norm=1e-3, alone=True, max_tokens=max_tokens) as gradients:
        whole = gradients.clipped_sum(units)
        assert whole.norms == [gradients.clipped_sum([unit]).norms[0] for unit in units]
    with PrivateGradients(model, clip_norm=1e-3, max_tokens=max_tokens) as gradients:
        expected = gradients.clipped_sum(units)
    torch.testing.assert_close(whole.total, expected.total, rtol=1e-4, atol=1e-8)


def test_closing_leaves_the_model_as_it_was(make_model: MakeModel, make_units: MakeUnits) -> None:
    model = make_model()
    before = {name: module.training for name, module in model.named_modules()}
    with PrivateGradients(model, clip_norm=1.0) as gradients:
        gradients.clipped_sum(make_units((5,)))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(pair.sink is None for pair in lora_pairs(model))
    assert all(parameter.grad is None for parameter in model.parameters())


# Noise.


def released(model: nn.Module, units: list[list[Example]], **changes: float) -> Tensor:
    numbers = {"noise_multiplier": 2.0, "denominator": 4.0, **changes}
    with PrivateGradients(model, clip_norm=0.5) as gradients:
        return gradients.release(gradients.clipped_sum(units), **numbers)


def test_noise_has_the_stated_standard_deviation_also_when_nobody_was_drawn(
    make_model: MakeModel,
) -> None:
    noise = torch.cat([released(make_model(), []) for _ in range(20)]).double()
    # Standard deviation 2.0 * 0.5 / 4.0; five standard errors.
    size = len(noise)
    assert float(noise.std()) == pytest.approx(0.25, rel=5 / math.sqrt(2 * size))
    assert abs(float(noise.mean())) < 5 * 0.25 / math.sqrt(size)


def test_the_denominator_is_fixed_and_not_how_many_were_drawn(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model, units = make_model(), make_units((7,), (8,))
    got = released(model, units, noise_multiplier=1e-9, denominator=10.0)
    with PrivateGradients(model, clip_norm=0.5) as gradients:
        summed = gradients.clipped_sum(units)
    torch.testing.assert_close(got, summed.total / 10.0, rtol=1e-4, atol=1e-8)


def test_two_releases_of_the_same_units_differ(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model, units = make_model(), make_units((7,))
    assert not torch.equal(released(model, units), released(model, units))


def test_seeding_every_generator_does_not_repeat_noise_or_draws() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  the global generator is what must not matter
        drawn.append((draw_noise(8).tolist(), draw_units(500, 0.5)))
    assert drawn[0] != drawn[1]
    assert drawn[0][0] != drawn[1][0]


def test_noise_is_normal() -> None:
    noise = draw_noise(200_000)
    assert noise.dtype == np.float64
    assert abs(noise.mean()) < 0.012
    assert noise.std() == pytest.approx(1, abs=0.008)
    # Shares beyond one, two and three standard deviations, within five standard errors.
    for bound, share in ((1, 0.31731), (2, 0.04550), (3, 0.0026998)):
        error = math.sqrt(share * (1 - share) / len(noise))
        assert np.mean(np.abs(noise) > bound) == pytest.approx(share, abs=5 * error)
    assert len(np.unique(noise)) == len(noise)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_noise_has_the_size_that_was_asked_for(size: int) -> None:
    assert draw_noise(size).shape == (size,)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"denominator": 0.0},
        {"denominator": math.nan},
    ],
)
def test_a_release_without_noise_or_denominator_is_refused(
    make_model: MakeModel, changes: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match="expected 0 <"):
        released(make_model(), [], **changes)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, 1e-10, math.nan, math.inf])
def test_a_clipping_norm_that_norms_cannot_be_compared_with_is_refused(
    make_model: MakeModel, clip_norm: float
) -> None:
    with pytest.raises(ValueError, match="<= clip_norm < infinity"):
        PrivateGradients(make_model(), clip_norm=clip_norm)


# Draws.


def test_each_unit_is_drawn_with_the_sample_rate_independently() -> None:
    counts = np.zeros(50)
    sizes = []
    for _ in range(2000):
        drawn = draw_units(50, 0.3)
        counts[drawn] += 1
        sizes.append(len(drawn))
    assert np.all(np.abs(counts / 2000 - 0.3) < 6 * math.sqrt(0.21 / 2000))
    # A shuffled batch has a fixed size; independent draws vary as a binomial does.
    assert np.var(sizes) == pytest.approx(50 * 0.21, rel=0.25)


def test_a_sample_rate_of_one_draws_everybody() -> None:
    assert draw_units(100, 1.0) == list(range(100))


def test_a_tiny_sample_rate_draws_nobody_now_and_then() -> None:
    assert [] in [draw_units(10, 0.001) for _ in range(20)]


@pytest.mark.parametrize("sample_rate", [0.0, -0.1, 1.1, math.nan])
def test_an_impossible_sample_rate_is_refused(sample_rate: float) -> None:
    with pytest.raises(ValueError, match="sample_rate"):
        draw_units(10, sample_rate)


# Models that cannot be trained privately.


def test_batch_normalisation_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    model.add_module("norm", nn.BatchNorm1d(4))
    with pytest.raises(TrainingError, match="BatchNorm1d at norm"):
        check_separable(model)


@pytest.mark.parametrize("field", ["expert_capacity", "capacity_factor"])
def test_a_capacity_limit_of_the_experts_is_refused(make_model: MakeModel, field: str) -> None:
    model = make_model()
    setattr(model.get_submodule("base_model.model").config, field, 64)
    with pytest.raises(TrainingError, match=f"got {field}"):
        check_separable(model)


def test_a_trainable_tensor_beside_the_adapter_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    head = model.get_submodule("base_model.model.model.layers.0.self_attn.o_proj.base_layer")
    head.requires_grad_(requires_grad=True)
    with pytest.raises(TrainingError, match="the adapter only"):
        check_separable(model)


def test_a_trainable_tensor_of_another_layer_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    model.get_submodule("base_model.model.model.norm").requires_grad_(requires_grad=True)
    with pytest.raises(TrainingError, match=r"adapter only, got .*model\.norm"):
        check_separable(model)


def test_an_adapter_in_bfloat16_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(TrainingError, match="float32"):
        check_separable(make_model().bfloat16())


def test_a_model_with_nothing_to_train_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(TrainingError, match="nothing trainable"):
        check_separable(make_model().requires_grad_(requires_grad=False))


def test_an_adapted_layer_that_takes_no_part_is_refused(
    make_model: MakeModel, make_units: MakeUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    adapted = model.get_submodule("base_model.model.model.layers.1.self_attn.o_proj")
    monkeypatch.setattr(adapted, "forward", adapted.get_submodule("base_layer").forward)
    with (
        PrivateGradients(model, clip_norm=1.0) as gradients,
        pytest.raises(TrainingError, match="one gradient an example"),
    ):
        gradients.clipped_sum(make_units((5,)))


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_clipping_norm_is_refused(make_model: MakeModel, clip_norm: float) -> None:
    with pytest.raises(ValueError, match="clip_norm"):
        PrivateGradients(make_model(), clip_norm=clip_norm)


# A site of a lower rank, and one factor a round.


def of_round(model: nn.Module, factor: str) -> None:
    """Have one factor train, as in a round."""
    specs = read_adapter(model).specs
    set_trained(model, [replace(s, trained=factor_of(s.name) == factor) for s in specs])


def leading(model: nn.Module, rank: int) -> Tensor:
    """Which values of an update a site of this rank trains, as the door computes it."""
    specs = [spec for spec in read_adapter(model).specs if spec.trained]
    return torch.from_numpy(leading_mask(specs, 3, rank))


TARGETS: tuple[Target, ...] = ("attention", "experts")


@pytest.mark.parametrize("max_tokens", [1, 10_000])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("family", ["gpt_oss", "olmoe"])
def test_a_lower_rank_has_the_gradients_of_the_first_terms_and_no_other(
    make_model: MakeModel,
    make_units: MakeUnits,
    family: str,
    factor: str,
    rank: int,
    max_tokens: int,
) -> None:
    model = make_model(family, train="AB", targets=TARGETS, lora_rank=3)
    of_round(model, factor)
    units, mask = make_units(*LENGTHS), leading(model, rank)
    expected = [one_by_one(model, unit) * mask for unit in units]
    with PrivateGradients(model, clip_norm=1e6, rank=rank, max_tokens=max_tokens) as gradients:
        summed = gradients.clipped_sum(units)
    assert summed.norms == pytest.approx([float(g.norm()) for g in expected], rel=1e-4)
    torch.testing.assert_close(summed.total, sum(expected), rtol=1e-4, atol=1e-6)
    assert not summed.total[~mask].any()


@pytest.mark.parametrize("rank", [None, 1, 2])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_taking_a_unit_away_moves_the_sum_of_a_round_by_one_clipping_norm(
    make_model: MakeModel, make_units: MakeUnits, factor: str, rank: int | None
) -> None:
    model = make_model(train="AB", targets=TARGETS, lora_rank=3)
    of_round(model, factor)
    units, clip_norm = make_units(*LENGTHS), 1e-3
    with PrivateGradients(model, clip_norm=clip_norm, rank=rank) as gradients:
        whole = gradients.clipped_sum(units)
        assert min(whole.norms) > clip_norm
        moves = [
            float((whole.total - gradients.clipped_sum(units[:i] + units[i + 1 :]).total).norm())
            for i in range(len(units))
        ]
    # Not less either: what a site does not train takes nothing of the norm.
    assert moves == pytest.approx([clip_norm] * len(units), rel=1e-3)


@pytest.mark.parametrize("factor", ["A", "B"])
def test_noise_is_where_a_site_trains_and_nowhere_else(make_model: MakeModel, factor: str) -> None:
    model = make_model(train="AB", targets=TARGETS, lora_rank=3)
    of_round(model, factor)
    mask = leading(model, 2)
    with PrivateGradients(model, clip_norm=0.5, rank=2) as gradients:
        values = gradients.release(
            gradients.clipped_sum([]), noise_multiplier=3.0, denominator=10.0
        )
    assert (values[mask] != 0).all()
    assert not values[~mask].any()
    num_values = int(mask.sum())
    assert float(values[mask].std()) == pytest.approx(0.15, rel=5 / math.sqrt(2 * num_values))


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_that_the_adapter_has_not_is_refused(make_model: MakeModel, rank: int) -> None:
    model = make_model(lora_rank=3)
    with pytest.raises(ValueError, match="expected 1 <= rank <= 3"):
        PrivateGradients(model, clip_norm=1.0, rank=rank)
    assert {pair.sink for pair in lora_pairs(model)} == {None}


def test_an_adapter_of_rank_one_has_the_gradients_of_a_loop(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model = make_model("olmoe", train="AB", targets=("experts",), lora_rank=1)
    units = make_units(*LENGTHS)
    expected = [one_by_one(model, unit) for unit in units]
    with PrivateGradients(model, clip_norm=1e6) as gradients:
        summed = gradients.clipped_sum(units)
    torch.testing.assert_close(summed.total, sum(expected), rtol=1e-4, atol=1e-6)
