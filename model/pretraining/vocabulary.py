"""The tokenizer: byte-level BPE of English text, extended by Chinese characters and words.

The extension is appended: every merge that was there keeps its rank, and every new merge begins
with the first byte of a character of U+3000 or later, so text without such characters becomes the
very tokens that it was before.
"""

import json
from collections.abc import Iterable

import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>")
ENGLISH_SIZE = 8192
FULL_SIZE = 10240
NUM_CHARACTERS = 1400
PUNCTUATION = "，。、；：？！（）《》"  # noqa: RUF001  full-width forms are meant


def train_english(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train byte-level BPE of `ENGLISH_SIZE` tokens; every digit stands alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ENGLISH_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 1)]
    )
    return wrapped(tokenizer)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers saves it."""
    pad, bos, eos = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        model_max_length=1024,
    )


def train_chinese(texts: Iterable[str], num_words: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The most frequent Chinese characters, and the merges that build words of them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\p{Han}]+"), "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_CHARACTERS + num_words,
        limit_alphabet=NUM_CHARACTERS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    characters = [token for token in learnt["vocab"] if len(token) == 1]
    return characters, [(left, right) for left, right in learnt["merges"]]


def extend(
    english: PreTrainedTokenizerFast, texts: Iterable[str], size: int = FULL_SIZE
) -> PreTrainedTokenizerFast:
    """Append Chinese characters and words, learnt from `texts`, up to `size` tokens in all."""
    backend = english.backend_tokenizer
    described = json.loads(backend.to_str())
    vocabulary: dict[str, int] = described["model"]["vocab"]
    merges: list[tuple[str, str]] = [tuple(pair) for pair in described["model"]["merges"]]
    known = set(merges)

    def merge(left: str, right: str) -> str:
        if left + right not in vocabulary and len(vocabulary) < size:
            vocabulary[left + right] = len(vocabulary)
        if left + right in vocabulary and (left, right) not in known:
            known.add((left, right))
            merges.append((left, right))
        return left + right

    # More words than can fit: how many two-byte prefixes the characters need is not known before.
    characters, words = train_chinese(texts, num_words=size - len(vocabulary))
    spelled = {}
    for character in [*PUNCTUATION, *characters]:
        pieces = backend.encode(character, add_special_tokens=False).tokens
        token = pieces[0]
        for piece in pieces[1:]:
            token = merge(token, piece)
        spelled[character] = token
    for left, right in words:
        parts = ["".join(spelled[c] for c in part) for part in (left, right)]
        if all(part in vocabulary for part in parts) and len(vocabulary) < size:
            merge(*parts)
    described["model"]["merges"] = merges
    return wrapped(Tokenizer.from_str(json.dumps(described)))


def extend_embedding(
    embedding_VD: Tensor, english: PreTrainedTokenizerFast, extended: PreTrainedTokenizerFast
) -> Tensor:
    """Rows for the appended tokens too, each the mean of the tokens that spelled it before."""
    rows = [embedding_VD]
    for token in range(len(embedding_VD), len(extended)):
        spelled = extended.convert_ids_to_tokens(token)
        pieces = [piece.id for piece in english.backend_tokenizer.model.tokenize(spelled)]
        rows.append(embedding_VD[pieces].mean(0, keepdim=True))
    return torch.cat(rows)
