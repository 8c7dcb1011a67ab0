"""Adapter tensors as one packed array, the form in which they travel, are summed and digested.

A packed array holds the values of all tensors of a list of `TensorSpec`, one tensor after the
other in the list's order, each in row-major order, as float32. This module needs no torch, so that
an institution's door, the aggregator and an auditor can check, split and digest an adapter without
the framework that trained it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rfc8785
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from model.config import AdapterConfig, TensorSpec

_LITTLE_ENDIAN = np.dtype("<f4")
Packed = npt.NDArray[np.float32]

_PREFIX = "base_model.model."
_CONFIG_NAME = "adapter_config.json"
_WEIGHTS_NAME = "adapter_model.safetensors"


def packed_size(specs: Sequence[TensorSpec]) -> int:
    """Number of values of all tensors together."""
    return sum(spec.num_values for spec in specs)


def manifest(specs: Sequence[TensorSpec]) -> list[dict[str, str | list[int]]]:
    """Names and shapes in order, as JSON can carry them."""
    return [{"name": spec.name, "shape": list(spec.shape)} for spec in specs]


def check_packed(specs: Sequence[TensorSpec], packed: Packed) -> None:
    """Check that `packed` is a packed array of these tensors; its values may be anything.

    Raises:
      ValueError: Not float32, not one-dimensional, or of another size.
    """
    if packed.dtype != np.float32 or packed.ndim != 1:
        raise ValueError(
            f"expected one dimension of float32, got {packed.ndim} dimensions of {packed.dtype}"
        )
    if packed.size != packed_size(specs):
        raise ValueError(f"expected {packed_size(specs)} values, got {packed.size}")


def packed_digest(specs: Sequence[TensorSpec], packed: Packed) -> str:
    """`sha256:<hex>` of the manifest (RFC 8785), a zero byte, and the values.

    The values are little-endian float32.     The manifest goes first so that the same values under
    other names or shapes are another adapter. Whether a tensor is trained says nothing about its
    values and is not part of it.

    Raises:
      ValueError: `packed` is not a packed array of these tensors.
    """
    check_packed(specs, packed)
    hashed = hashlib.sha256(rfc8785.dumps(manifest(specs)))
    hashed.update(b"\0")
    hashed.update(np.ascontiguousarray(packed, dtype=_LITTLE_ENDIAN).data)
    return "sha256:" + hashed.hexdigest()


def split(specs: Sequence[TensorSpec], packed: Packed) -> dict[str, Packed]:
    """Tensors by name, as views of `packed`.

    Raises:
      ValueError: `packed` is not a packed array of these tensors.
    """
    check_packed(specs, packed)
    tensors = {}
    begin = 0
    for spec in specs:
        tensors[spec.name] = packed[begin : begin + spec.num_values].reshape(spec.shape)
        begin += spec.num_values
    return tensors


def pack(specs: Sequence[TensorSpec], tensors: Mapping[str, Packed]) -> Packed:
    """One packed array of the tensors that `specs` names; others in `tensors` are left out.

    Raises:
      ValueError: A tensor is missing, not float32, or of another shape.
    """
    for spec in specs:
        if spec.name not in tensors:
            raise ValueError(f"expected a tensor {spec.name}, got none")
        found = tensors[spec.name]
        if found.dtype != np.float32 or found.shape != spec.shape:
            raise ValueError(
                f"expected {spec.name} as float32 of shape {list(spec.shape)}, "
                f"got {found.dtype} of shape {list(found.shape)}"
            )
    if not specs:
        return np.empty(0, dtype=np.float32)
    return np.concatenate([tensors[spec.name].reshape(-1) for spec in specs])


def add_update(specs: Sequence[TensorSpec], packed: Packed, update: Packed) -> Packed:
    """A new packed adapter: `packed` plus `update`, the packed change of its trained tensors.

    Raises:
      ValueError: `packed` does not fit `specs`, or `update` its trained tensors.
    """
    summed = packed.copy()
    tensors = split(specs, summed)
    for name, change in split([spec for spec in specs if spec.trained], update).items():
        tensors[name] += change
    return summed


def write_adapter_folder(
    folder: Path,
    specs: Sequence[TensorSpec],
    packed: Packed,
    config: AdapterConfig,
    base_name: str,
) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` loads; it appears whole or not at all.

    Args:
      folder: Its parent exists. When it exists itself it must hold the same adapter, and stays as
        it is.
      specs: Every tensor of the adapter.
      packed: Their values.
      config: The adapter's numbers.
      base_name: Folder or name under which a reader of the adapter finds the base.

    Raises:
      FileExistsError: `folder` holds something else.
      ValueError: `packed` is not a packed array of these tensors.
    """
    files = {
        _CONFIG_NAME: _peft_config(specs, config, base_name),
        # Some readers refuse a file whose metadata does not name the framework.
        _WEIGHTS_NAME: save(split(specs, packed), metadata={"format": "pt"}),
    }
    if folder.exists():
        if any(
            not (folder / name).is_file() or (folder / name).read_bytes() != content
            for name, content in files.items()
        ):
            raise FileExistsError(f"expected no folder {folder} or one with the same adapter")
        return
    # A crash before the rename leaves a folder with a leading dot and no adapter under its name.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            with (partial / name).open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_adapter_folder(folder: Path, specs: Sequence[TensorSpec]) -> Packed:
    """Read back the tensors of a folder that `write_adapter_folder` or peft wrote, packed.

    Raises:
      ValueError: The file is not safetensors, or its tensors are not those of `specs`, by name,
        type and shape.
    """
    try:
        tensors = load_file(folder / _WEIGHTS_NAME)
    except SafetensorError as error:
        raise ValueError(f"expected safetensors in {folder / _WEIGHTS_NAME}: {error}") from None
    unknown = sorted(set(tensors) - {spec.name for spec in specs})
    if unknown:
        raise ValueError(f"expected the adapter's tensors only, got {unknown[0]} too")
    return pack(specs, tensors)


def _peft_config(specs: Sequence[TensorSpec], config: AdapterConfig, base_name: str) -> bytes:
    modules, parameters = _peft_targets({spec.name: spec.shape for spec in specs})
    content = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "peft_type": "LORA",
        "r": config.lora_rank,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    if parameters:
        content["target_parameters"] = sorted(parameters)
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _peft_targets(shapes: Mapping[str, tuple[int, ...]]) -> tuple[set[str], set[str]]:
    """What peft adapts as modules and what as parameters, by the last parts of the paths.

    Two parts (`self_attn.q_proj`), because a bare `q_proj` could match outside of the attention.
    """
    modules, parameters = set(), set()
    for name in shapes:
        path = name.removeprefix(_PREFIX).split(".lora_")[0]
        parts = path.split(".")
        if "experts" in parts:
            holder = path[: path.index(".experts") + len(".experts")]
            parameter = _expert_weight(shapes, f"{_PREFIX}{holder}", nested=path != holder)
            parameters.add(f"experts.{parameter}")
        elif {"shared_expert", "shared_experts"} & set(parts):
            # As a module peft takes it for a routed expert under its former name, and adapts
            # those instead.
            parameters.add(".".join(parts[-2:]) + ".weight")
        else:
            modules.add(".".join(parts[-2:]))
    return modules, parameters


def _expert_weight(shapes: Mapping[str, tuple[int, ...]], holder: str, *, nested: bool) -> str:
    """Name of an expert weight: peft names the wrapper, of which the inner is the first weight."""
    if not nested:
        return "down_proj"
    num_outputs = shapes[f"{holder}.base_layer.lora_B.weight"][0]
    # With a gate, the first weight has two outputs for each input of the second.
    return "up_proj" if num_outputs == shapes[f"{holder}.lora_A.weight"][1] else "gate_up_proj"
