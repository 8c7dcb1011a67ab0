"""Experts under clipping: gradients are exact and bounded, however tokens are routed."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from model.adapter import trained_parameters
from model.grouped import Groups, outer
from model.lora import lora_pairs
from model.loss import base_of, collate, per_example_loss
from model.tokenizer import Example
from privacy.dp import attribution
from privacy.dp.attribution import Form, choose_form
from privacy.dp.engine import DEFAULT_MAX_TOKENS, PrivateGradients

MakeModel = Callable[..., nn.Module]
MakeUnits = Callable[..., list[list[Example]]]
FAMILIES = ("deepseek_v2", "deepseek_v3", "gpt_oss", "mixtral", "olmoe", "qwen3_moe")
TARGETS = {
    family: ("attention", "experts", "shared")
    if family.startswith("deepseek")
    else ("attention", "experts")
    for family in FAMILIES
}
LENGTHS = ((5,), (9, 4, 7), (12,), (3,), (6, 6), (15,))


def one_by_one(model: nn.Module, unit: Sequence[Example]) -> list[Tensor]:
    """A unit's gradient of each tensor, one example at a time, summed up by autograd."""
    parameters = trained_parameters(model)
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for example in unit:
        batch = collate([example])
        loss = per_example_loss(model, batch.input_ids, batch.attention_mask, batch.answer_mask)
        for total, gradient in zip(
            totals, torch.autograd.grad(loss.sum(), parameters), strict=True
        ):
            total += gradient
    return totals


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def check_every_parameter(
    model: nn.Module,
    units: list[list[Example]],
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    tolerance: float = 1e-5,
) -> None:
    """Each unit alone and all together, parameter by parameter, against the loop."""
    expected = [one_by_one(model, unit) for unit in units]
    norms = [float(flat(gradient).norm()) for gradient in expected]
    clip_norm = sorted(norms)[len(norms) // 2]
    with PrivateGradients(model, clip_norm=clip_norm, max_tokens=max_tokens) as gradients:
        summed = gradients.clipped_sum(units)
        found = gradients.split(summed.total)
    assert summed.norms == pytest.approx(norms, rel=tolerance)
    factors = [min(1.0, clip_norm / norm) for norm in norms]
    for index, tensor in enumerate(found):
        clipped = [
            factor * gradient[index] for factor, gradient in zip(factors, expected, strict=True)
        ]
        total = torch.stack(clipped).sum(0)
        scale = float(torch.stack(clipped).abs().max())
        torch.testing.assert_close(tensor, total, rtol=tolerance, atol=tolerance * scale)


@pytest.fixture(params=[None, *Form], ids=["chosen", "products", "gram"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Form | None:
    """What a layer keeps: as the cost model says, and each form for every layer."""
    if request.param is not None:
        monkeypatch.setattr(attribution, "choose_form", lambda *_: request.param)
        # As small a piece as there is, so that pieces meet.
        monkeypatch.setattr(attribution, "_PIECE_VALUES", {"cpu": 1})
    return cast(Form | None, request.param)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("train", ["B", "AB"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_every_parameter_equal_a_loop_over_single_examples(
    make_model: MakeModel, make_units: MakeUnits, family: str, train: str
) -> None:
    model = make_model(family, targets=TARGETS[family], train=train)
    check_every_parameter(model, make_units(*LENGTHS))


@pytest.mark.parametrize("max_tokens", [1, 20, 45])
def test_gradients_are_exact_over_microbatches_and_units_longer_than_one(
    make_model: MakeModel, make_units: MakeUnits, max_tokens: int
) -> None:
    model = make_model(targets=TARGETS["deepseek_v3"], train="AB")
    check_every_parameter(model, make_units(*LENGTHS), max_tokens=max_tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_unit_of_many_records_is_clipped_as_one(
    make_model: MakeModel, make_units: MakeUnits, family: str, form: Form | None
) -> None:
    model = make_model(family, targets=("experts",))
    units = make_units((7,) * 20, (7,), (3, 4) * 6)
    with PrivateGradients(model, clip_norm=1e-4) as gradients:
        whole = gradients.clipped_sum(units)
        for unit in units:
            total = gradients.clipped_sum([unit]).total
            assert float(total.norm()) == pytest.approx(1e-4, rel=3e-5)
    expected = [float(flat(one_by_one(model, unit)).norm()) for unit in units]
    # Inner products of hundreds of rows, which nobody would choose, are rounded up by more.
    rel = 3e-5 if form is Form.GRAM else 1e-5
    assert whole.norms == pytest.approx(expected, rel=rel)


def route_to(monkeypatch: pytest.MonkeyPatch, choose: Callable[[Tensor], Tensor]) -> None:
    """Send every token where `choose` says, whatever the router thinks."""
    from model import experts

    sound = experts.make_route
    monkeypatch.setattr(
        experts, "make_route", lambda index_TK, **rest: sound(choose(index_TK), **rest)
    )


ROUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "all_on_one_expert": torch.zeros_like,
    "an_idle_expert": lambda index_TK: index_TK.clamp_min(1),
    "only_the_last_two": lambda index_TK: index_TK % 2 + 2,
    "by_position": lambda index_TK: (
        (torch.arange(len(index_TK))[:, None] + torch.arange(index_TK.shape[1])) % 4
    ),
}


# Families whose routing is forced, beside all forms on one family below.
@pytest.mark.parametrize("route", ["all_on_one_expert", "an_idle_expert"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_every_family_are_exact_on_one_expert_and_with_an_idle_one(
    make_model: MakeModel,
    make_units: MakeUnits,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    route: str,
) -> None:
    route_to(monkeypatch, ROUTES[route])
    model = make_model(family, targets=TARGETS[family], train="AB")
    # Ragged, one of many records, and one longer than the others together.
    check_every_parameter(model, make_units((5,), (3, 4, 7) * 2, (12,), (40,)))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("route", sorted(ROUTES))
def test_gradients_are_exact_however_tokens_are_routed(
    make_model: MakeModel,
    make_units: MakeUnits,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    if route != "by_position":
        route_to(monkeypatch, ROUTES[route])
        check_every_parameter(make_model("olmoe", targets=("experts",)), make_units(*LENGTHS))
        return
    # Experts that follow the place in the batch are what no base may do; alone they are the same.
    route_to(monkeypatch, ROUTES[route])
    check_every_parameter(make_model("olmoe", targets=("experts",)), make_units((9,)))


def test_an_idle_expert_has_no_gradient_and_noise_all_the_same(
    make_model: MakeModel, make_units: MakeUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    route_to(monkeypatch, torch.zeros_like)
    model = make_model("mixtral", targets=("experts",))
    with PrivateGradients(model, clip_norm=1.0) as gradients:
        summed = gradients.clipped_sum(make_units(*LENGTHS))
        released = gradients.release(summed, noise_multiplier=1.0, denominator=1.0)
        sums, noised = gradients.split(summed.total), gradients.split(released)
    for before, after in zip(sums, noised, strict=True):
        # B holds the experts innermost: (O, R * E).
        by_expert = before.view(len(before), -1, 4)
        assert by_expert[..., 0].any()
        assert not by_expert[..., 1:].any()
        assert bool((after.view(len(after), -1, 4) != 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_drawn_sums_to_zero_and_is_released_with_noise(
    make_model: MakeModel, family: str
) -> None:
    model = make_model(family, targets=TARGETS[family])
    with PrivateGradients(model, clip_norm=1.0) as gradients:
        summed = gradients.clipped_sum([])
        assert not summed.total.any()
        assert gradients.release(summed, noise_multiplier=1.0, denominator=1.0).all()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(
    "route", ["chosen", "all_on_one_expert", "an_idle_expert", "only_the_last_two"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_taking_any_unit_away_moves_the_sum_by_at_most_the_clipping_norm(
    make_model: MakeModel,
    make_units: MakeUnits,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    route: str,
) -> None:
    if route != "chosen":
        route_to(monkeypatch, ROUTES[route])
    model, units = make_model(family, targets=TARGETS[family]), make_units(*LENGTHS)
    with PrivateGradients(model, clip_norm=1e-3, max_tokens=40) as gradients:
        whole = gradients.clipped_sum(units)
        assert min(whole.norms) > 1e-3
        for index in range(len(units)):
            rest = gradients.clipped_sum(units[:index] + units[index + 1 :])
            move = float((whole.total - rest.total).norm()) / 1e-3
            assert 1 - 1e-4 <= move <= 1 + 1e-4


def test_rows_that_cancel_never_count_for_more_than_the_clipping_norm() -> None:
    """The worst a unit can do to a rounded norm: long rows whose sum is short."""
    generator = torch.Generator().manual_seed(0)
    for width, size in itertools.product((64, 2048), (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)):
        # All of one sign: rounding then does not cancel.
        half_SR = torch.rand(4, 8, generator=generator)
        half_SW = torch.rand(4, width, generator=generator)
        narrow = torch.cat([half_SR, -half_SR * (1 + size)])
        wide = torch.cat([half_SW, half_SW])
        ends = torch.tensor([8], dtype=torch.int32)
        groups = Groups(ends=ends, num_experts=1, num_units=1, num_rows=8)
        exact = narrow.double().t() @ wide.double()
        kept = attribution._Kept(0, Form.GRAM, groups, narrow, wide, [])
        norm = float(attribution._gram_squares(kept).sqrt())
        factor = min(1.0, 1e-3 / norm)
        contributed = outer((narrow * factor), wide, ends)
        assert norm >= float(exact.norm()) * (1 - 1e-6)
        assert float(contributed.norm()) <= 1e-3 * (1 + 1e-4)


def _gram_norm(narrow: Tensor, wide: Tensor) -> float:
    ends = torch.tensor([len(narrow)], dtype=torch.int32)
    groups = Groups(ends=ends, num_experts=1, num_units=1, num_rows=len(narrow))
    kept = attribution._Kept(0, Form.GRAM, groups, narrow, wide, [])
    return float(attribution._gram_squares(kept).sqrt())


@pytest.mark.parametrize("width", [512, 2048, 14336, 28672])
@pytest.mark.parametrize("ratio", [1.0, 1.3, 0.7071, 3.1])
def test_constant_rows_that_cancel_are_never_measured_too_short(width: int, ratio: float) -> None:
    """Rows of one value round the same way in every term of a sum."""
    for size in (1e-2, 1e-3, 1e-4):
        wide = torch.stack([torch.full((width,), 0.1), torch.full((width,), 0.1 * ratio)])
        narrow = torch.tensor([[1.0], [-(1 + size) / ratio]])
        exact = float((narrow.double().t() @ wide.double()).norm())
        assert _gram_norm(narrow, wide) >= exact


def test_rows_whose_squares_are_zero_in_float32_have_a_norm() -> None:
    wide, narrow = torch.full((2, 64), 2e-23), torch.full((2, 4), 3e17)
    exact = float((narrow.double().t() @ wide.double()).norm())
    assert _gram_norm(narrow, wide) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("num_columns", [1, 255, 256, 700, 100_000])
@pytest.mark.parametrize("size", [0.0, 1e-25, 1e-14, 1e-3, 1.0, 1e17, 1e20])
def test_norms_in_pieces_are_those_in_float64(num_columns: int, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    products = torch.rand(2, 3, num_columns, generator=generator)
    # One value over and over rounds the same way every time.
    products[0, 0] = 0.1
    products[1] *= size
    expected = torch.linalg.vector_norm(products, dim=2, dtype=torch.float64).square()
    found = attribution._squares(products)
    torch.testing.assert_close(found, expected, rtol=4e-5, atol=1e-30)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_norm_of_what_is_not_finite_is_not_and_of_others_is(value: float) -> None:
    products = torch.ones(1, 2, 300)
    products[0, 1, 299] = value
    found = attribution._squares(products)
    assert float(found[0, 0]) == pytest.approx(300, rel=1e-6)
    assert not math.isfinite(float(found[0, 1]))


def test_the_cheapest_form_follows_the_rows_of_a_group() -> None:
    def form(num_rows: int, num_groups: int, rank: int) -> Form:
        ends = torch.zeros(num_groups, dtype=torch.int32)
        groups = Groups(ends=ends, num_experts=1, num_units=num_groups, num_rows=num_rows)
        return choose_form(groups, rank)

    assert form(128 * 32, 32, 8) is Form.PRODUCTS
    assert form(16 * 2048, 2048, 8) is Form.PRODUCTS
    assert form(8 * 2048, 2048, 8) is Form.PRODUCTS
    assert form(7 * 2048, 2048, 8) is Form.GRAM
    assert form(2048, 2048, 64) is Form.GRAM


# Memory and types.


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing(
    make_model: MakeModel, make_units: MakeUnits, family: str
) -> None:
    model = make_model(family, targets=TARGETS[family], train="AB")
    base_of(model).activation_checkpointing_enable({"use_reentrant": False})
    recomputed = []
    # DeepSeek's first layer is dense.
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.experts")
    layer.register_forward_pre_hook(lambda *_: recomputed.append(1))
    with PrivateGradients(model, clip_norm=1.0) as gradients:
        gradients.clipped_sum(make_units((5,)))
    assert len(recomputed) == 2
    base_of(model).activation_checkpointing_disable()
    units = make_units(*LENGTHS)
    with PrivateGradients(model, clip_norm=1e-2) as gradients:
        expected = gradients.clipped_sum(units)
    base_of(model).activation_checkpointing_enable({"use_reentrant": False})
    with PrivateGradients(model, clip_norm=1e-2) as gradients:
        found = gradients.clipped_sum(units)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-8)
    with PrivateGradients(model, clip_norm=1e-3) as gradients:
        whole = gradients.clipped_sum(units).total
        for index in range(len(units)):
            rest = gradients.clipped_sum(units[:index] + units[index + 1 :]).total
            assert float((whole - rest).norm()) / 1e-3 <= 1 + 1e-4
    assert not any(module.training for module in model.modules())


def in_bfloat16(model: nn.Module) -> nn.Module:
    """The base in bfloat16, as `load_base` can load it; the adapter stays in float32."""
    factors = {id(p) for pair in lora_pairs(model) for p in (pair.a, pair.b)}
    for parameter in model.parameters():
        if id(parameter) not in factors:
            parameter.data = parameter.data.bfloat16()
    return model


@pytest.fixture(params=["base", "autocast"])
def bfloat16(request: pytest.FixtureRequest) -> Iterator[Callable[[nn.Module], nn.Module]]:
    if request.param == "base":
        yield in_bfloat16
        return
    with torch.autocast("cpu", torch.bfloat16):
        yield lambda model: model


@pytest.mark.parametrize("family", FAMILIES)
def test_with_bfloat16_activations_a_unit_moves_the_sum_by_one_clipping_norm(
    make_model: MakeModel,
    make_units: MakeUnits,
    bfloat16: Callable[[nn.Module], nn.Module],
    family: str,
) -> None:
    model = bfloat16(make_model(family, targets=TARGETS[family], train="AB"))
    units = make_units(*LENGTHS)
    expected = [flat(one_by_one(model, unit)) for unit in units]
    with PrivateGradients(model, clip_norm=1e-3, max_tokens=10_000) as gradients:
        whole = gradients.clipped_sum(units)
        assert whole.total.dtype == torch.float32
        assert whole.norms == pytest.approx([float(g.norm()) for g in expected], rel=0.05)
        for index in (1, 5):
            alone = gradients.clipped_sum([units[index]])
            assert float(alone.total.norm()) / 1e-3 == pytest.approx(1, abs=1e-4)
            # To the bit: nobody else is in its passes.
            assert alone.norms == [whole.norms[index]]
            rest = gradients.clipped_sum(units[:index] + units[index + 1 :])
            move = float((whole.total - rest.total).norm()) / 1e-3
            assert 1 - 1e-4 <= move <= 1 + 1e-4


def test_rows_are_let_go_where_only_products_are_needed(
    make_model: MakeModel, make_units: MakeUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "choose_form", lambda *_: Form.PRODUCTS)
    model = make_model(targets=TARGETS["deepseek_v3"], train="AB")
    with PrivateGradients(model, clip_norm=1.0) as gradients:
        gradients._backward(make_units((5,), (7,)))
        assert all(
            not kept.narrow.numel() and not kept.wide.numel() for kept in gradients._units._kept
        )
