"""Released adapters by digest."""

from pathlib import Path

import numpy as np
import pytest

from privacy.errors import VerificationError
from server.registry import Registry
from tests.federation.world import INITIAL, SPECS, quiet_plan

PLAN = quiet_plan("registry")


def release(registry: Registry, packed: np.ndarray) -> str:
    return registry.release(SPECS, packed, PLAN.adapter, "nano")


def test_an_adapter_comes_back_by_its_digest(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    digest = release(registry, INITIAL + 1)
    assert registry.load(digest, PLAN).tobytes() == (INITIAL + 1).tobytes()
    assert registry.path(digest).name == digest.removeprefix("sha256:")


def test_releasing_twice_is_the_same_adapter(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert release(registry, INITIAL) == release(registry, INITIAL) == PLAN.initial_adapter
    assert len(list(tmp_path.iterdir())) == 1


def test_a_changed_adapter_is_never_handed_out(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    digest = release(registry, INITIAL)
    file = registry.path(digest) / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(VerificationError, match="does not match its digest"):
        registry.load(digest, PLAN)


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_torn_adapter_is_never_handed_out(tmp_path: Path, size: int) -> None:
    registry = Registry(tmp_path)
    digest = release(registry, INITIAL)
    file = registry.path(digest) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(VerificationError):
        registry.load(digest, PLAN)


def test_a_missing_adapter_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(VerificationError) as missing:
        Registry(tmp_path).load("sha256:" + "0" * 64, PLAN)
    assert "restore" in missing.value.hint
