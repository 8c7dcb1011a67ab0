"""Which model stands beside the rules: `none`, `spacy:<path>`, `transformers:<path>`.

What a model finds joins what the rules find; it never replaces a rule. A model is a folder on the
site's disk: nothing is downloaded. `models.py` loads it.
"""

from pathlib import Path

KINDS = ("spacy", "transformers")


def parse_ner(value: str) -> tuple[str, Path | None]:
    """Kind and folder that `value` names.

    Raises:
      ValueError: It is not `none` or a known kind with a path.
    """
    if value == "none":
        return "none", None
    kind, colon, path = value.partition(":")
    if kind not in KINDS or not colon or not path:
        expected = ", ".join(f"{kind}:<path>" for kind in KINDS)
        raise ValueError(f"expected none, {expected}, got {value!r}")
    return kind, Path(path)
