"""Libraries can be hidden from an import, and are there again afterwards."""

import importlib
import subprocess
import sys

import pytest

from privacy.masking.absent import absent


def test_what_is_hidden_cannot_be_imported_and_is_the_same_afterwards() -> None:
    loaded = sys.modules["json"]
    with absent("json"), pytest.raises(ImportError):
        importlib.import_module("json")
    assert sys.modules["json"] is loaded


def test_what_was_not_loaded_can_be_loaded_afterwards() -> None:
    sys.modules.pop("colorsys", None)
    with absent("colorsys", unless_loaded=("json",)):
        import json

        assert json.loads("1") == 1
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_an_error_within_leaves_nothing_hidden() -> None:
    with pytest.raises(ValueError, match="stop"), absent("json"):
        raise ValueError("stop")
    import json

    assert json.dumps(1) == "1"


@pytest.mark.timeout(240)
def test_a_detector_without_a_model_loads_no_torch_and_leaves_it_to_others() -> None:
    program = (
        "import sys, importlib.util\n"
        "from privacy.masking.config import MaskingConfig\n"
        "from privacy.masking.detect import Detector\n"
        "from client import dataset, gate\n"
        "Detector(MaskingConfig(languages=('en', 'zh')))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "assert importlib.util.find_spec('torch') and importlib.util.find_spec('transformers')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
