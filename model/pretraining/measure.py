"""What a base can do, on documents and labels it was never trained on; computed in float32.

Losses of two bases with different tokenizers are compared by the character, not by the token.

Shape suffixes: B sequences, T tokens of a sequence.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DeepseekV3ForCausalLM, PreTrainedTokenizerFast

from model.pretraining.balance import ExpertLoad
from model.pretraining.batches import SEQUENCE_LENGTH
from model.pretraining.corpora import MIX, read_texts, token_stream
from model.pretraining.labels import TASKS, Template, Warmup
from model.tokenizer import encode

NUM_WINDOWS = 64
NUM_LABELS = 32
AT_A_SITE = Template(prompt_template="{prompt}\nLabel:", max_tokens=128)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of a base.

    Attributes:
      token_loss: Per corpus, in nats a token.
      character_loss: Per corpus, in nats a character.
      label_loss: Per task of the warm-up, in nats for the whole label and the end of the text.
      expert_shares: Per layer, the share of the corpora's tokens that each expert served.
    """

    token_loss: dict[str, float]
    character_loss: dict[str, float]
    label_loss: dict[str, float]
    expert_shares: list[list[float]]


@torch.no_grad()
def measure(folder: Path, data: Path) -> Measured:
    """Measure the base in `folder` on the held-out part of `data`."""
    model = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    load = ExpertLoad(model, model.config.n_routed_experts)
    token_loss, character_loss = {}, {}
    for corpus in MIX:
        texts = list(read_texts(data / corpus.folder, held_out=True))
        if texts:
            nats, tokens, characters = _text_loss(model, tokenizer, texts)
            token_loss[corpus.folder] = round(nats / tokens, 4)
            character_loss[corpus.folder] = round(nats / characters, 4)
    shares = [[round(share, 4) for share in layer] for layer in load.take_shares()]
    return Measured(
        token_loss=token_loss,
        character_loss=character_loss,
        label_loss=_label_losses(model, tokenizer, Warmup(data, held_out=True)),
        expert_shares=shares,
    )


def _text_loss(
    model: DeepseekV3ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[float, int, int]:
    """Nats, tokens and characters of up to `NUM_WINDOWS` windows, evenly spaced over the texts."""
    stream = token_stream(tokenizer, texts)
    last = max(0, len(stream) - SEQUENCE_LENGTH - 1)
    nats, tokens, characters = 0.0, 0, 0
    starts = sorted({last * i // (NUM_WINDOWS - 1) for i in range(NUM_WINDOWS)})
    for at in range(0, len(starts), 16):
        windows_BT = torch.stack(
            [
                torch.from_numpy(stream[begin : begin + SEQUENCE_LENGTH + 1].astype("int64"))
                for begin in starts[at : at + 16]
            ]
        )
        nats += _negative_log_likelihood(model, windows_BT).sum().item()
        tokens += windows_BT[:, 1:].numel()
        characters += sum(
            len(tokenizer.decode(ids, skip_special_tokens=True)) for ids in windows_BT[:, 1:]
        )
    return nats, tokens, characters


def _label_losses(
    model: DeepseekV3ForCausalLM, tokenizer: PreTrainedTokenizerFast, labels: Warmup
) -> dict[str, float]:
    losses = {}
    for task, pairs in zip(TASKS, labels.pairs, strict=True):
        if not pairs:
            continue
        chosen = pairs[:: max(1, len(pairs) // NUM_LABELS)][:NUM_LABELS]
        examples = [encode(tokenizer, prompt, label, AT_A_SITE) for prompt, label in chosen]
        ids_BT = nn.utils.rnn.pad_sequence(
            [torch.tensor(example.input_ids) for example in examples], batch_first=True
        )
        nats_BT = _negative_log_likelihood(model, ids_BT)
        total = sum(
            nats_BT[row, example.answer_start - 1 : len(example.input_ids) - 1].sum().item()
            for row, example in enumerate(examples)
        )
        losses[task.name] = round(total / len(examples), 3)
    return losses


def _negative_log_likelihood(model: DeepseekV3ForCausalLM, ids_BT: Tensor) -> Tensor:
    """In nats, of each token but the first."""
    logits = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), ids_BT[:, 1:], reduction="none"
    )
