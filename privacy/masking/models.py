"""Load a site's own model of names and places; a model that cannot be loaded stops the masking."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from privacy.errors import MaskingError
from privacy.masking.config import ENTITY_TYPES
from privacy.masking.mask import Span
from privacy.masking.ner import parse_ner
from privacy.masking.plain import plain

# Names of labels in published models, without `B-` and `I-`, in capitals.
_LABELS = {
    "PERSON": "PERSON PER NAME PATIENT DOCTOR STAFF HCW USERNAME FIRSTNAME LASTNAME FIRST_NAME "
    "LAST_NAME NAME_STUDENT",
    "LOCATION": "LOCATION LOC GPE FAC HOSPITAL STREET CITY STATE COUNTRY ZIP ADDRESS PATORG HOSP "
    "STREET_ADDRESS",
    "DATE": "DATE DATE_TIME",
    "PHONE": "PHONE PHONE_NUMBER FAX",
    "EMAIL": "EMAIL EMAIL_ADDRESS",
    "RECORD_NUMBER": "ID MEDICALRECORD MEDICAL_RECORD_NUMBER IDNUM",
    "HEALTH_PLAN_NUMBER": "HEALTHPLAN",
    "ACCOUNT_NUMBER": "ACCOUNT ACCOUNT_NUMBER",
    "URL": "URL",
    "SSN": "SSN",
}
_TYPES = {label: kind for kind, labels in _LABELS.items() for label in labels.split()}
_NER_SCORE = 0.6
# Characters a model reads at once; the next stretch begins at a space.
_STRETCH = 1000
Found = tuple[int, int, str]
Model = Callable[[str], Iterator[Span]]


def load_model(value: str) -> Model | None:
    """The model that `value` names, or none.

    Raises:
      MaskingError: The folder, the extra or a label that means personal data is missing.
    """
    try:
        kind, path = parse_ner(value)
    except ValueError as error:
        raise MaskingError(str(error), hint="correct [masking] ner in site.toml") from None
    if kind == "none":
        return None
    if path is None:
        return _bundled
    if not path.is_dir():
        raise MaskingError(
            f"expected a folder of a {kind} model in [masking] ner, found none at {path}",
            hint="give the folder that the model was saved to; nothing is downloaded",
        )
    load = {"spacy": _spacy, "transformers": _transformers}[kind]
    try:
        find = load(path)
    except ImportError as error:
        raise MaskingError(
            f"expected {kind} to be installed for [masking] ner, got {type(error).__name__}",
            hint=f"install {kind} at the version that constraints.txt pins",
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise MaskingError(
            f"cannot load the {kind} model at {path}: {type(error).__name__}",
            hint="save the model again with the version of the library that is installed here",
        ) from error

    def find_all(text: str) -> Iterator[Span]:
        for begin, stretch in _stretches(text):
            for start, end, kind in find(stretch):
                if any(character.isalnum() for character in stretch[start:end]):
                    yield Span(begin + start, begin + end, kind, _NER_SCORE)

    return find_all


def _bundled(text: str) -> Iterator[Span]:
    """The model that comes with Cloister: it reads a text whole."""
    # numpy and the weights are only for those who ask for them.
    from privacy.masking.bundled import tagger

    readable, positions = plain(text)
    for start, end, kind in tagger.find(readable):
        yield Span(positions[start], positions[end - 1] + 1, kind, _NER_SCORE)


def _stretches(text: str) -> Iterator[tuple[int, str]]:
    begin = 0
    while begin < len(text):
        end = begin + _STRETCH
        if end < len(text):
            space = max(text.rfind(sign, begin + 1, end) for sign in "\n ")
            end = space + 1 if space > begin else end
        stretch = text[begin:end]
        if stretch.strip():
            yield begin, stretch
        begin = end


def _type_of(label: str) -> str | None:
    label = (
        label.upper().split("-", 1)[-1] if label[:2] in ("B-", "I-", "E-", "S-") else label.upper()
    )
    return label if label in ENTITY_TYPES else _TYPES.get(label)


def _known_labels(labels: Sequence[str], path: Path) -> None:
    if not any(_type_of(label) for label in labels):
        raise MaskingError(
            f"expected a model with labels such as PERSON or LOCATION at {path}, "
            f"got {len(labels)} others",
            hint="[masking] ner needs a model of personal data",
        )


def _spacy(path: Path) -> Callable[[str], Iterator[Found]]:
    import spacy

    pipeline = spacy.load(path)
    labels = [label for names in pipeline.pipe_labels.values() for label in names]
    _known_labels(labels, path)

    def find(text: str) -> Iterator[Found]:
        for entity in pipeline(text).ents:
            kind = _type_of(entity.label_)
            if kind:
                yield entity.start_char, entity.end_char, kind

    return find


def _transformers(path: Path) -> Callable[[str], Iterator[Found]]:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModelForTokenClassification.from_pretrained(
        path, local_files_only=True, use_safetensors=True
    ).eval()
    if not tokenizer.is_fast:
        raise ValueError("expected a fast tokenizer: positions are needed")
    names = {int(index): str(label) for index, label in model.config.id2label.items()}
    _known_labels(list(names.values()), path)

    def find(text: str) -> Iterator[Found]:
        encoded = tokenizer(
            text,
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
            truncation=True,
            max_length=min(tokenizer.model_max_length, 512),
            stride=16,
        )
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            with torch.no_grad():
                best = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
            for label, (start, end) in zip(best, offsets, strict=True):
                kind = _type_of(names[label])
                if kind and start < end:
                    yield start, end, kind

    return find
