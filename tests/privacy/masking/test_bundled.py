"""The model that comes with Cloister: it finds what the rules leave, adds, and can only add."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import MaskingError
from privacy.masking.bundled import tagger
from privacy.masking.bundled.features import EMPTY, NUM_FEATURES, features, tokens
from privacy.masking.config import MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import mask
from privacy.masking.models import load_model


@pytest.fixture(scope="module")
def bundled() -> Detector:
    return Detector(MaskingConfig(), ner="bundled")


@pytest.fixture(scope="module")
def rules() -> Detector:
    return Detector(MaskingConfig())


def test_a_name_that_the_rules_leave_is_found(bundled: Detector, rules: Detector) -> None:
    text = "i saw butler at the mall and he paid"
    assert "butler" in mask(text, rules.find(text))
    assert "butler" not in mask(text, bundled.find(text))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_what_the_rules_find_is_masked_with_the_model_too(
    bundled: Detector, rules: Detector, noise: str
) -> None:
    text = f"{noise} Dr. Anna Schmidt, card 4111 1111 1111 1111"
    covered = {place for span in bundled.find(text) for place in range(span.start, span.end)}
    for span in rules.find(text):
        assert covered.issuperset(
            place for place in range(span.start, span.end) if text[place].isalnum()
        )


@given(st.text(max_size=80))
def test_any_text_can_be_read_and_masking_twice_is_masking_once(
    bundled: Detector, text: str
) -> None:
    once = mask(text, bundled.find(text))
    assert mask(once, bundled.find(once)) == once


def test_places_are_right_beside_hidden_and_wide_characters() -> None:
    model = load_model("bundled")
    assert model is not None
    text = "\U0001f600 thanks to Ja\u200bne Wil\uff53on for this"
    found = [text[span.start : span.end] for span in model(text)]
    assert any(piece.startswith("Ja\u200bne") for piece in found), found


def test_a_text_in_chinese_says_nothing_to_it() -> None:
    assert not list(tagger.find("患者张建国于2023年5月入院，家住杭州。"))


def test_a_plan_without_english_is_refused() -> None:
    with pytest.raises(MaskingError, match="reads English"):
        Detector(MaskingConfig(languages=("zh",)), ner="bundled")


def test_weights_that_do_not_belong_here_stop_the_masking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tagger, "WEIGHTS", str(tmp_path / "weights.npz"))
    tagger._weights.cache_clear()
    with pytest.raises(MaskingError):
        Detector(MaskingConfig(), ner="bundled")
    np.savez(tmp_path / "weights.npz", weights=np.ones((3, 2), np.float16))
    with pytest.raises(MaskingError):
        Detector(MaskingConfig(), ner="bundled")
    monkeypatch.undo()
    tagger._weights.cache_clear()


def test_every_word_has_its_features_and_the_file_is_small() -> None:
    found = tokens("Jane Doe came.")
    rows = features(found)
    assert rows.shape == (4, NUM_FEATURES)
    assert (rows < EMPTY).sum(axis=1).min() >= 30
    weights = files("privacy.masking.bundled").joinpath(tagger.WEIGHTS)
    assert len(weights.read_bytes()) < 2_000_000
