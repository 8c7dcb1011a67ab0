"""That an example's loss and gradient are its own."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from model.adapter import inject_adapter, trained_parameters
from model.base import load_base
from model.config import AdapterConfig
from model.loss import LOSS_DENOMINATOR, collate, per_example_loss
from model.tokenizer import Example

EXAMPLES = [
    Example([1, 40, 41, 42, 43, 2], 4),
    Example([1, 50, 51, 52, 53, 54, 55, 56, 57, 58, 2], 5),
    Example([1, 60, 2], 1),
]


def losses(model: torch.nn.Module, examples: list[Example]) -> torch.Tensor:
    batch = collate(examples)
    return per_example_loss(model, batch.input_ids, batch.attention_mask, batch.answer_mask)


def test_a_loss_is_the_answers_sum_over_a_constant(folder: Path) -> None:
    model, _ = load_base(folder, None)
    found = losses(model, EXAMPLES)
    for example, loss in zip(EXAMPLES, found, strict=True):
        ids = torch.tensor(example.input_ids)
        logits = model(ids[None]).logits[0]
        nll = functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        expected = nll[example.answer_start - 1 :].sum() / LOSS_DENOMINATOR
        torch.testing.assert_close(loss, expected)
    assert found.dtype == torch.float32


def test_an_examples_loss_and_gradient_are_the_same_alone_or_in_a_batch(folder: Path) -> None:
    model = inject_adapter(load_base(folder, None)[0], AdapterConfig(lora_rank=2, lora_alpha=4.0))
    parameters = trained_parameters(model)
    in_batch = losses(model, EXAMPLES)
    for index, example in enumerate(EXAMPLES):
        alone = losses(model, [example])
        torch.testing.assert_close(in_batch[index], alone[0])
        from_batch = torch.autograd.grad(in_batch[index], parameters, retain_graph=True)
        from_alone = torch.autograd.grad(alone[0], parameters)
        for first, second in zip(from_batch, from_alone, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_every_trained_tensor_gets_a_gradient(folder: Path) -> None:
    model = inject_adapter(load_base(folder, None)[0], AdapterConfig(lora_rank=2, lora_alpha=4.0))
    losses(model, EXAMPLES).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in trained_parameters(model))
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_padding_tokens_may_be_anything(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None)
    batch = collate(EXAMPLES, pad_id=0)
    other = collate(EXAMPLES, pad_id=77)
    first = per_example_loss(model, batch.input_ids, batch.attention_mask, batch.answer_mask)
    second = per_example_loss(model, other.input_ids, other.attention_mask, other.answer_mask)
    torch.testing.assert_close(first, second)


def test_an_example_without_answer_tokens_has_no_loss(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None)
    batch = collate(EXAMPLES)
    nothing = torch.zeros_like(batch.answer_mask)
    found = per_example_loss(model, batch.input_ids, batch.attention_mask, nothing)
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_padding_on_the_left_is_refused(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None)
    batch = collate(EXAMPLES)
    with pytest.raises(ValueError, match="right"):
        per_example_loss(model, batch.input_ids, batch.attention_mask.flip(1), batch.answer_mask)


def test_an_answer_that_reaches_into_padding_is_refused(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None)
    batch = collate(EXAMPLES)
    everywhere = torch.ones_like(batch.answer_mask)
    with pytest.raises(ValueError, match="answers"):
        per_example_loss(model, batch.input_ids, batch.attention_mask, everywhere)


def test_no_examples_make_no_batch() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([])
