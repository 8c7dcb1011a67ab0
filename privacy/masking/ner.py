"""Which model stands beside the rules: `none`, `bundled`, `spacy:<path>`, `transformers:<path>`.

What a model finds joins what the rules find; it never replaces a rule. A model is the small one of
`privacy/masking/bundled/` or a folder on the site's disk: nothing is downloaded.
"""

from pathlib import Path

KINDS = ("spacy", "transformers")
# The models that are no folder.
WITHOUT_FOLDER = ("none", "bundled")
_NO_GLINER = (
    "a GLiNER model cannot be loaded: every release of the package gliner up to 0.2.29, its ONNX "
    "runtime too, needs transformers below 5.17, and this project pins 5.23"
)


_EXPECTED = ", ".join((*WITHOUT_FOLDER, *(f"{kind}:<path>" for kind in KINDS)))


def parse_ner(value: str) -> tuple[str, Path | None]:
    """Kind and folder that `value` names.

    Raises:
      ValueError: It is not `none`, `bundled` or a known kind with a path.
    """
    if value in WITHOUT_FOLDER:
        return value, None
    kind, colon, path = value.partition(":")
    if kind == "gliner":
        raise ValueError(f"{_NO_GLINER}; expected {_EXPECTED}")
    if kind not in KINDS or not colon or not path:
        raise ValueError(f"expected {_EXPECTED}, got {value!r}")
    return kind, Path(path)
