"""What a step trains on: windows of text and of the label warm-up, drawn by the step's own seed.

Shape suffixes: B sequences, T tokens of a sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from model.pretraining.corpora import MIX, load_streams
from model.pretraining.labels import Warmup

SEQUENCE_LENGTH = 256
BATCH_SEQUENCES = 32
TEXT_WEIGHT = 1.0
BATCH_TOKENS = BATCH_SEQUENCES * SEQUENCE_LENGTH


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Token windows and the loss weight of each token, both ``(B, T + 1)``."""

    ids: Tensor
    weights: Tensor

    def split(self, num_sequences: int) -> Iterator["Batch"]:
        """Parts of at most `num_sequences` sequences."""
        for ids_BT, weights_BT in zip(
            self.ids.split(num_sequences), self.weights.split(num_sequences), strict=True
        ):
            yield Batch(ids=ids_BT, weights=weights_BT)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All that a run draws from."""

    tokenizer: PreTrainedTokenizerFast
    streams: dict[str, np.ndarray]
    labels: Warmup

    @classmethod
    def load(cls, data: Path, cache: Path, tokenizer: PreTrainedTokenizerFast) -> "Sources":
        """Read what is trained on; streams of tokens are kept in `cache`."""
        streams = load_streams(data, cache, tokenizer)
        labels = Warmup(data, held_out=False)
        return cls(tokenizer=tokenizer, streams=streams, labels=labels)

    def draw(self, *, seed: int, step: int, label_share: float) -> Batch:
        """The batch of a step: a function of the seed and the step, whatever came before."""
        generator = np.random.default_rng([seed, step])
        windows = [self._window(generator, label_share) for _ in range(BATCH_SEQUENCES)]
        ids, weights = zip(*windows, strict=True)
        return Batch(
            ids=torch.from_numpy(np.stack(ids)), weights=torch.from_numpy(np.stack(weights))
        )

    def _window(
        self, generator: np.random.Generator, label_share: float
    ) -> tuple[np.ndarray, np.ndarray]:
        num_tokens = SEQUENCE_LENGTH + 1
        if generator.random() < label_share:
            return self.labels.draw_window(self.tokenizer, generator, num_tokens)
        shares = [corpus.share for corpus in MIX]
        stream = self.streams[MIX[int(generator.choice(len(MIX), p=shares))].folder]
        begin = generator.integers(0, len(stream) - num_tokens)
        text = stream[begin : begin + num_tokens].astype(np.int64)
        return text, np.full(num_tokens, TEXT_WEIGHT, dtype=np.float32)
