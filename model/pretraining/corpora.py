"""Public corpora: what is read, how often, and what is held out."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

HELD_OUT_ONE_IN = 100


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One public text source: where it lies and how often a window of text is drawn from it."""

    folder: str
    share: float


# Shares, not sizes: the Beige Book is the largest and the most repetitive.
MIX = (
    Corpus(folder="base_openstax", share=0.22),
    Corpus(folder="base_biomed", share=0.30),
    Corpus(folder="base_regs_en", share=0.08),
    Corpus(folder="beige_book", share=0.18),
    Corpus(folder="base_books", share=0.10),
    Corpus(folder="base_laws_zh", share=0.12),
)


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every row of every `.jsonl.gz` in `folder`, in name order."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as rows:
            for row in rows:
                yield json.loads(row)


def read_texts(folder: Path, *, held_out: bool) -> Iterator[str]:
    """Yield the field `text` of the rows that are held out, or of those that are not."""
    for row in read_rows(folder):
        if is_held_out(row["text"]) is held_out:
            yield row["text"]


def is_held_out(text: str) -> bool:
    """Whether a document is kept for evaluation: one in a hundred, by a hash of its text."""
    hashed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return hashed % HELD_OUT_ONE_IN == 0


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> np.ndarray:
    """Documents as one array of token ids, each begun by `<|bos|>` and ended by `<|eos|>`."""
    ids: list[int] = []
    for begin in range(0, len(texts), 256):
        for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts[begin : begin + 256])):
            ids.extend(encoding.ids)
            ids.append(tokenizer.eos_token_id)
    return np.asarray(ids, dtype=np.uint16)


def load_streams(
    data: Path, cache: Path, tokenizer: PreTrainedTokenizerFast
) -> dict[str, np.ndarray]:
    """Token streams: `<folder>` to train on, `<folder>.held_out` to evaluate, kept in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    streams = {}
    for corpus in MIX:
        for held_out in (False, True):
            name = corpus.folder + (".held_out" if held_out else "")
            path = cache / f"{name}.npy"
            if not path.exists():
                texts = list(read_texts(data / corpus.folder, held_out=held_out))
                np.save(path, token_stream(tokenizer, texts))
            streams[name] = np.load(path)
    return streams
