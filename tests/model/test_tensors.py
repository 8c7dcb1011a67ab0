"""The packed form and its digest, without torch."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.config import AdapterConfig, TensorSpec
from model.tensors import (
    add_update,
    manifest,
    pack,
    packed_digest,
    packed_size,
    read_adapter_folder,
    split,
    write_adapter_folder,
)

A = TensorSpec(
    name="base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    shape=(2, 3),
    trained=False,
)
B = TensorSpec(
    name="base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
    shape=(4, 2),
    trained=True,
)
SPECS = (A, B)
PACKED = np.arange(14, dtype=np.float32)
CONFIG = AdapterConfig(lora_rank=2, lora_alpha=4.0)


def test_the_digest_is_of_manifest_zero_byte_and_little_endian_values() -> None:
    content = rfc8785.dumps(manifest(SPECS)) + b"\0" + PACKED.astype("<f4").tobytes()
    assert packed_digest(SPECS, PACKED) == "sha256:" + hashlib.sha256(content).hexdigest()


def test_the_digest_of_a_known_adapter_never_changes() -> None:
    assert packed_digest(SPECS, PACKED) == (
        "sha256:0622f2819686483020cf80426dd9dfb7d7f6649887296aa0abb91fb5276f7efa"
    )


@given(index=st.integers(0, 13), bit=st.integers(0, 31))
def test_every_bit_of_every_value_changes_the_digest(index: int, bit: int) -> None:
    changed = PACKED.copy()
    changed.view(np.uint32)[index] ^= np.uint32(1 << bit)
    assert packed_digest(SPECS, changed) != packed_digest(SPECS, PACKED)


def test_another_name_or_shape_changes_the_digest() -> None:
    renamed = (A, TensorSpec(name=B.name.replace("q_proj", "o_proj"), shape=(4, 2), trained=True))
    reshaped = (A, TensorSpec(name=B.name, shape=(2, 4), trained=True))
    digests = {packed_digest(specs, PACKED) for specs in (SPECS, renamed, reshaped)}
    assert len(digests) == 3


def test_whether_a_tensor_is_trained_leaves_the_digest_alone() -> None:
    other = (TensorSpec(name=A.name, shape=A.shape, trained=True), B)
    assert packed_digest(other, PACKED) == packed_digest(SPECS, PACKED)


@given(packed=hnp.arrays(np.float32, 14))
def test_splitting_and_packing_gives_the_same_bits(packed: np.ndarray) -> None:
    assert pack(SPECS, split(SPECS, packed)).tobytes() == packed.tobytes()


def test_an_update_changes_the_trained_tensors_only_and_a_copy() -> None:
    summed = add_update(SPECS, PACKED, np.ones(8, dtype=np.float32))
    assert summed.tolist() == [*range(6), *range(7, 15)]
    assert PACKED.tolist() == list(range(14))


@pytest.mark.parametrize(
    "packed",
    [
        PACKED[:-1],
        PACKED.astype(np.float64),
        PACKED.reshape(2, 7),
        np.append(PACKED, np.float32(0)),
    ],
    ids=["short", "float64", "two dimensions", "long"],
)
def test_a_packed_array_that_does_not_fit_is_refused(packed: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        packed_digest(SPECS, packed)


def test_a_missing_tensor_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="lora_B"):
        pack(SPECS, {A.name: np.zeros((2, 3), np.float32)})


def test_sizes_add_up() -> None:
    assert packed_size(SPECS) == 14
    assert packed_size(()) == 0


def test_an_adapter_folder_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    write_adapter_folder(tmp_path / "adapter", SPECS, PACKED, CONFIG, "nano")
    assert read_adapter_folder(tmp_path / "adapter", SPECS).tobytes() == PACKED.tobytes()
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["self_attn.q_proj"]
    assert (written["r"], written["lora_alpha"]) == (2, 4.0)


def test_nothing_else_is_left_beside_an_adapter_folder(tmp_path: Path) -> None:
    write_adapter_folder(tmp_path / "adapter", SPECS, PACKED, CONFIG, "nano")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_same_adapter_may_be_written_again_but_not_another(tmp_path: Path) -> None:
    write_adapter_folder(tmp_path / "adapter", SPECS, PACKED, CONFIG, "nano")
    write_adapter_folder(tmp_path / "adapter", SPECS, PACKED, CONFIG, "nano")
    with pytest.raises(FileExistsError):
        write_adapter_folder(tmp_path / "adapter", SPECS, PACKED + 1, CONFIG, "nano")


def test_a_folder_with_other_tensors_is_refused(tmp_path: Path) -> None:
    write_adapter_folder(tmp_path / "adapter", SPECS, PACKED, CONFIG, "nano")
    with pytest.raises(ValueError, match="lora_B"):
        read_adapter_folder(tmp_path / "adapter", (A,))


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    write_adapter_folder(tmp_path / "adapter", SPECS, PACKED, CONFIG, "nano")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"\x80\x04 no tensors")
    with pytest.raises(ValueError, match="safetensors"):
        read_adapter_folder(tmp_path / "adapter", SPECS)


def test_packed_arrays_need_no_torch() -> None:
    check = "import sys, model.tensors; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parents[2])
