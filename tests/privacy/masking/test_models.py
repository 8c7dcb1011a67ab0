"""A site's own model joins the rules, and stops the masking when it cannot be loaded."""

import sys
from pathlib import Path

import pytest
import spacy
import torch
from spacy.training import Example
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from privacy.errors import MaskingError
from privacy.masking.config import MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import mask
from privacy.masking.models import load_model
from privacy.masking.ner import parse_ner

# Words that no rule would mask: only the model knows that they are a name here.
NAME = "quiet table"
UNKNOWN, PADDING = "[UNK]", "[PAD]"
TEXT = f"we met {NAME} and left"


@pytest.fixture(scope="module")
def spacy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has learnt that `quiet table` is a person."""
    pipeline = spacy.blank("en")
    pipeline.add_pipe("ner").add_label("PERSON")  # type: ignore[attr-defined]
    start = TEXT.index(NAME)
    annotated = {"entities": [(start, start + len(NAME), "PERSON")]}
    examples = [
        Example.from_dict(pipeline.make_doc(TEXT), annotated),
        Example.from_dict(pipeline.make_doc("they ate and left"), {"entities": []}),
    ]
    optimizer = pipeline.initialize(lambda: examples)
    for _ in range(40):
        pipeline.update(examples, sgd=optimizer)
    folder = tmp_path_factory.mktemp("models") / "spacy"
    pipeline.to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose bias says that every token is a person."""
    vocabulary = {word: i for i, word in enumerate([UNKNOWN, PADDING, "they", "left", "quiet"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, pad_token=PADDING, model_max_length=64
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        id2label={0: "O", 1: "B-PER"},
        label2id={"O": 0, "B-PER": 1},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    folder = tmp_path_factory.mktemp("models") / "transformers"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_without_a_model_the_words_stay() -> None:
    assert Detector(MaskingConfig()).find(TEXT) == []


def test_what_a_spacy_model_finds_joins_the_rules(spacy_folder: Path) -> None:
    detector = Detector(MaskingConfig(), ner=f"spacy:{spacy_folder}")
    text = f"{TEXT}, card 4111 1111 1111 1111"
    masked = mask(text, detector.find(text))
    # A model of a few examples may take more than it was taught, never less than the rules.
    assert masked.startswith("we met [PERSON]")
    assert "quiet" not in masked
    assert "table" not in masked
    assert masked.endswith("[CREDIT_CARD]")


def test_masking_twice_is_masking_once_with_a_model(spacy_folder: Path) -> None:
    detector = Detector(MaskingConfig(), ner=f"spacy:{spacy_folder}")
    once = mask(TEXT, detector.find(TEXT))
    assert mask(once, detector.find(once)) == once


def test_what_a_transformers_model_finds_joins_the_rules(transformers_folder: Path) -> None:
    detector = Detector(MaskingConfig(), ner=f"transformers:{transformers_folder}")
    assert mask("they left", detector.find("they left")).count("[PERSON]") >= 1


def test_a_long_text_is_read_to_its_end(transformers_folder: Path) -> None:
    model = load_model(f"transformers:{transformers_folder}")
    text = "quiet " * 1000 + "table"
    assert model is not None
    covered = bytearray(len(text))
    for span in model(text):
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    assert all(covered[i] for i in range(len(text)) if text[i].isalpha())


def test_a_type_outside_the_plan_is_not_taken_from_a_model(spacy_folder: Path) -> None:
    dates = Detector(MaskingConfig(entity_types=("DATE",)), ner=f"spacy:{spacy_folder}")
    assert dates.find(TEXT) == []


@pytest.mark.parametrize("value", ["", "spacy", "spacy:", "bert:/models/x", "None"])
def test_a_value_that_names_no_kind_of_model_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="expected none, bundled, spacy:<path>"):
        parse_ner(value)
    with pytest.raises(MaskingError):
        Detector(MaskingConfig(), ner=value)


@pytest.mark.parametrize("value", ["gliner:/models/x", "gliner"])
def test_a_gliner_model_is_refused_with_the_reason(value: str) -> None:
    with pytest.raises(ValueError, match=r"transformers below 5\.17"):
        parse_ner(value)
    with pytest.raises(MaskingError, match=r"transformers below 5\.17") as caught:
        Detector(MaskingConfig(), ner=value)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["spacy", "transformers"])
def test_a_missing_or_empty_folder_stops_the_masking(kind: str, tmp_path: Path) -> None:
    with pytest.raises(MaskingError, match="folder") as caught:
        Detector(MaskingConfig(), ner=f"{kind}:{tmp_path / 'none'}")
    assert caught.value.hint
    with pytest.raises(MaskingError, match="cannot load"):
        Detector(MaskingConfig(), ner=f"{kind}:{tmp_path}")


def test_a_missing_library_stops_the_masking(
    spacy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MaskingError, match="expected spacy to be installed") as caught:
        load_model(f"spacy:{spacy_folder}")
    assert caught.value.hint


def test_a_model_without_personal_labels_stops_the_masking(tmp_path: Path) -> None:
    pipeline = spacy.blank("en")
    pipeline.add_pipe("ner").add_label("DISEASE")  # type: ignore[attr-defined]
    pipeline.initialize()
    pipeline.to_disk(tmp_path / "m")
    with pytest.raises(MaskingError, match="labels such as PERSON"):
        Detector(MaskingConfig(), ner=f"spacy:{tmp_path / 'm'}")
