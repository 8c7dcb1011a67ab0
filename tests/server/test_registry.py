"""Released adapters by digest."""

from pathlib import Path

import numpy as np
import pytest

from model.fedopt import Moments
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


def moments() -> Moments:
    return Moments(np.array([1.0, -2.0]), np.array([0.5, 4.0]), 3)


OTHER = "sha256:" + "7" * 64


def test_moments_come_back_as_they_were(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.keep_moments(PLAN.digest, PLAN.initial_adapter, moments())
    found = registry.load_moments(PLAN.digest, PLAN.initial_adapter, 2)
    np.testing.assert_array_equal(found.first, moments().first)
    np.testing.assert_array_equal(found.second, moments().second)
    assert found.num_steps == 3


def test_only_the_newest_moments_of_a_plan_stay_and_other_plans_keep_theirs(
    tmp_path: Path,
) -> None:
    registry = Registry(tmp_path)
    for plan in (PLAN.digest, OTHER):
        registry.keep_moments(plan, PLAN.initial_adapter, moments())
    registry.keep_moments(PLAN.digest, OTHER, moments())
    registry.forget_moments(PLAN.digest, but=OTHER)
    registry.load_moments(PLAN.digest, OTHER, 2)
    registry.load_moments(OTHER, PLAN.initial_adapter, 2)
    with pytest.raises(VerificationError, match="moments"):
        registry.load_moments(PLAN.digest, PLAN.initial_adapter, 2)


@pytest.mark.parametrize("size", [0, 10, 200])
def test_moments_that_were_cut_short_are_refused(tmp_path: Path, size: int) -> None:
    registry = Registry(tmp_path)
    registry.keep_moments(PLAN.digest, OTHER, moments())
    (file,) = (tmp_path / "optimizer").rglob("*.npz")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(VerificationError, match="moments"):
        registry.load_moments(PLAN.digest, OTHER, 2)


def test_moments_of_another_adapter_are_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.keep_moments(PLAN.digest, OTHER, moments())
    with pytest.raises(VerificationError, match="moments"):
        registry.load_moments(PLAN.digest, OTHER, 3)
    (file,) = (tmp_path / "optimizer").rglob("*.npz")
    file.rename(file.with_name(PLAN.initial_adapter.removeprefix("sha256:") + ".npz"))
    with pytest.raises(VerificationError, match="moments"):
        registry.load_moments(PLAN.digest, PLAN.initial_adapter, 2)
