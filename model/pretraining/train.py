"""The training run: seeded, resumable, with a learning rate that is a function of the share done.

Warm-up, plateau, linear decay (Hu et al. 2024, arXiv 2404.06395). Windows of text are mixed with
windows of the label warm-up, a fifth on the plateau and nearly half in the decay, where a model
takes up most of what it will keep.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedTokenizerFast

from model.base import base_digest
from model.pretraining.balance import ExpertLoad
from model.pretraining.batches import BATCH_TOKENS, Sources
from model.pretraining.checkpoint import Progress, load_checkpoint, save_checkpoint
from model.pretraining.corpora import MIX, read_rows, read_texts
from model.pretraining.fast import use_fast_parts
from model.pretraining.labels import TASKS
from model.pretraining.measure import measure
from model.pretraining.step import Losses, backward
from model.pretraining.vocabulary import FULL_SIZE, extend, extend_embedding, train_english

PEAK_LEARNING_RATE = 2e-3
WARM_UP_SHARE = 0.02
DECAY_SHARE = 0.35
PLATEAU_LABEL_SHARE = 0.2
DECAY_LABEL_SHARE = 0.45
NOTE_EVERY_STEPS = 20


def nano_config(vocab_size: int = FULL_SIZE) -> DeepseekV3Config:
    """The shape of the nano base: 11.1 M parameters, about 22 MB in bfloat16."""
    return DeepseekV3Config(
        vocab_size=vocab_size,
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


def learning_rate(share_done: float) -> float:
    """Warm-up, plateau, linear decay to a fiftieth; `share_done` is in [0, 1]."""
    if share_done < WARM_UP_SHARE:
        return PEAK_LEARNING_RATE * max(share_done / WARM_UP_SHARE, 1e-2)
    return PEAK_LEARNING_RATE * min(1.0, max((1 - share_done) / DECAY_SHARE, 0.02))


def label_share(share_done: float) -> float:
    """How many of the windows are of the label warm-up."""
    if share_done < WARM_UP_SHARE:
        return 0.0
    return PLATEAU_LABEL_SHARE if share_done < 1 - DECAY_SHARE else DECAY_LABEL_SHARE


def _english_texts(data: Path) -> Iterator[str]:
    for corpus in MIX:
        if not corpus.folder.endswith("_zh"):
            yield from read_texts(data / corpus.folder, held_out=False)


def _chinese_texts(data: Path) -> Iterator[str]:
    yield from read_texts(data / "base_laws_zh", held_out=False)
    # Laws alone lack the characters of medicine.
    for row in read_rows(data / "zh_med_pairs"):
        yield from (row["a"], row["b"])


def load_tokenizer(data: Path, out: Path, begin_from: Path | None) -> PreTrainedTokenizerFast:
    """The run's tokenizer: trained, or extended from an earlier base's, the first time."""
    folder = out / "tokenizer"
    if not folder.exists():
        _say("making the tokenizer")
        if begin_from is None:
            english = train_english(_english_texts(data))
        else:
            english = PreTrainedTokenizerFast.from_pretrained(begin_from)
        extend(english, _chinese_texts(data)).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def new_model(
    tokenizer: PreTrainedTokenizerFast, begin_from: Path | None, seed: int
) -> DeepseekV3ForCausalLM:
    """Seeded weights, or those of an earlier base with rows for the tokens that it lacks."""
    torch.manual_seed(seed)
    model = DeepseekV3ForCausalLM(nano_config(len(tokenizer)))
    if begin_from is not None:
        begun = DeepseekV3ForCausalLM.from_pretrained(begin_from, dtype=torch.float32)
        weights = begun.state_dict()
        english = PreTrainedTokenizerFast.from_pretrained(begin_from)
        embedding_VD = extend_embedding(begun.lm_head.weight.detach(), english, tokenizer)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = embedding_VD
        model.load_state_dict(weights)
    use_fast_parts(model)
    return model


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; vectors (norms) without weight decay."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.95),
        fused=True,
    )


def pretrain(
    data: Path,
    out: Path,
    *,
    num_tokens: int,
    seed: int,
    begin_from: Path | None = None,
    num_threads: int = 2,
    checkpoint_every_s: float = 180.0,
) -> None:
    """Train until `num_tokens` tokens were seen, then write the base to `out / "nano"`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # A thread a part, see `backward`.
    tokenizer = load_tokenizer(data, out, begin_from)
    sources = Sources.load(data, out / "streams", tokenizer)
    model = new_model(tokenizer, begin_from, seed)
    optimizer = new_optimizer(model)
    progress = load_checkpoint(out, model, optimizer)
    load = ExpertLoad(model, model.config.n_routed_experts)
    saved_at = noted_at = time.monotonic()
    recent: list[Losses] = []
    with ThreadPoolExecutor(num_threads) as threads:
        while progress.tokens < num_tokens:
            done = progress.tokens / num_tokens
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done)
            step = progress.tokens // BATCH_TOKENS
            batch = sources.draw(seed=seed, step=step, label_share=label_share(done))
            recent.append(backward(model, load, batch, threads))
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            load.balance()
            progress.tokens += BATCH_TOKENS
            now = time.monotonic()
            if len(recent) == NOTE_EVERY_STEPS:
                text = _mean(losses.text for losses in recent)
                answers = _mean(losses.answers for losses in recent)
                progress.curve.append((progress.tokens, round(text, 4), round(answers, 4)))
                rate = len(recent) * BATCH_TOKENS / (now - noted_at)
                left_min = (num_tokens - progress.tokens) / rate / 60
                _say(
                    f"{progress.tokens / 1e6:7.2f} of {num_tokens / 1e6:.1f} M tokens, "
                    f"text {text:.3f}, answers {answers:.3f}, {rate:,.0f} tokens/s, "
                    f"{left_min:.0f} min left"
                )
                recent, noted_at = [], now
            if now - saved_at > checkpoint_every_s:
                save_checkpoint(out, model, optimizer, progress)
                saved_at = now
    save_checkpoint(out, model, optimizer, progress)
    write_base(out / "nano", model, tokenizer)
    write_measurements(out / "nano", data, progress, begin_from)


def write_base(
    folder: Path, model: DeepseekV3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write weights in bfloat16 and the tokenizer, as transformers loads them."""
    rounded = DeepseekV3ForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_measurements(
    folder: Path, data: Path, progress: Progress, begin_from: Path | None
) -> None:
    """Write `pretraining.json`: the curve, and figures of the base and of what it began from."""
    written = asdict(progress) | {"now": asdict(measure(folder, data))}
    if begin_from is not None:
        written["begun_from"] = asdict(measure(begin_from, data))
        earlier = json.loads((begin_from / "pretraining.json").read_text())
        written["earlier"] = {
            "digest": base_digest(begin_from),
            "tokens": earlier["tokens"],
            "curve": earlier["curve"],
        }
    (folder / "pretraining.json").write_text(json.dumps(written, indent=1) + "\n")


def folders_needed() -> Sequence[str]:
    """Names of the folders that a run reads."""
    return sorted({corpus.folder for corpus in MIX} | {task.folder for task in TASKS})


def _mean(values: Iterable[float]) -> float:
    """Of those that are numbers; 0 where there is none, as before the labels begin."""
    return statistics.fmean([v for v in values if not math.isnan(v)] or [0.0])


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
