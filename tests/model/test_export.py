"""That others compute with what is handed out what was trained."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from model.adapter import AdapterState, initial_adapter, inject_adapter, load_adapter
from model.base import base_digest, load_base, read_config
from model.config import AdapterConfig, BaseRef
from model.export import export_adapter, export_merged

CONFIG = AdapterConfig(lora_rank=3, lora_alpha=6.0)
PROMPT = torch.tensor([[1, 40, 41, 42, 43, 44], [1, 50, 51, 52, 53, 54]])


def drawn(folder: Path) -> AdapterState:
    state = initial_adapter(read_config(folder), CONFIG, seed=0)
    generator = torch.Generator().manual_seed(0)
    return AdapterState(
        state.specs,
        {n: torch.randn(t.shape, generator=generator) / 4 for n, t in state.tensors.items()},
    )


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    found: Tensor = model(PROMPT).logits
    return found


def adapted(folder: Path) -> Tensor:
    model, _ = load_base(folder, None)
    base = logits(model)
    injected = inject_adapter(model, CONFIG)
    load_adapter(injected, drawn(folder))
    found = logits(injected)
    assert (found - base).abs().max() > 0.01
    return found


def test_peft_loads_an_exported_adapter_and_computes_the_same(
    folder: Path, tmp_path: Path
) -> None:
    export_adapter(tmp_path / "adapter", drawn(folder), CONFIG, str(folder))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), adapted(folder), rtol=1e-5, atol=1e-5)


def test_a_merged_base_computes_what_base_and_adapter_compute(
    folder: Path, tmp_path: Path
) -> None:
    ref = BaseRef(name="tiny", digest=base_digest(folder))
    export_merged(tmp_path / "merged", folder, ref, drawn(folder), CONFIG)
    merged, tokenizer = load_base(tmp_path / "merged", None)
    torch.testing.assert_close(logits(merged), adapted(folder), rtol=1e-4, atol=1e-4)
    assert tokenizer.eos_token_id == 2
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_an_existing_folder_is_not_overwritten(nano_like: Path, tmp_path: Path) -> None:
    ref = BaseRef(name="tiny", digest=base_digest(nano_like))
    with pytest.raises(FileExistsError):
        export_merged(tmp_path, nano_like, ref, drawn(nano_like), CONFIG)
