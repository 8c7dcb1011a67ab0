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
EXPERTS = AdapterConfig(lora_rank=4, lora_alpha=6.0, targets=("experts",))
BOTH = AdapterConfig(lora_rank=3, lora_alpha=6.0, targets=("attention", "experts"))
ALL = AdapterConfig(lora_rank=3, lora_alpha=6.0, targets=("attention", "experts", "shared"))
CASES = [
    *[
        (family, config)
        for family in ("deepseek_v3", "gpt_oss", "mixtral", "olmoe", "qwen3_moe")
        for config in (CONFIG, EXPERTS, BOTH)
    ],
    ("deepseek_v3", ALL),
    ("deepseek_v3", AdapterConfig(lora_rank=3, lora_alpha=6.0, targets=("shared",))),
]
every_case = pytest.mark.parametrize(
    ("family", "config"), CASES, ids=[f"{f}-{'-'.join(c.targets)}" for f, c in CASES]
)
PROMPT = torch.tensor([[1, 40, 41, 42, 43, 44], [1, 50, 51, 52, 53, 54]])


def drawn(folder: Path, config: AdapterConfig = CONFIG) -> AdapterState:
    state = initial_adapter(read_config(folder), config, seed=0)
    generator = torch.Generator().manual_seed(0)
    return AdapterState(
        state.specs,
        {n: torch.randn(t.shape, generator=generator) / 4 for n, t in state.tensors.items()},
    )


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    found: Tensor = model(PROMPT).logits
    return found


def adapted(folder: Path, config: AdapterConfig) -> Tensor:
    model, _ = load_base(folder, None)
    base = logits(model)
    injected = inject_adapter(model, config)
    load_adapter(injected, drawn(folder, config))
    found = logits(injected)
    assert (found - base).abs().max() > 0.01
    return found


def loaded_by_peft(folder: Path, adapter: Path) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # peft warns of shared key names; a key that it did not find would be another warning.
        warnings.filterwarnings("ignore", ".*expert", UserWarning)
        return PeftModel.from_pretrained(base, str(adapter), is_trainable=True)


@every_case
def test_peft_loads_an_exported_adapter_and_computes_the_same(
    folders: dict[str, Path], tmp_path: Path, family: str, config: AdapterConfig
) -> None:
    folder = folders[family]
    export_adapter(tmp_path / "adapter", drawn(folder, config), config, str(folder))
    loaded = loaded_by_peft(folder, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), adapted(folder, config), rtol=1e-5, atol=1e-5)


@every_case
def test_peft_adapts_what_the_plan_lists_and_nothing_else(
    folders: dict[str, Path], tmp_path: Path, family: str, config: AdapterConfig
) -> None:
    folder = folders[family]
    state = drawn(folder, config)
    export_adapter(tmp_path / "adapter", state, config, str(folder))
    found = {
        name.replace(".default.weight", ".weight"): tuple(p.shape)
        for name, p in loaded_by_peft(folder, tmp_path / "adapter").named_parameters()
        if p.requires_grad
    }
    assert found == {spec.name: spec.shape for spec in state.specs}


@every_case
def test_a_merged_base_computes_what_base_and_adapter_compute(
    folders: dict[str, Path], tmp_path: Path, family: str, config: AdapterConfig
) -> None:
    folder = folders[family]
    ref = BaseRef(name="tiny", digest=base_digest(folder))
    export_merged(tmp_path / "merged", folder, ref, drawn(folder, config), config)
    merged, tokenizer = load_base(tmp_path / "merged", None)
    torch.testing.assert_close(logits(merged), adapted(folder, config), rtol=1e-4, atol=1e-4)
    assert tokenizer.eos_token_id == 2
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_an_existing_folder_is_not_overwritten(nano_like: Path, tmp_path: Path) -> None:
    ref = BaseRef(name="tiny", digest=base_digest(nano_like))
    with pytest.raises(FileExistsError):
        export_merged(tmp_path, nano_like, ref, drawn(nano_like), CONFIG)
