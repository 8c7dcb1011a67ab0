"""The folder that users of a finished run get computes what base and adapter compute."""

import json
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.adapter import AdapterState, initial_adapter, inject_adapter, load_adapter
from model.base import base_digest, load_base, nano_folder, read_config
from model.config import AdapterConfig, BaseRef
from privacy.plan import RunPlan
from server.cli import main
from server.config import load, template
from server.registry import Registry
from server.runs import RoundResult, RunState, RunStore
from tests.federation.world import quiet_plan

CONFIG = AdapterConfig(lora_rank=2, lora_alpha=4.0, targets=("attention", "experts"))


@pytest.fixture(scope="module")
def drawn() -> AdapterState:
    state = initial_adapter(read_config(nano_folder()), CONFIG, seed=0)
    generator = torch.Generator().manual_seed(0)
    return AdapterState(
        state.specs,
        {n: torch.randn(t.shape, generator=generator) / 4 for n, t in state.tensors.items()},
    )


@pytest.fixture(scope="module")
def plan(drawn: AdapterState) -> RunPlan:
    return replace(
        quiet_plan("triage"),
        run="triage",
        base=BaseRef(name="nano", digest=base_digest(nano_folder())),
        adapter=CONFIG,
        tensors=drawn.specs,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    settings = template(name="regio", address="127.0.0.1:9092", listen="127.0.0.1:0")
    (folder / "federation.toml").write_text(settings)
    return folder


def remember(home: Path, plan: RunPlan, state: RunState, adapter: AdapterState | None) -> str:
    """A run in that state, which released an adapter where one is given."""
    config, digest = load(home), None
    if adapter is not None:
        packed = adapter.pack(trained_only=False)
        registry = Registry(config.adapters_folder)
        digest = registry.release(plan.tensors, packed, plan.adapter, plan.base.name)
    store = RunStore(config.state_folder / "runs.sqlite")
    store.offer(plan)
    store.begin(plan.digest, 1)
    result = RoundResult(server_round=1, adapter=digest, num_updates=2, seconds=1.0)
    store.end_round(plan.digest, result)
    if state is not RunState.RUNNING:
        store.end(plan.digest, state, "")
    store.close()
    return digest or ""


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(torch.tensor([[5, 40, 41, 42, 43], [5, 50, 51, 52, 53]])).logits
    return found


def test_of_two_finished_runs_one_must_be_named(
    home: Path,
    tmp_path: Path,
    plan: RunPlan,
    drawn: AdapterState,
    capsys: pytest.CaptureFixture[str],
) -> None:
    remember(home, plan, RunState.FINISHED, drawn)
    remember(home, replace(plan, run="ward"), RunState.FINISHED, drawn)
    out = tmp_path / "model"
    assert main(["export", str(out), "--home", str(home)]) == 1
    said = capsys.readouterr().err
    assert "expected one finished run, got triage, ward" in said
    assert "--run" in said
    assert not out.exists()


def test_a_disk_that_is_full_leaves_nothing_and_says_so(
    home: Path,
    tmp_path: Path,
    plan: RunPlan,
    drawn: AdapterState,
    capsys: pytest.CaptureFixture[str],
) -> None:
    remember(home, plan, RunState.FINISHED, drawn)
    out = tmp_path / "models" / "model"
    out.parent.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        assert main(["export", str(out), "--home", str(home)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert f"cannot write {out}" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


def test_transformers_alone_loads_the_folder_and_computes_the_same(
    home: Path,
    tmp_path: Path,
    plan: RunPlan,
    drawn: AdapterState,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digest = remember(home, plan, RunState.FINISHED, drawn)
    out = tmp_path / "triage-model"
    capsys.readouterr()
    assert main(["export", str(out), "--run", "triage", "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(out), "run": "triage", "adapter": digest,
    }  # fmt: skip
    base, _ = load_base(nano_folder(), plan.base)
    plain = logits(base)
    adapted = inject_adapter(base, CONFIG)
    load_adapter(adapted, drawn)
    wanted = logits(adapted)
    # A thousand times what float32 rounds in a sum of weights.
    assert (wanted - plain).abs().max() > 1
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=1e-3)
    words = AutoTokenizer.from_pretrained(out)
    assert (
        words("fever").input_ids == AutoTokenizer.from_pretrained(nano_folder())("fever").input_ids
    )
    # Nothing is written over.
    assert main(["export", str(out), "--home", str(home)]) == 1
    assert "expected a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED, RunState.STOPPED])
def test_a_run_that_is_not_finished_hands_out_nothing(
    home: Path, tmp_path: Path, plan: RunPlan, drawn: AdapterState, state: RunState,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    remember(home, plan, state, drawn)
    assert main(["export", str(tmp_path / "out"), "--home", str(home)]) == 1
    assert "expected a finished run, got 1 that are not" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_released_nothing_hands_out_nothing(
    home: Path, tmp_path: Path, plan: RunPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(home, plan, RunState.FINISHED, None)
    assert main(["export", str(tmp_path / "out"), "--home", str(home)]) == 1
    assert "expected a run that released an adapter" in capsys.readouterr().err


def test_another_base_or_a_changed_adapter_is_refused(
    home: Path,
    tmp_path: Path,
    plan: RunPlan,
    drawn: AdapterState,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digest = remember(home, plan, RunState.FINISHED, drawn)
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(nano_folder(), other)
    (other / "tokenizer_config.json").write_text("{}")
    assert main(["export", str(out), "--base", str(other), "--home", str(home)]) == 1
    assert "expected the base of run triage, nano" in capsys.readouterr().err
    file = load(home).adapters_folder / digest[7:] / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["export", str(out), "--home", str(home)]) == 1
    assert "does not match its digest" in capsys.readouterr().err
    assert not out.exists()
