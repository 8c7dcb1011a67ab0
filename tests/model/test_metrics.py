"""That the quick way to loss and accuracy gives what the slow one gives."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import MixtralConfig, PreTrainedTokenizerBase

from model.base import load_base
from model.loss import LOSS_DENOMINATOR, collate, per_example_loss
from model.metrics import Quality, answer_nll, evaluate, label_scores
from model.tokenizer import Example, encode

PROMPTS = [[1, 40, 41, 42], [1, 50], [1, 60, 61, 62, 63, 64, 65]]
# Common beginnings, one the beginning of another, a single token, two alike.
CANDIDATES = [[70, 71, 2], [70, 71, 72, 2], [70, 2], [80], [81, 82, 83, 2], [70, 71, 2]]


@dataclass(frozen=True)
class Text:
    """A text format, as a plan holds it."""

    prompt_template: str = "{prompt}\nLabel:"
    max_tokens: int = 48


def one_by_one(
    model: torch.nn.Module, prompts: list[list[int]], candidates: list[list[int]]
) -> torch.Tensor:
    rows = []
    for prompt in prompts:
        batches = [collate([Example(prompt + ids, len(prompt))]) for ids in candidates]
        rows.append(
            [
                per_example_loss(model, b.input_ids, b.attention_mask, b.answer_mask).item()
                for b in batches
            ]
        )
    return torch.tensor(rows) * LOSS_DENOMINATOR


@pytest.mark.parametrize("implementation", [("eager", "eager"), ("sdpa", "grouped_mm")])
def test_scores_are_what_a_pass_per_candidate_gives(
    folder: Path, implementation: tuple[str, str]
) -> None:
    model, _ = load_base(folder, None)
    if implementation[0] == "eager" or model._supports_sdpa:
        model.set_attn_implementation(implementation[0])
    model.set_experts_implementation(implementation[1])
    with torch.no_grad():
        expected = one_by_one(model, PROMPTS, CANDIDATES)
    scores = label_scores(model, PROMPTS, CANDIDATES, autocast=False)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_scores_in_bfloat16_are_close(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None)
    exact = label_scores(model, PROMPTS, CANDIDATES, autocast=False)
    rough = label_scores(model, PROMPTS, CANDIDATES)
    assert ((exact - rough).abs() / exact).max() < 0.05


def test_many_candidates_are_scored_in_several_trees(
    nano_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_base(nano_like, None)
    whole = label_scores(model, PROMPTS, CANDIDATES, autocast=False)
    monkeypatch.setattr("model.metrics._MAX_NODES", 4)
    monkeypatch.setattr("model.metrics._BATCH_TOKENS", 8)
    parts = label_scores(model, PROMPTS, CANDIDATES, autocast=False)
    torch.testing.assert_close(whole, parts)


def test_an_empty_prompt_or_candidate_is_refused(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None)
    with pytest.raises(ValueError, match="at least one token"):
        label_scores(model, [[]], CANDIDATES)
    with pytest.raises(ValueError, match="at least one token"):
        label_scores(model, PROMPTS, [[]])


def test_a_base_with_a_short_attention_window_is_refused(folders: dict[str, Path]) -> None:
    model, _ = load_base(folders["mixtral"], None)
    assert isinstance(model.config, MixtralConfig)
    model.config.sliding_window = 4
    with pytest.raises(ValueError, match="at most 4 tokens"):
        label_scores(model, PROMPTS, CANDIDATES)


def test_the_loss_of_an_answer_is_its_whole_sum(folder: Path) -> None:
    model, _ = load_base(folder, None)
    examples = [Example(prompt + CANDIDATES[1], len(prompt)) for prompt in PROMPTS]
    with torch.no_grad():
        expected = one_by_one(model, PROMPTS, CANDIDATES[1:2])[:, 0]
    found = answer_nll(model, examples, autocast=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_rivals", [1, 3, 99])
def test_loss_and_accuracy_are_those_of_all_scores(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
    num_rivals: int,
) -> None:
    monkeypatch.setattr("model.metrics._FIRST_RIVALS", num_rivals)
    model, _ = load_base(folder, None)
    candidates = ["a", "b", "ab", "heart", "card", "card payment"]
    prompts = [f"record {number}: {'x' * number}" for number in range(24)]
    answers = [encode(tokenizer, "", label, Text()) for label in candidates]
    ids = [answer.input_ids[answer.answer_start :] for answer in answers]
    encoded = [encode(tokenizer, prompt, "card payment", Text()) for prompt in prompts]
    scores = label_scores(
        model, [e.input_ids[: e.answer_start] for e in encoded], ids, autocast=False
    )
    # Half of the labels are what the model would choose, so that both outcomes are met.
    truths = [
        int(row.argmin()) if number % 2 else number // 2 % 6 for number, row in enumerate(scores)
    ]
    found = evaluate(
        model,
        tokenizer,
        [(prompt, candidates[truth]) for prompt, truth in zip(prompts, truths, strict=True)],
        candidates,
        Text(),
        autocast=False,
    )
    right = [int(row.argmin()) == truth for row, truth in zip(scores, truths, strict=True)]
    assert found.accuracy == sum(right) / len(right)
    assert 0 < found.accuracy < 1
    losses = scores[range(len(truths)), truths]
    assert found.loss == pytest.approx(losses.mean().item(), rel=1e-4)
    assert found.num_examples == 24


def test_a_label_that_is_no_candidate_has_a_loss_and_is_missed(
    nano_like: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    model, _ = load_base(nano_like, None)
    found = evaluate(model, tokenizer, [("a record", "unseen")], ["a"], Text())
    assert isinstance(found, Quality)
    assert found.accuracy == 0.0
    assert found.loss > 0


def test_the_only_candidate_is_chosen(nano_like: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model, _ = load_base(nano_like, None)
    assert evaluate(model, tokenizer, [("a record", "a")], ["a"], Text()).accuracy == 1.0


def test_nothing_to_measure_is_refused(
    nano_like: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    model, _ = load_base(nano_like, None)
    with pytest.raises(ValueError, match="expected examples"):
        evaluate(model, tokenizer, [], ["a"], Text())
