"""The public warm-up: `prompt -> label` pairs that belong to no party, in the form sites use.

A site's task is a prompt, a template and a short answer; a base that has seen the form spends no
private step on learning it. Some pairs come from public sets of labelled text, the others are made
of the corpora (which textbook, which district, which law). The labels of one set are written in
several styles, and now and then the choices stand in the prompt, so that the form is learnt and
not only the labels.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from model.pretraining.corpora import is_held_out, read_rows
from model.tokenizer import encode

SNIPPET_CHARACTERS = 700
# A fifth of a prompt's tokens is learnt; for the others the head, the dearest part, is left out.
PROMPT_SHARE = 0.2
PROMPT_WEIGHT = 0.5
ANSWER_WEIGHT = 3.0

Row = dict[str, Any]
Pairs = Iterator[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a prompt becomes a sequence; a `model.tokenizer.TextFormat`."""

    prompt_template: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question.

    Attributes:
      name: For people.
      folder: Where its rows lie.
      share: How often an example is of this task, relative to the others.
      pairs: Prompts and labels of a row.
      choices: Whether the labels are few enough to be listed in a prompt and written in styles.
    """

    name: str
    folder: str
    share: float
    pairs: Callable[[Row], Pairs]
    choices: bool = True


def snippets(text: str, label: str) -> Pairs:
    """A few passages of a document with what the document is, its headings left out."""
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    body = "\n".join(lines)
    step = max(SNIPPET_CHARACTERS, len(body) // 12)
    for begin in range(0, max(1, len(body) - SNIPPET_CHARACTERS // 2), step):
        yield body[begin : begin + SNIPPET_CHARACTERS], label


def _clinc(row: Row) -> Pairs:
    intent = "out of scope" if row["intent"] == "oos" else row["intent"].replace("_", " ")
    yield row["text"], intent


def _clinc_domain(row: Row) -> Pairs:
    yield row["text"], "other" if row["domain"] == "oos" else row["domain"].replace("_", " ")


def _abstract(row: Row) -> Pairs:
    yield row["text"], row["label"]


def _yes_no(row: Row) -> Pairs:
    yield row["question"] + "\n" + row["long_answer"], row["answer"]


def _section(row: Row) -> Pairs:
    for name, text in zip(row["section_labels"], row["context"], strict=False):
        yield text, name.lower()


def _entity(row: Row) -> Pairs:
    names = {"SpecificDisease": "Disease", "DiseaseClass": "Disease", "Modifier": "Disease"}
    for begin, end, mention, kind, *_ in row["entities"][:: max(1, len(row["entities"]) // 4)]:
        around = row["text"][max(0, begin - 150) : end + 100]
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", names.get(kind, kind)).lower()
        yield f"{around}\nWhat is {mention}?", spaced


def _intents(row: Row) -> Pairs:
    if row["intents"]:
        yield row["text"], ", ".join(intent.replace("_", " ") for intent in row["intents"])


def _summary(row: Row) -> Pairs:
    yield row["question"], row["summary"]


def _same(row: Row) -> Pairs:
    yield f"{row['a']}\n{row['b']}", "相同" if row["label"] == "1" else "不同"


def _report(row: Row) -> Pairs:
    for question in row["questions"]:
        answer = question["answer"]
        if question["answer_from"] != "table" and isinstance(answer, list) and len(answer) == 1:
            about = " ".join(p for p in row["paragraphs"] if str(answer[0]) in p)
            at = max(0, about.find(str(answer[0])) - 200)
            yield f"{about[at : at + 350]}\n{question['question']}", str(answer[0])


def _kind_of_answer(row: Row) -> Pairs:
    for question in row["questions"]:
        yield question["question"], question["answer_type"]


def _of(field: str) -> Callable[[Row], Pairs]:
    def pairs(row: Row) -> Pairs:
        label = row[field]
        yield from snippets(row["text"], label.lower() if label.isupper() else label)

    return pairs


TASKS = (
    Task(name="intent of a customer", folder="clinc_bank", share=3.0, pairs=_clinc),
    Task(
        name="domain of a customer's request", folder="clinc_bank", share=1.0, pairs=_clinc_domain
    ),
    Task(
        name="disease class of an abstract", folder="medical_abstracts", share=2.0, pairs=_abstract
    ),
    Task(name="answer of a study", folder="pubmedqa", share=1.0, pairs=_yes_no),
    Task(name="section of an abstract", folder="pubmedqa", share=1.0, pairs=_section),
    Task(name="kind of entity", folder="bioner", share=2.0, pairs=_entity),
    Task(
        name="intents of a customer",
        folder="nlupp_banking",
        share=1.5,
        pairs=_intents,
        choices=False,
    ),
    Task(
        name="summary of a health question",
        folder="meqsum",
        share=1.0,
        pairs=_summary,
        choices=False,
    ),
    Task(name="same question or not (Chinese)", folder="zh_med_pairs", share=1.5, pairs=_same),
    Task(name="answer from a report", folder="tatqa", share=1.0, pairs=_report, choices=False),
    Task(name="kind of answer from a report", folder="tatqa", share=0.5, pairs=_kind_of_answer),
    Task(name="textbook of a passage", folder="base_openstax", share=2.0, pairs=_of("book")),
    Task(
        name="title of a passage",
        folder="base_openstax",
        share=2.0,
        pairs=_of("title"),
        choices=False,
    ),
    Task(name="district of a passage", folder="beige_book", share=2.0, pairs=_of("district")),
    Task(
        name="regulation of a passage", folder="base_regs_en", share=1.5, pairs=_of("regulation")
    ),
    Task(name="author of a passage", folder="base_books", share=1.0, pairs=_of("author")),
    Task(
        name="category of a law (Chinese)", folder="base_laws_zh", share=1.0, pairs=_of("category")
    ),
    Task(
        name="title of a law (Chinese)",
        folder="base_laws_zh",
        share=1.5,
        pairs=_of("title"),
        choices=False,
    ),
)

# The first is the one that plans use, and drawn as often as all the others together.
ENGLISH_TEMPLATES = (
    "{prompt}\nLabel:",
    "{prompt}\nCategory:",
    "{prompt}\nTopic:",
    "Text: {prompt}\nLabel:",
    "{prompt}\nAnswer:",
)
CHINESE_TEMPLATES = (
    "{prompt}\nLabel:",
    "{prompt}\n标签：",  # noqa: RUF001  a full-width colon
    "{prompt}\n类别：",  # noqa: RUF001  a full-width colon
    "{prompt}\n答案：",  # noqa: RUF001  a full-width colon
)
STYLES: tuple[Callable[[str], str], ...] = (
    lambda label: label.replace(" ", "_"),
    lambda label: label.lower(),
    lambda label: label.upper(),
    lambda label: label.title(),
)


class Warmup:
    """Pairs of every task, from rows that are trained on or from those that are held out."""

    def __init__(self, data: Path, *, held_out: bool) -> None:
        self.pairs: list[list[tuple[str, str]]] = []
        for task in TASKS:
            of_task = []
            for row in read_rows(data / task.folder):
                if _is_held_out(row) is held_out:
                    of_task += [(p, lab) for p, lab in task.pairs(row) if p.strip() and lab]
            self.pairs.append(of_task)
        self.labels = [sorted({label for _, label in of_task}) for of_task in self.pairs]
        shares = np.array([t.share if p else 0.0 for t, p in zip(TASKS, self.pairs, strict=True)])
        self._shares = shares / shares.sum()

    def draw(self, generator: np.random.Generator) -> tuple[str, str, Template]:
        """A prompt, its label and the template to put them in."""
        index = int(generator.choice(len(TASKS), p=self._shares))
        task, labels = TASKS[index], self.labels[index]
        prompt, label = self.pairs[index][generator.integers(len(self.pairs[index]))]
        chinese = any("\u4e00" <= c <= "\u9fff" for c in prompt[:50])
        templates = CHINESE_TEMPLATES if chinese else ENGLISH_TEMPLATES
        which = 0 if generator.random() < 0.5 else int(generator.integers(len(templates)))
        template = templates[which]
        style = generator.random()
        if task.choices and style < 0.3:
            restyle = STYLES[int(generator.integers(len(STYLES)))]
            label, labels = restyle(label), [restyle(one) for one in labels]
        if task.choices and len(labels) > 2 and generator.random() < 0.2:
            num_others = int(generator.integers(2, min(6, len(labels))))
            listed = {label, *generator.choice(labels, size=num_others, replace=False).tolist()}
            shuffled = generator.permutation(sorted(listed)).tolist()
            choices = ", ".join(shuffled).replace("{", "{{").replace("}", "}}")
            asked = "选项" if chinese else "Choose one of"
            template = template.replace("\n", f"\n{asked}: {choices}\n", 1)
        max_tokens = int(generator.choice([64, 96, 128]))
        return prompt, label, Template(prompt_template=template, max_tokens=max_tokens)

    def draw_window(
        self,
        tokenizer: PreTrainedTokenizerBase,
        generator: np.random.Generator,
        num_tokens: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whole examples in `num_tokens` tokens, and the loss weight of each token.

        The rest is padding of weight 0. Attention does not cross from one example to the next.
        """
        ids = np.full(num_tokens, tokenizer.pad_token_id, dtype=np.int64)
        weights = np.zeros(num_tokens, dtype=np.float32)
        filled = 0
        for _ in range(24):
            prompt, label, template = self.draw(generator)
            try:
                example = encode(tokenizer, prompt[:SNIPPET_CHARACTERS], label, template)
            except ValueError:
                continue  # The listed choices alone are longer than the sequence.
            end = filled + len(example.input_ids)
            if end > num_tokens:
                continue
            ids[filled:end] = example.input_ids
            learnt = generator.random(example.answer_start - 1) < PROMPT_SHARE
            weights[filled + 1 : filled + example.answer_start] = PROMPT_WEIGHT * learnt
            weights[filled + example.answer_start : end] = ANSWER_WEIGHT
            filled = end
        return ids, weights


def _is_held_out(row: Row) -> bool:
    """About one row in fifty; a document that is held out as text is held out here too."""
    text = str(row.get("text") or row.get("question") or row.get("a") or row.get("id"))
    return is_held_out(text) or is_held_out(f"pair: {text}")
