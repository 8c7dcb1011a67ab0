"""The real training process of a site, with the nano base and no coordinator."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from flwr.proto import message_pb2
from flwr.supercore.task_identity import TaskIdentity
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DeepseekV3Config

from client.framing import frame
from client.link import write_message
from client.worker import Worker
from model.adapter import (
    INITIAL_SEED,
    adapter_specs,
    initial_adapter,
    inject_adapter,
    load_adapter,
)
from model.base import base_digest, nano_folder
from model.config import AdapterConfig, BaseRef
from privacy import wire
from privacy.dp.config import MechanismConfig, Unit
from privacy.masking.config import MaskingConfig
from privacy.plan import (
    ExitConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)

SETTINGS = """
[site]
name = "s"
coordinator = "localhost:1"
[data]
path = "{path}"
num_units = 40
[budget]
epsilon = 8
delta = 1e-3
"""


def nano_plan(masking: MaskingConfig, answer: str = "label") -> tuple[RunPlan, wire.Instruction]:
    """A plan of one round on the nano base, and its instruction."""
    adapter = AdapterConfig(lora_rank=2, lora_alpha=4.0)
    base = AutoConfig.from_pretrained(nano_folder())
    state = initial_adapter(base, adapter, seed=INITIAL_SEED)
    plan = RunPlan(
        federation="f",
        run="r",
        base=BaseRef(name="nano", digest=base_digest(nano_folder())),
        adapter=adapter,
        tensors=adapter_specs(base, adapter),
        initial_adapter=state.digest,
        text=TextConfig(max_tokens=64, answer=answer),  # type: ignore[arg-type]
        masking=masking,
        mechanism=MechanismConfig(
            unit=Unit.RECORD,
            target_epsilon=8.0,
            delta=1e-3,
            noise_multiplier=1.0,
            clip_norm=1.0,
            sample_rate=0.1,
            steps_per_round=1,
        ),
        optimizer=OptimizerConfig(),
        rounds=RoundsConfig(num_rounds=1, min_sites=1),
        exits=ExitConfig(max_update_norm=1000.0, max_update_bytes=50_000_000),
        sites=(SiteShare(name="s", num_units=40),),
    )
    packed = state.pack(trained_only=False)
    return plan, wire.Instruction(kind="train", plan=plan.digest, server_round=1, adapter=packed)


def request(
    folder: Path, data: Path, plan: RunPlan, instruction: wire.Instruction, extra: str = ""
) -> bytes:
    """What the agent asks its training process."""
    settings = folder / "site.toml"
    settings.write_text(SETTINGS.format(path=data) + extra)
    header: Mapping[str, object] = {
        "site_config": str(settings),
        "plan": plan.canonical().decode(),
        "holdout_key": "07" * 32,
        "surrogate_key": "09" * 32,
    }
    # As the coordinator's engine does; Flower makes no message without.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = int(plan.run_id), 1, 1
    message = Message(wire.write_instruction(instruction, plan), 1, instruction.kind, group_id="1")
    return frame(header, write_message(message))


def message_of(content: bytes) -> Any:  # noqa: ANN401  Flower's classes carry no types
    """A message as it travels."""
    return message_pb2.Message.FromString(content)


def worker(folder: Path, before: str = "") -> Worker:
    """The training process as the agent starts it, with `before` run first."""
    program = folder / "program.py"
    program.write_text(
        f"{before}\nfrom client.child import _make_handler\nfrom client.worker import serve\n"
        "serve(_make_handler)\n"
    )
    return Worker(
        [sys.executable, str(program)],
        environment={"OMP_NUM_THREADS": "1"},
        hide=[],
        memory_limit_mb=4000,
    )


def tiny_adapted(adapter: AdapterConfig, *, width: int) -> nn.Module:
    """A base of two layers with an adapter in it, the same each time.

    Args:
      adapter: What is put in.
      width: Of the model; 16 is enough for a step, 32 to learn some units by heart.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=3 * width // 2,
        moe_intermediate_size=3 * width // 4,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=None,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    )
    base = AutoModelForCausalLM.from_config(config, experts_implementation="grouped_mm")
    with torch.no_grad():
        # A fresh head predicts next to nothing, whatever an adapter does.
        base.get_output_embeddings().weight.mul_(25)
    injected = inject_adapter(base, adapter)
    load_adapter(injected, initial_adapter(config, adapter, seed=0))
    return injected
