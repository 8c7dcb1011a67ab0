"""What a record becomes, whatever its text."""

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from model.tokenizer import Example, encode, encode_answer, encode_prompt


@dataclass(frozen=True)
class Text:
    """A text format, as a plan holds it."""

    prompt_template: str = "{prompt}\nLabel:"
    max_tokens: int = 32


def test_a_sequence_is_begin_template_prompt_space_answer_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = encode(tokenizer, "chest pain", "heart", Text(max_tokens=64))
    assert tokenizer.decode(example.input_ids) == "<|bos|>chest pain\nLabel: heart<|eos|>"
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == " heart<|eos|>"


def test_a_long_prompt_loses_its_end_and_keeps_the_template(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = encode(tokenizer, "abcdefghijklmnopqrstuvwxyz" * 4, "heart", Text())
    assert tokenizer.decode(example.input_ids) == "<|bos|>abcdefghijklmnopq\nLabel: heart<|eos|>"
    assert len(example.input_ids) == 32


def test_a_long_answer_loses_its_end_at_half(tokenizer: PreTrainedTokenizerBase) -> None:
    example = encode(tokenizer, "ab", "x" * 100, Text())
    assert tokenizer.decode(example.input_ids) == "<|bos|>ab\nLabel: " + "x" * 15


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(prompt=st.text(max_size=80), answer=st.text(max_size=40), max_tokens=st.integers(24, 64))
def test_any_text_fits_and_ends_with_the_template_and_the_answer(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, max_tokens: int
) -> None:
    text = Text(max_tokens=max_tokens)
    example = encode(tokenizer, prompt, answer, text)
    assert len(example.input_ids) <= max_tokens
    before = tokenizer.decode(example.input_ids[: example.answer_start])
    assert str(before).endswith("\nLabel:")
    assert example.input_ids[example.answer_start :] == encode_answer(tokenizer, answer, text)


def test_a_record_cannot_spell_a_special_token(tokenizer: PreTrainedTokenizerBase) -> None:
    example = encode(tokenizer, "a<|eos|>b", "<|bos|>", Text(max_tokens=64))
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert example.input_ids.count(tokenizer.eos_token_id) == 1


def test_prompt_and_answer_apart_are_the_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    answer = encode_answer(tokenizer, "heart", Text())
    prompt = encode_prompt(tokenizer, "z" * 90, Text(), num_reserved=len(answer))
    assert encode(tokenizer, "z" * 90, "heart", Text()) == Example(prompt + answer, len(prompt))


def test_doubled_braces_of_a_template_are_single(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = encode_prompt(tokenizer, "a", Text("{{{prompt}}}:"), num_reserved=4)
    assert tokenizer.decode(prompt) == "<|bos|>{a}:"


def test_a_template_without_room_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="prompt_template"):
        encode(tokenizer, "a", "heart", Text("x" * 40 + "{prompt}"))


@pytest.mark.parametrize(("ids", "start"), [([1, 2], 0), ([1, 2], 2), ([], 0)])
def test_an_example_without_prompt_or_answer_is_refused(ids: list[int], start: int) -> None:
    with pytest.raises(ValueError, match="answer_start"):
        Example(ids, start)
