"""How `privacy/masking/bundled/weights.npz` was made: `python -m bench.train_names --data DIR`.

It learns from tweets with labels (Broad Twitter Corpus and WNUT 2017, both CC BY 4.0), made-up
notes, and texts that name hardly anybody: MedQuAD (CC BY 4.0), PubMedQA (MIT), Banking77 (CC BY
4.0), Beige Books (United States Federal Reserve). Of labelled sets only the halves `dev` are read,
and of `pii_ner_en` neither wikigold nor the SEC filings: on these the model is measured.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench import masking, masking_notes_en
from privacy.masking.bundled import tagger
from privacy.masking.bundled.features import EMPTY, NUM_ROWS, features, tokens

HELD_OUT = ("wikigold", "secfilings")
# Sets without names, and how many of their first texts.
_NAMELESS = (("medquad", 250), ("pubmedqa", 120), ("banking77", 400), ("beige_book", 30))
_LONGEST, _NUM_NOTES, _SEED = 1500, 300, 99
_EPOCHS, _BATCH, _RATE = 3, 512, 0.15
_CLASS = {kind: 1 + index for index, kind in enumerate(tagger.KINDS)}

Example = tuple[str, tuple[masking.Gold, ...]]


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument(
        "--output", type=Path, default=Path(tagger.__file__).with_name(tagger.WEIGHTS)
    )
    arguments = parser.parse_args()
    rows, classes = _numbers([*_tweets(arguments.data), *_notes(), *_nameless(arguments.data)])
    print(f"{len(classes)} words, {np.bincount(classes).tolist()} of each class")
    weights = _fit(torch.from_numpy(rows), torch.from_numpy(classes))
    # What counts is how much more a kind weighs than none.
    np.savez_compressed(
        arguments.output, weights=(weights[:, 1:] - weights[:, :1]).astype(np.float16)
    )


def _tweets(data: Path) -> Iterator[Example]:
    with gzip.open(data / "pii_ner_en" / "pii_ner_en.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if masking.half_of(f"pii_ner_en/{row['id']}") == "dev" and not row[
                "source"
            ].startswith(HELD_OUT):
                text = masking.text_of("pii_ner_en", row)
                yield text.text, text.gold


def _notes() -> Iterator[Example]:
    forms = masking_notes_en.forms()
    for index, (text, spans) in enumerate(masking_notes_en.notes(_NUM_NOTES, _SEED, unseen=True)):
        form = forms[index % len(forms)]
        if masking.half_of(form) == "dev":
            yield text, spans


def _nameless(data: Path) -> Iterator[Example]:
    for name, count in _NAMELESS:
        path = next((data / name).glob("*.jsonl.gz"))
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for _, line in zip(range(count), lines, strict=False):
                values = [value for value in json.loads(line).values() if isinstance(value, str)]
                yield max(values, key=len)[:_LONGEST], ()


def _numbers(examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Features and class of every word."""
    rows, classes = [], []
    for text, gold in examples:
        found = tokens(text)
        of_text = np.zeros(len(found), dtype=np.int64)
        for start, end, kind in gold:
            for index, (_, begin, stop) in enumerate(found):
                if begin < end and start < stop and kind in _CLASS:
                    of_text[index] = _CLASS[kind]
        rows.append(features(found))
        classes.append(of_text)
    return np.concatenate(rows), np.concatenate(classes)


def _fit(rows: torch.Tensor, classes: torch.Tensor) -> np.ndarray:
    torch.manual_seed(0)
    table = torch.nn.EmbeddingBag(
        NUM_ROWS + 1, 1 + len(tagger.KINDS), mode="sum", sparse=True, padding_idx=EMPTY
    )
    torch.nn.init.zeros_(table.weight)
    optimizer = torch.optim.Adagrad(table.parameters(), lr=_RATE)
    for epoch in range(_EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(classes)).split(_BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(table(rows[batch]), classes[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1}: loss {total / len(classes):.4f}")
    weights: np.ndarray = table.weight.detach().numpy()
    return weights


if __name__ == "__main__":
    main()
