"""Pre-train the embedded `nano` base: `python -m model.pretrain --data DIR --out DIR`.

A DeepSeek-V3-shaped Mixture of Experts (multi-head latent attention, one shared expert, eight
routed experts of which two serve a token) learns to continue text, on public corpora only. The run
is seeded, writes a checkpoint every few minutes and goes on from it when it is started again;
`--tokens` may be changed between starts, because the learning rate is a function of the share of
tokens done (warm-up, plateau, linear decay: Hu et al. 2024, arXiv 2404.06395).

Shape suffixes: B sequences, T tokens of a sequence, E experts.
"""

import argparse
import gzip
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>")
VOCAB_SIZE = 8192
SEQUENCE_LENGTH = 256
BATCH_SEQUENCES = 16
PEAK_LEARNING_RATE = 2e-3
WARM_UP_SHARE = 0.02
DECAY_SHARE = 0.3
BIAS_STEP = 1e-3
HELD_OUT_ONE_IN = 100


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One public text source: where it lies and how often a training sequence is drawn from it."""

    folder: str
    share: float


# Shares, not sizes: the Beige Book is the largest and the most repetitive of the four.
MIX = (
    Corpus(folder="base_openstax", share=0.27),
    Corpus(folder="base_biomed", share=0.38),
    Corpus(folder="base_regs_en", share=0.10),
    Corpus(folder="beige_book", share=0.25),
)


def nano_config() -> DeepseekV3Config:
    """The shape of the nano base: 10.6 M parameters, about 21 MB in bfloat16."""
    return DeepseekV3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        moe_intermediate_size=192,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        n_shared_experts=1,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=None,
        kv_lora_rank=64,
        qk_rope_head_dim=16,
        qk_nope_head_dim=32,
        v_head_dim=32,
        routed_scaling_factor=1.0,
        norm_topk_prob=True,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def read_texts(folder: Path) -> Iterator[str]:
    """Yield the field `text` of every row of every `.jsonl.gz` in `folder`, in name order."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as rows:
            for row in rows:
                yield json.loads(row)["text"]


def is_held_out(text: str) -> bool:
    """Whether a document is kept for evaluation: one in a hundred, by a hash of its text."""
    hashed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return hashed % HELD_OUT_ONE_IN == 0


def train_tokenizer(data: Path) -> PreTrainedTokenizerFast:
    """Train an 8k byte-level BPE tokenizer on the training documents of the mix."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        text
        for corpus in MIX
        for text in read_texts(data / corpus.folder)
        if not is_held_out(text)
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 1)]
    )
    pad, bos, eos = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        model_max_length=1024,
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> np.ndarray:
    """Documents as one array of token ids, each document ended by `<|eos|>`."""
    ids: list[int] = []
    for begin in range(0, len(texts), 256):
        for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts[begin : begin + 256])):
            ids.extend(encoding.ids)
            ids.append(tokenizer.eos_token_id)
    return np.asarray(ids, dtype=np.uint16)


def load_streams(
    data: Path, out: Path, tokenizer: PreTrainedTokenizerFast
) -> dict[str, np.ndarray]:
    """Token streams per corpus: `<folder>` to train on, `<folder>.held_out` to evaluate.

    They are cached beside the checkpoint.
    """
    streams = {}
    for corpus in MIX:
        for held_out in (False, True):
            name = corpus.folder + (".held_out" if held_out else "")
            cache = out / f"{name}.npy"
            if not cache.exists():
                texts = [t for t in read_texts(data / corpus.folder) if is_held_out(t) is held_out]
                np.save(cache, token_stream(tokenizer, texts))
            streams[name] = np.load(cache)
    return streams


def draw_batch(streams: dict[str, np.ndarray], generator: np.random.Generator) -> Tensor:
    """A batch of token windows, shape (B, T + 1), drawn from the corpora by their shares."""
    shares = [corpus.share for corpus in MIX]
    windows = []
    for index in generator.choice(len(MIX), size=BATCH_SEQUENCES, p=shares):
        stream = streams[MIX[index].folder]
        begin = generator.integers(0, len(stream) - SEQUENCE_LENGTH - 1)
        windows.append(stream[begin : begin + SEQUENCE_LENGTH + 1].astype(np.int64))
    return torch.from_numpy(np.stack(windows))


def learning_rate(share_done: float) -> float:
    """Warm-up, plateau, linear decay to a fiftieth; `share_done` is in [0, 1]."""
    if share_done < WARM_UP_SHARE:
        return PEAK_LEARNING_RATE * max(share_done / WARM_UP_SHARE, 1e-3)
    if share_done < 1 - DECAY_SHARE:
        return PEAK_LEARNING_RATE
    return PEAK_LEARNING_RATE * max((1 - share_done) / DECAY_SHARE, 0.02)


class ExpertLoad:
    """Counts the tokens that each routed expert serves, and evens the load by the routers' bias.

    Auxiliary-loss-free balancing (Wang et al. 2024, arXiv 2408.15664). Pre-training only: at a
    site the bias is frozen, because its update would be an un-noised statistic of the batch.
    """

    def __init__(self, model: nn.Module, num_experts: int) -> None:
        self.routers: list[Any] = [
            m for m in model.modules() if hasattr(m, "e_score_correction_bias")
        ]
        self.counts_E = [torch.zeros(num_experts) for _ in self.routers]
        for index, router in enumerate(self.routers):
            router.register_forward_hook(self._hook(index))

    def _hook(self, index: int) -> Callable[..., None]:
        def count(
            _module: nn.Module, _inputs: object, output: tuple[Tensor, Tensor, Tensor]
        ) -> None:
            self.counts_E[index] += torch.bincount(
                output[2].flatten(), minlength=len(self.counts_E[index])
            ).float()

        return count

    def balance(self) -> None:
        """Move every router's bias a step towards its under-used experts; forget the counts."""
        for router, counts_E in zip(self.routers, self.counts_E, strict=True):
            router.e_score_correction_bias += BIAS_STEP * torch.sign(counts_E.mean() - counts_E)
            counts_E.zero_()

    def take_shares(self) -> list[list[float]]:
        """Share of tokens per expert and layer since the last call; each layer sums to 1."""
        shares = [(c / c.sum()).tolist() for c in self.counts_E]
        for counts_E in self.counts_E:
            counts_E.zero_()
        return shares


def token_loss(model: DeepseekV3ForCausalLM, window_BT: Tensor) -> Tensor:
    """Mean negative log-likelihood a token, in nats, of `window_BT[:, 1:]`."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=window_BT[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), window_BT[:, 1:].flatten())


@torch.no_grad()
def held_out_losses(
    model: DeepseekV3ForCausalLM, streams: dict[str, np.ndarray]
) -> dict[str, float]:
    """Loss per corpus, in nats a token, on up to 64 windows of documents never trained on."""
    losses = {}
    for corpus in MIX:
        stream = streams[corpus.folder + ".held_out"]
        num_windows = min(64, (len(stream) - 1) // SEQUENCE_LENGTH)
        starts = np.linspace(0, len(stream) - SEQUENCE_LENGTH - 1, num_windows).astype(int)
        windows = torch.from_numpy(
            np.stack([stream[s : s + SEQUENCE_LENGTH + 1].astype(np.int64) for s in starts])
        )
        parts = [token_loss(model, part).item() * len(part) for part in windows.split(16)]
        losses[corpus.folder] = sum(parts) / num_windows
    return losses


@dataclass
class Progress:
    """Tokens seen, and the curve: [tokens, mean loss since the point before]."""

    tokens: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)


def save_checkpoint(
    out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write weights, optimizer and progress; a crash leaves the previous checkpoint whole."""
    flat = {
        f"model.{k}": v.contiguous()
        for k, v in model.state_dict().items()
        if k != "lm_head.weight"
    }
    for index, state in optimizer.state_dict()["state"].items():
        flat |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    save_file(flat, out / "checkpoint.next", metadata={"progress": json.dumps(asdict(progress))})
    os.replace(out / "checkpoint.next", out / "checkpoint.safetensors")


def load_checkpoint(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what `save_checkpoint` wrote; a new beginning when there is nothing to restore."""
    path = out / "checkpoint.safetensors"
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as opened:
        progress = Progress(**json.loads(opened.metadata()["progress"]))
    flat = load_file(path)
    weights = {k.removeprefix("model."): v for k, v in flat.items() if k.startswith("model.")}
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return progress


def pretrain(
    data: Path, out: Path, *, num_tokens: int, seed: int, checkpoint_every_s: float = 180.0
) -> None:
    """Train until `num_tokens` tokens were seen, then write the base to `out / "nano"`."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer_folder = out / "tokenizer"
    if not tokenizer_folder.exists():
        print("training the tokenizer", file=sys.stderr, flush=True)
        train_tokenizer(data).save_pretrained(tokenizer_folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    streams = load_streams(data, out, tokenizer)
    torch.manual_seed(seed)
    model = DeepseekV3ForCausalLM(nano_config())
    model.set_experts_implementation("grouped_mm")
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.95),
        fused=True,
    )
    progress = load_checkpoint(out, model, optimizer)
    load = ExpertLoad(model, model.config.n_routed_experts)
    batch_tokens = BATCH_SEQUENCES * SEQUENCE_LENGTH
    saved_at = begun_at = time.monotonic()
    begun_tokens = progress.tokens
    recent: list[float] = []
    while progress.tokens < num_tokens:
        # A function of the step: a resumed run draws what an uninterrupted one would.
        generator = np.random.default_rng([seed, progress.tokens // batch_tokens])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress.tokens / num_tokens)
        loss = token_loss(model, draw_batch(streams, generator))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        load.balance()
        progress.tokens += batch_tokens
        recent.append(loss.item())
        now = time.monotonic()
        if len(recent) == 50:
            rate = (progress.tokens - begun_tokens) / (now - begun_at)
            mean = sum(recent) / len(recent)
            progress.curve.append((progress.tokens, round(mean, 4)))
            left_s = (num_tokens - progress.tokens) / rate
            print(
                f"{progress.tokens / 1e6:7.2f} of {num_tokens / 1e6:.0f} M tokens, loss {mean:.3f}"
                f", {rate:,.0f} tokens/s, {left_s / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
            recent = []
        if now - saved_at > checkpoint_every_s:
            save_checkpoint(out, model, optimizer, progress)
            saved_at = now
    save_checkpoint(out, model, optimizer, progress)
    finish(out, model, tokenizer, streams, load, progress)


def finish(
    out: Path,
    model: DeepseekV3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    streams: dict[str, np.ndarray],
    load: ExpertLoad,
    progress: Progress,
) -> None:
    """Write weights in bfloat16, tokenizer and measurements to `out / "nano"`."""
    folder = out / "nano"
    rounded = DeepseekV3ForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    load.take_shares()
    losses = held_out_losses(model, streams)
    report = {
        "tokens": progress.tokens,
        "held_out_loss": losses,
        "expert_shares": load.take_shares(),
        "curve": progress.curve,
    }
    (folder / "pretraining.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(losses), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m model.pretrain",
        description="Pre-train the embedded nano base; goes on from its checkpoint.",
        epilog="example: python -m model.pretrain --data corpora --out nano-run --tokens 12e6",
    )
    folders = ", ".join(corpus.folder for corpus in MIX)
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {folders}")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, result")
    parser.add_argument("--tokens", type=float, default=12e6, help="in all (default: 12e6)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    arguments = parser.parse_args(argv)
    missing = [c.folder for c in MIX if not (arguments.data / c.folder).is_dir()]
    if missing:
        parser.error(f"expected folders {', '.join(missing)} in {arguments.data}")
    torch.set_num_threads(arguments.threads)
    num_tokens = int(arguments.tokens)
    pretrain(arguments.data, arguments.out, num_tokens=num_tokens, seed=arguments.seed)


if __name__ == "__main__":
    main()
