"""The model card and the figure of the curve, written from `pretraining.json`.

`python -m model.pretraining.card FOLDER` writes both again; every number in them is measured.
"""

# ruff: noqa: E501  the card's own lines

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.pretraining.batches import BATCH_TOKENS
from model.pretraining.corpora import MIX
from model.pretraining.labels import TASKS
from model.pretraining.train import (
    DECAY_LABEL_SHARE,
    DECAY_SHARE,
    NOTE_EVERY_STEPS,
    PEAK_LEARNING_RATE,
    PLATEAU_LABEL_SHARE,
)

LICENCES = {
    "base_openstax": ("OpenStax textbooks", "openstax/osbooks, 5 bundles", "CC BY 4.0"),
    "base_biomed": (
        "biomedical articles and abstracts",
        "ncbi/AIONER, PLOS, UCDenver-ccp/CRAFT",
        "MIT; CC BY or CC0; PMC open access, annotations CC BY 3.0",
    ),
    "base_regs_en": (
        "US banking regulations",
        "cfpb/regulations-xml, 12 CFR",
        "work of the US government",
    ),
    "beige_book": (
        "Federal Reserve Beige Book 1970-2020",
        "oscarsuen/beige-book",
        "publication of the Federal Reserve",
    ),
    "base_books": (
        "classic books",
        "mlschmitt/classic-books-markdown",
        "public domain",
    ),
    "base_laws_zh": (
        "Chinese laws and regulations",
        "LawRefBook/Laws",
        "not protected (Copyright Law of the PRC, art. 5)",
    ),
    "clinc_bank": ("CLINC150, banking part", "clinc/oos-eval", "CC BY 3.0"),
    "medical_abstracts": (
        "Medical Abstracts",
        "sebischair/Medical-Abstracts-TC-Corpus",
        "CC BY-SA 3.0",
    ),
    "pubmedqa": ("PubMedQA", "pubmedqa/pubmedqa", "MIT"),
    "bioner": ("BC5CDR, NCBI Disease, BioRED", "ncbi/AIONER", "MIT"),
    "nlupp_banking": ("NLU++, banking part", "PolyAI-LDN/task-specific-datasets", "CC BY 4.0"),
    "meqsum": ("MeQSum", "abachaa/MeQSum", "CC BY 4.0"),
    "zh_med_pairs": ("cMedQQ", "alibaba-research/ChineseBLUE", "Apache-2.0"),
    "tatqa": ("TAT-QA", "NExTplusplus/TAT-QA", "CC BY 4.0"),
}

CARD = """\
---
license: apache-2.0
language: [en, zh]
tags: [mixture-of-experts, deepseek-v3, research]
---

# nano: the embedded base

A Mixture of Experts of 11.1 million parameters in the shape of DeepSeek-V3 (6 layers, width 256, multi-head latent
attention, 1 shared and 8 routed experts of which 2 serve a token), with a byte-level BPE tokenizer of 10,240 tokens. It
is there so that Cloister can be tried, tested and demonstrated on a laptop, offline. It is a weak language model: use a
base of your own for work.

## Training

{training}

AdamW, learning rate {peak} with warm-up, plateau and linear decay over the last {decay} of the tokens; sequences of 256
tokens, 32 a step; attention does not cross from one document to the next. The experts' load is evened by a bias per
expert (auxiliary-loss-free balancing) and by a sequence-wise balance loss of weight 0.001 in the form of DeepSeek-V3.

![Training loss over tokens](curve.svg)

{curve}

The text of run 1 was English only and the text of run 2 is not, so the two pieces of the blue line do not compare; the
losses below do.

## What it can do

Held-out documents are one in a hundred, chosen by a hash, never trained on. (Passages of 9 of the 83 biomedical ones stand
among the warm-up's questions on entities, which come from the same abstracts in another spelling.) Of the few classic
books none is held out. Chinese before run 2 was spelled in bytes that had hardly been seen.

{text}

Held-out labels of the warm-up, after `{{prompt}}\\nLabel:`, as a site asks; nats for the whole label and its end, mean of
up to 32 examples. Tasks with a label of its own for every document stay hard.

{labels}

No expert is dead. Share of the held-out documents' tokens that each routed expert serves, in percent (12.5 is even);
layer 0 is dense.

{experts}

`pretraining.json` has every figure.

## Data

Public data only, none of any party of the demos. Windows of text:

{corpora}

{plateau} of the windows on the plateau and {decay_labels} in the decay are of a warm-up on `prompt -> label` pairs instead, so that
a site's private steps need not teach the form: `{{prompt}}\\nLabel: {{label}}` and variants of it, labels in several
styles, now and then with a list to choose from. The pairs come from the corpora above (which textbook, title, district,
regulation, author, law) and from these sets; *weight* is how often a task is drawn, relative to the others:

{tasks}

Medical Abstracts is under CC BY-SA 3.0: its texts and labels are not contained in this repository, and the attribution
is given here.

## Limits

It knows little, invents freely, and loses the thread after a sentence. English comes first; of Chinese it has read laws
and short health questions only. Scripts other than these two become single bytes. The labels of the warm-up are its
home ground: on other labels it knows the form, not the answer. It has had no safety training. It may repeat what stands
in its public training texts, names of authors included.
"""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(share: float) -> str:
    """A share as people write it."""
    return f"{100 * share:.0f} %"


def _training(run: dict[str, Any]) -> str:
    tokens = f"{run['tokens']:,}"
    if "earlier" not in run:
        return (
            f"`python -m model.pretrain --data DIR --out DIR --tokens {run['tokens']}` on two CPU "
            f"threads: {tokens} tokens."
        )
    earlier = run["earlier"]
    noted_from = (run["curve"][0][0] - NOTE_EVERY_STEPS * BATCH_TOKENS) / 1e6
    return f"""\
Two runs on two CPU threads, one after the other:

1. {earlier["tokens"]:,} tokens with an earlier recipe: English text only (OpenStax 27 %, biomedical 38 %, regulations 10 %,
   Beige Book 25 %), a tokenizer of 8,192 tokens, the bias alone against an uneven load. The result was the nano base before
   this one, digest `{earlier["digest"]}`.
2. {tokens} tokens with the recipe of this repository: `python -m model.pretrain --data DIR --out DIR --begin-from
   EARLIER --tokens {run["tokens"]}`. The tokenizer was extended by Chinese characters and words, learnt from the laws and
   from cMedQQ, whose embeddings began as the mean of the tokens that had spelled them; the weights, which had been
   decayed, were warmed up again. The run was stopped and resumed several times, its number of tokens was set just before
   the decay began, and its curve is noted from {noted_from:.1f} million tokens on; until 3.0 million tokens every token of a
   warm-up prompt was learnt with weight 0.1, after that a random fifth of them with weight 0.5."""


def _thinned(points: Sequence[Sequence[float]], num_points: int) -> list[Sequence[float]]:
    last = len(points) - 1
    return [points[i] for i in sorted({last * n // (num_points - 1) for n in range(num_points)})]


def _curve(run: dict[str, Any]) -> str:
    begun = run.get("earlier", {"tokens": 0})["tokens"]
    rows = [
        (f"{(begun + tokens) / 1e6:.1f}", f"{text:.2f}", f"{answers:.2f}")
        for tokens, text, answers in _thinned(run["curve"], 9)
    ]
    return table(
        [
            "tokens in all (millions)",
            "text (nats a token)",
            "answers of the warm-up (nats a token)",
        ],
        rows,
    )


def _text(run: dict[str, Any]) -> str:
    before, now = run.get("begun_from"), run["now"]
    rows = []
    for corpus in MIX:
        name = corpus.folder
        if name not in now["token_loss"]:
            continue
        row = [LICENCES[name][0], f"{now['token_loss'][name]:.2f}"]
        row.append(f"{now['character_loss'][name]:.2f}")
        if before:
            row.append(f"{before['character_loss'][name]:.2f}")
        rows.append(row)
    header = ["documents", "nats a token", "nats a character"]
    return table([*header, "nats a character before run 2"] if before else header, rows)


def _labels(run: dict[str, Any]) -> str:
    before, now = run.get("begun_from"), run["now"]["label_loss"]
    rows = []
    for task in TASKS:
        if task.name in now:
            row = [task.name, f"{now[task.name]:.1f}"]
            rows.append([*row, f"{before['label_loss'][task.name]:.1f}"] if before else row)
    return table(["task", "loss", "before run 2"] if before else ["task", "loss"], rows)


def _experts(run: dict[str, Any]) -> str:
    rows = [
        [f"layer {index}", *(f"{100 * share:.1f}" for share in layer)]
        for index, layer in enumerate(run["now"]["expert_shares"], start=1)
    ]
    return table(["", *(f"expert {n}" for n in range(len(rows[0]) - 1))], rows)


def _corpora() -> str:
    rows = [(name, percent(c.share), *rest) for c in MIX for name, *rest in [LICENCES[c.folder]]]
    return table(["corpus", "share", "source", "licence"], rows)


def _tasks() -> str:
    rows = []
    for task in TASKS:
        name, source, licence = LICENCES[task.folder]
        rows.append((task.name, f"{task.share:g}", name, source, licence))
    return table(["task", "weight", "made from", "source", "licence"], rows)


def card(run: dict[str, Any]) -> str:
    """The model card of a finished run."""
    return CARD.format(
        training=_training(run),
        peak=f"{PEAK_LEARNING_RATE:g}",
        decay=percent(DECAY_SHARE),
        curve=_curve(run),
        text=_text(run),
        labels=_labels(run),
        experts=_experts(run),
        corpora=_corpora(),
        plateau=percent(PLATEAU_LABEL_SHARE),
        decay_labels=percent(DECAY_LABEL_SHARE),
        tasks=_tasks(),
    )


def figure(run: dict[str, Any]) -> str:
    """The training losses over tokens, as SVG."""
    earlier = run.get("earlier", {"tokens": 0, "curve": []})
    begun = earlier["tokens"]
    first = [(tokens, text) for tokens, text in earlier["curve"]]
    text = [(begun + tokens, text) for tokens, text, _ in run["curve"]]
    answers = [(begun + tokens, answers) for tokens, _, answers in run["curve"]]
    width, height, left, bottom = 720, 320, 50, 40
    most_tokens = begun + run["tokens"]
    most_nats = 8.0

    def at(tokens: float, nats: float) -> str:
        x = left + (width - left - 20) * tokens / most_tokens
        y = 20 + (height - bottom - 20) * (1 - min(nats, most_nats) / most_nats)
        return f"{x:.1f},{y:.1f}"

    def line(points: Sequence[tuple[float, float]], colour: str) -> str:
        path = " ".join(at(*point) for point in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'

    def words(where: str, what: str, anchor: str = "middle", colour: str = "#57606a") -> str:
        x, y = where.split(",")
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{what}</text>'

    marks = []
    for nats in range(0, 9, 2):
        x, y = at(0, nats).split(",")
        marks.append(f'<path d="M{x} {y}H{width - 20}" stroke="#d0d7de"/>')
        marks.append(words(f"{left - 8},{float(y) + 4:.1f}", str(nats), "end"))
    for millions in range(0, int(most_tokens / 1e6) + 1, 4):
        x, y = at(millions * 1e6, 0).split(",")
        marks.append(words(f"{x},{float(y) + 18:.1f}", f"{millions} M"))
    marks.append(words(f"{width - 24},44", "text, nats a token", "end", "#0969da"))
    marks.append(
        words(f"{width - 20},32", "answers of the warm-up, nats a token", "end", "#bc4c00")
    )
    marks.append(words(f"{(width + left) / 2:.0f},{height - 6}", "tokens"))
    lines = [line(first, "#0969da")] if first else []
    lines += [line(text, "#0969da"), line(answers, "#bc4c00")]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<title>Training loss over tokens</title>\n<rect width="{width}" height="{height}" '
        'fill="#ffffff"/>\n' + "\n".join([*marks, *lines]) + "\n</svg>\n"
    )


def write_card(folder: Path) -> None:
    """Write `README.md` and `curve.svg` beside `pretraining.json`."""
    run = json.loads((folder / "pretraining.json").read_text())
    (folder / "README.md").write_text(card(run))
    (folder / "curve.svg").write_text(figure(run))


if __name__ == "__main__":
    write_card(Path(sys.argv[1]))
