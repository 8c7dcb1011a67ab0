"""What a federation hands out: an adapter folder, or a base with the adapter merged in."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn

from model.adapter import AdapterState, inject_adapter, load_adapter, merge_adapter
from model.base import load_base
from model.config import AdapterConfig, BaseRef
from model.tensors import write_adapter_folder


def export_adapter(
    folder: Path, state: AdapterState, config: AdapterConfig, base_name: str
) -> None:
    """Write an adapter for `peft`, as `model.tensors.write_adapter_folder` does."""
    write_adapter_folder(folder, state.specs, state.pack(trained_only=False), config, base_name)


def export_merged(
    folder: Path,
    base: Path,
    ref: BaseRef,
    state: AdapterState,
    config: AdapterConfig,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a base with an adapter merged into its weights, whole or not at all.

    The tokenizer goes along.

    Args:
      folder: Must not exist; its parent does.
      base: Folder of the base.
      ref: The base that the adapter was trained on.
      state: The adapter.
      config: Its numbers.
      dtype: Type of the weights that are written; the sum is made in float32.

    Raises:
      FileExistsError: `folder` exists.
      UnusableBaseError: `base` is not what `ref` says.
      ValueError: The adapter is not one of this base.
    """
    if folder.exists():
        raise FileExistsError(f"expected no folder {folder}, got one")
    model, tokenizer = load_base(base, ref)
    injected = inject_adapter(model, config)
    load_adapter(injected, state)
    merged = merge_adapter(injected)
    nn.Module.to(merged, dtype)
    # A crash before the rename leaves a folder with a leading dot and no base under its name.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        # Gigabytes, whatever ended it: a full disk is no OSError to safetensors.
        shutil.rmtree(partial, ignore_errors=True)
        raise
