"""The bundled model: a logistic regression over hashed features of a word and its neighbours.

It says for each word how likely it is part of a person's or a place's name. It joins the rules and
takes a word from a probability on that is low on purpose: a needless `[PERSON]` costs less than a
name that stays.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from privacy.masking.bundled.features import EMPTY, NUM_ROWS, features, tokens

KINDS = ("PERSON", "LOCATION")
WEIGHTS = "weights.npz"
# From here on a word is masked. Chosen on texts that the model was not trained on: MODEL_CARD.md.
LEAST_PROBABILITY = 0.03
# It was trained on English: a word in another script says nothing to it.
_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]")


@cache
def _weights() -> NDArray[np.float32]:
    """One row a feature, one column a kind; the row of what is not there is zero.

    Raises:
      ValueError: The file is not the one that belongs here.
    """
    path = files("privacy.masking.bundled").joinpath(WEIGHTS)
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        values: NDArray[np.float32] = archive["weights"].astype(np.float32)
    if values.shape != (NUM_ROWS + 1, len(KINDS)) or values[EMPTY].any():
        raise ValueError(f"expected weights of {NUM_ROWS + 1} rows, got {values.shape}")
    return values


def find(text: str) -> Iterator[tuple[int, int, str]]:
    """Names of persons and places in `text`; words side by side are one."""
    found = tokens(text)
    if not found:
        return
    odds = np.exp(np.minimum(_weights()[features(found)].sum(axis=1), 60.0))
    none = 1 / (1 + odds.sum(axis=1))
    likely = (1 - none >= LEAST_PROBABILITY).tolist()
    kinds = odds.argmax(axis=1).tolist()
    begin = end = -1
    kind = ""
    for (word, start, stop), take, index in zip(found, likely, kinds, strict=True):
        if not take or not _WORD.search(word):
            continue
        if begin >= 0 and kind == KINDS[index] and text[end:start] in ("", " "):
            end = stop
            continue
        if begin >= 0:
            yield begin, end, kind
        begin, end, kind = start, stop, KINDS[index]
    if begin >= 0:
        yield begin, end, kind
