"""Masked text to token ids: a prompt in its template, then the answer that is learnt.

The prompt and the answer are tokenised apart, so that a candidate answer can be appended to a
prompt that is already computed and means exactly what it meant in training. A sequence is the
beginning-of-text token where the base has one, the template with the prompt, a space with the
answer, and the end-of-text token, which keeps `card` and `card payment` apart.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from transformers import PreTrainedTokenizerBase


class TextFormat(Protocol):
    """How a prompt becomes a sequence; `privacy.plan.TextConfig` is one."""

    @property
    def prompt_template(self) -> str:
        """Text before the answer, with `{prompt}` exactly once."""

    @property
    def max_tokens(self) -> int:
        """Longest sequence."""


@dataclass(frozen=True, slots=True)
class Example:
    """One record's tokens.

    Attributes:
      input_ids: Prompt and answer.
      answer_start: Index of the answer's first token; everything from there on is learnt.
    """

    input_ids: list[int]
    answer_start: int

    def __post_init__(self) -> None:
        """Refuse an answer that nothing precedes, or that is empty: neither has a loss."""
        if not 0 < self.answer_start < len(self.input_ids):
            raise ValueError(
                f"expected 0 < answer_start < {len(self.input_ids)}, got {self.answer_start}"
            )


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, text: TextFormat
) -> Example:
    """Prompt and answer as one sequence of at most `text.max_tokens` tokens.

    An answer longer than half of that loses its end, and with it the end-of-text token; then the
    prompt loses its end until both fit. The template around the prompt always stays.

    Raises:
      ValueError: The template alone leaves no room for an answer.
    """
    answer_ids = encode_answer(tokenizer, answer, text)
    prompt_ids = encode_prompt(tokenizer, prompt, text, num_reserved=len(answer_ids))
    return Example(prompt_ids + answer_ids, len(prompt_ids))


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str, text: TextFormat) -> list[int]:
    """A space, the answer and the end-of-text token, cut at half of `text.max_tokens`."""
    ids = [*_ids(tokenizer, " " + answer), _end(tokenizer)]
    return ids[: text.max_tokens // 2]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str, text: TextFormat, *, num_reserved: int
) -> list[int]:
    """The prompt in its template, in at most `text.max_tokens - num_reserved` tokens.

    Raises:
      ValueError: The template alone is longer than that.
    """
    before_ids, after_ids = _frame(tokenizer, text.prompt_template)
    num_left = text.max_tokens - num_reserved - len(before_ids) - len(after_ids)
    if num_left < 0 or not before_ids + after_ids:
        raise ValueError(
            f"expected a prompt_template of 1 to {text.max_tokens - num_reserved} tokens, "
            f"got {len(before_ids) + len(after_ids)}"
        )
    return [*before_ids, *_ids(tokenizer, prompt)[:num_left], *after_ids]


@lru_cache(maxsize=16)
def _frame(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before and after every prompt."""
    before, after = template.split("{prompt}")
    # A template may hold doubled braces for literal ones, as in every Python format string.
    before_ids = _begin(tokenizer) + _ids(tokenizer, before.format())
    return tuple(before_ids), tuple(_ids(tokenizer, after.format()))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    if not text:
        return []
    # A record that spells `<|eos|>` means these characters, not the end of the text.
    ids: list[int] = tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=True, verbose=False
    )
    return ids


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-text token, where the base was trained with one."""
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and begin in tokenizer.encode("") else []


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise ValueError("expected a tokenizer with an end-of-text token, got none")
    return end
