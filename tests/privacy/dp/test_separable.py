"""What would let one unit change another's gradient: refused, and why it must be.

Each case is tried twice: the engine refuses it, and with the refusals taken out by hand the
neighbour test finds that a unit moves the clipped sum by more than the clipping norm.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from model import experts
from model.loss import Batch, base_of, collate, per_example_loss
from model.tokenizer import Example
from privacy.dp import engine
from privacy.dp.engine import ClippedSum, PrivateGradients
from privacy.errors import TrainingError

MakeModel = Callable[..., nn.Module]
MakeUnits = Callable[..., list[list[Example]]]
Break = Callable[[nn.Module, pytest.MonkeyPatch], None]
LENGTHS = ((5,), (9, 4), (12,), (3,), (6, 6), (15,))
PREFIX = "base_model.model.model.layers"


def capacity_limit(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens over an expert's capacity are dropped, counted over the batch."""
    base_of(model).config.expert_capacity = 12
    sound = experts.experts_forward

    def dropping(
        module: nn.Module, hidden_TD: Tensor, index_TK: Tensor, weights_TK: Tensor
    ) -> Tensor:
        chosen_SE = nn.functional.one_hot(index_TK.reshape(-1), 4)
        place_S = (chosen_SE.cumsum(0) * chosen_SE).sum(1)
        kept_TK = (place_S <= 12).view_as(index_TK)
        return sound(module, hidden_TD, index_TK, weights_TK * kept_TK)

    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS, experts.IMPLEMENTATION, dropping)


def balance_loss(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A term that compares the batch's use of the experts with an even one."""
    base_of(model).config.output_router_logits = True
    loads: list[Tensor] = []
    router = model.get_submodule(f"{PREFIX}.1.mlp.gate")
    router.register_forward_hook(lambda _m, _i, outputs: loads.append(outputs[0].softmax(-1)))

    def with_balance(model: nn.Module, *tensors: Tensor) -> Tensor:
        loads.clear()
        loss_B = per_example_loss(model, *tensors)
        share_E = loads[-1].reshape(-1, loads[-1].shape[-1]).mean(0)
        return loss_B + 200 * (share_E.square().sum() * len(share_E)) / len(loss_B)

    monkeypatch.setattr(engine, "per_example_loss", with_balance)


def moving_router_bias(model: nn.Module, _monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that follows the load of the microbatches before."""
    base_of(model).config.router_bias_update_rate = 5.0
    bias = model.get_buffer(f"{PREFIX}.1.mlp.gate.e_score_correction_bias")

    def follow(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        load_E = torch.bincount(inputs[1].reshape(-1), minlength=len(bias)).float()
        bias.add_(5.0 * torch.sign(load_E.mean() - load_E))

    model.get_submodule(f"{PREFIX}.1.mlp.experts").register_forward_pre_hook(follow)


def batch_normalisation(model: nn.Module, _monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose outputs depend on the batch's mean and variance."""
    norm = nn.BatchNorm1d(16, affine=False, track_running_stats=False)
    model.get_submodule(f"{PREFIX}.0").add_module("norm", norm)
    model.get_submodule(f"{PREFIX}.0.input_layernorm").register_forward_hook(
        lambda _m, _i, output: norm(output.flatten(0, 1)).view_as(output)
    )


def growing_rope(model: nn.Module, _monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary frequencies that follow the longest sequence beyond 4 tokens."""
    config = base_of(model).config
    config.max_position_embeddings = 4
    config.rope_parameters = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 100.0}
    backbone = base_of(model).get_submodule("model")
    rope: Any = type(backbone.rotary_emb)(config)
    # It remembers the longest so far; a process that never saw a longer one has forgotten it.
    rope.register_forward_pre_hook(lambda m, _: setattr(m, "max_seq_len_cached", 4))
    backbone.rotary_emb = rope


def packing(_model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sequence begins with the text of the one before it."""

    def packed(examples: Sequence[Example]) -> Batch:
        before = [examples[-1], *examples[:-1]]
        return collate(
            [
                Example([*b.input_ids, *e.input_ids], len(b.input_ids) + e.answer_start)
                for b, e in zip(before, examples, strict=True)
            ]
        )

    monkeypatch.setattr(engine, "collate", packed)


def largest_move(
    model: nn.Module, units: list[list[Example]], total: Callable[[ClippedSum], Tensor]
) -> float:
    with PrivateGradients(model, clip_norm=1e-3, max_tokens=60) as gradients:
        moves = []
        for index in range(len(units)):
            buffers = {name: b.clone() for name, b in model.named_buffers()}
            whole = total(gradients.clipped_sum(units))
            _restore(model, buffers)
            rest = total(gradients.clipped_sum(units[:index] + units[index + 1 :]))
            _restore(model, buffers)
            moves.append(float((whole - rest).norm()) / 1e-3)
    return max(moves)


def _restore(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


REFUSED: dict[str, tuple[Break, str]] = {
    "capacity": (capacity_limit, "without a capacity limit, got expert_capacity"),
    "balance": (balance_loss, "without a balance loss over the batch, got output_router_logits"),
    "bias": (moving_router_bias, "bias does not follow the batch, got router_bias_update_rate"),
    "rope": (growing_rope, "rotary positions of fixed frequencies, got dynamic"),
    "batchnorm": (batch_normalisation, "keep examples apart, got BatchNorm1d"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_couples_units_is_refused(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    model = make_model(targets=("attention", "experts"))
    unsound, message = REFUSED[case]
    unsound(model, monkeypatch)
    with pytest.raises(TrainingError, match=message):
        PrivateGradients(model, clip_norm=1.0)


@pytest.mark.parametrize("case", ["none", "packing", *sorted(REFUSED)])
def test_without_the_refusal_a_unit_moves_the_sum_by_more_than_the_clipping_norm(
    make_model: MakeModel, make_units: MakeUnits, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    model = make_model(targets=("attention", "experts"))
    unsound = {name: entry[0] for name, entry in REFUSED.items()} | {"packing": packing}
    if case != "none":
        unsound[case](model, monkeypatch)
    monkeypatch.setattr(engine, "check_separable", lambda _model: None)
    found = largest_move(model, make_units(*LENGTHS), lambda summed: summed.total)
    assert (found > 1.0001) == (case != "none")


def test_two_examples_in_one_sequence_are_refused(
    make_model: MakeModel, make_units: MakeUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def joined(examples: Sequence[Example]) -> Batch:
        ids = [token for example in examples for token in example.input_ids]
        return collate([Example(ids, examples[0].answer_start)])

    monkeypatch.setattr(engine, "collate", joined)
    with (
        PrivateGradients(make_model(), clip_norm=1.0) as gradients,
        pytest.raises(TrainingError, match="a sequence for each of 2 examples, got 1"),
    ):
        gradients.clipped_sum(make_units((5,), (7,)))


def test_a_tensor_beside_the_plans_list_would_leave_unclipped(
    make_model: MakeModel, make_units: MakeUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(targets=("attention", "experts"))
    weight = model.get_parameter("base_model.model.model.norm.weight").requires_grad_()
    with pytest.raises(TrainingError, match=r"adapter only, got .*model\.norm"):
        PrivateGradients(model, clip_norm=1.0)
    monkeypatch.setattr(engine, "check_separable", lambda _model: None)

    def left_in_grad(_summed: ClippedSum) -> Tensor:
        assert weight.grad is not None
        gradient, weight.grad = weight.grad, None
        return gradient

    assert largest_move(model, make_units(*LENGTHS), left_in_grad) > 1.0001


@pytest.fixture
def _precision() -> Iterator[None]:
    yield
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")


def by_the_old_setting(value: str) -> None:
    torch.set_float32_matmul_precision(value)


def by_a_backend(value: str) -> None:
    # Then torch.get_float32_matmul_precision raises.
    torch.backends.cuda.matmul.fp32_precision = value


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize(
    ("set_precision", "value", "found"),
    [
        (by_the_old_setting, "high", "tf32 on cuda"),
        (by_the_old_setting, "medium", "tf32 on cuda"),
        (by_a_backend, "tf32", "tf32 on cuda"),
    ],
)
def test_products_of_less_than_float32_are_refused(
    make_model: MakeModel, set_precision: Callable[[str], None], value: str, found: str
) -> None:
    model = make_model()
    set_precision(value)
    with pytest.raises(TrainingError, match=f"products of float32, got {found}") as refused:
        PrivateGradients(model, clip_norm=1.0)
    assert "torch.backends.fp32_precision" in refused.value.hint


@pytest.mark.usefixtures("_precision")
def test_products_of_bfloat16_on_the_cpu_are_refused_and_of_float32_are_not(
    make_model: MakeModel,
) -> None:
    model = make_model()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="got bf16 on mkldnn"):
        PrivateGradients(model, clip_norm=1.0)
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    PrivateGradients(model, clip_norm=1.0).close()


def test_noise_in_bfloat16_is_refused(make_model: MakeModel) -> None:
    with PrivateGradients(make_model(), clip_norm=1.0) as gradients:
        summed = gradients.clipped_sum([])
        halved = ClippedSum(summed.total.bfloat16(), summed.norms, summed.loss)
        with pytest.raises(TrainingError, match=r"float32 to add noise to, got torch\.bfloat16"):
            gradients.release(halved, noise_multiplier=1.0, denominator=1.0)


def test_experts_that_do_not_see_every_token_are_refused(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model = make_model("mixtral", targets=("experts",))
    experts_module = model.get_submodule(f"{PREFIX}.1.mlp.experts")
    experts_module.register_forward_pre_hook(
        lambda _m, inputs: tuple(tensor[:-1] for tensor in inputs)
    )
    with (
        PrivateGradients(model, clip_norm=1.0) as gradients,
        pytest.raises(TrainingError, match="experts to see all"),
    ):
        gradients.clipped_sum(make_units((5,), (7,)))
