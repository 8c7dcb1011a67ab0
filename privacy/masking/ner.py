"""Which model stands beside the rules: `none`, `spacy:<path>`, `transformers:<path>`.

What a model finds joins what the rules find; it never replaces a rule. A model is a folder on the
site's disk: nothing is downloaded. `models.py` loads it.
"""

from pathlib import Path

KINDS = ("spacy", "transformers")
# What a reader of other manuals would try, and why it is not here.
_ABSENT = {
    "bundled": "no model comes with Cloister: what we trained was not good enough to ship "
    "(docs/decisions/0028-no-bundled-model.md)",
    "gliner": "a GLiNER model cannot be loaded: every release of the package gliner up to 0.2.29, "
    "its ONNX runtime too, needs transformers below 5.17, and this project pins 5.23",
}


_EXPECTED = ", ".join(f"{kind}:<path>" for kind in KINDS)


def parse_ner(value: str) -> tuple[str, Path | None]:
    """Kind and folder that `value` names.

    Raises:
      ValueError: It is not `none` or a known kind with a path.
    """
    if value == "none":
        return "none", None
    kind, colon, path = value.partition(":")
    if kind in _ABSENT:
        raise ValueError(f"{_ABSENT[kind]}; expected none, {_EXPECTED}")
    if kind not in KINDS or not colon or not path:
        raise ValueError(f"expected none, {_EXPECTED}, got {value!r}")
    return kind, Path(path)
