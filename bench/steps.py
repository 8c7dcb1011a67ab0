"""One side of a comparison of training steps: a process that takes steps when it is told to.

Reads a word a line from its standard input and answers each with a number: `step` with the seconds
of one forward and backward pass, `memory` with the bytes that a step needed at its peak beyond
program and weights. Only the side's own libraries are loaded.
"""

import ctypes
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, OlmoeConfig, PreTrainedModel

from model.adapter import AdaptedModel, inject_adapter, trained_parameters
from model.base import load_base, nano_folder
from model.config import AdapterConfig, Target
from model.loss import collate, per_example_loss
from model.tokenizer import Example
from privacy.dp.engine import PrivateGradients

if TYPE_CHECKING:
    from torch import nn

RANK = 8
VOCABULARY = 1024
Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is trained on what.

    Attributes:
      base: `nano`, or `olmoe`: two layers of OLMoE's shape, 64 experts, 8 a token, width 512.
      num_examples: B.
      num_tokens: T, of every example.
      train: `B`, or `AB`.
      targets: What LoRA adapts.
    """

    base: str
    num_examples: int
    num_tokens: int
    train: str = "B"
    targets: tuple[Target, ...] = ("attention", "experts")

    @property
    def title(self) -> str:
        """The case in words."""
        shape = f"B{self.num_examples} T{self.num_tokens}"
        return f"{self.base} {shape}, LoRA on {' and '.join(self.targets)}, train {self.train}"

    def encode(self) -> str:
        """As one word of a command line."""
        return (
            f"{self.base}:{self.num_examples}:{self.num_tokens}:{self.train}:"
            f"{','.join(self.targets)}"
        )

    @classmethod
    def decode(cls, text: str) -> "Case":
        """Back from `encode`."""
        base, examples, tokens, train, targets = text.split(":")
        return cls(
            base=base,
            num_examples=int(examples),
            num_tokens=int(tokens),
            train=train,
            targets=tuple(targets.split(",")),  # type: ignore[arg-type]
        )


def make_base(name: str) -> PreTrainedModel:
    """The base of a case, on the CPU or on the first GPU."""
    if name == "nano":
        base = load_base(nano_folder(), None)[0]
    else:
        torch.manual_seed(0)
        config = OlmoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=8,
            num_experts=64,
            num_experts_per_tok=8,
            pad_token_id=0,
            eos_token_id=1,
            initializer_range=0.05,
        )
        base = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    return base.to(device())  # type: ignore[no-any-return, arg-type]


def device() -> str:
    """Where steps are taken."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_units(case: Case) -> list[list[Example]]:
    """A unit of one example a row, with random tokens."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.num_examples, case.num_tokens)
    rows = torch.randint(3, VOCABULARY, shape, generator=generator).tolist()
    return [[Example(row, case.num_tokens - 8)] for row in rows]


def adapted(case: Case) -> AdaptedModel:
    """The base with our adapter; B is not zero, so that everything has a gradient."""
    config = AdapterConfig(
        lora_rank=RANK,
        lora_alpha=2.0 * RANK,
        targets=case.targets,
        train=case.train,  # type: ignore[arg-type]
    )
    model = inject_adapter(make_base(case.base), config)
    _randomise(trained_parameters(model))
    return model


def private(case: Case) -> Step:
    """Our step with per-unit clipping."""
    units = make_units(case)
    gradients = PrivateGradients(adapted(case), clip_norm=1.0, max_tokens=10**9)
    return lambda: _drop(gradients.clipped_sum(units))


def plain(case: Case) -> Step:
    """Our step with ordinary, summed gradients: the same layers, nothing told apart."""
    model = adapted(case)
    return _summed(model, trained_parameters(model), make_units(case))


def peft(case: Case, implementation: str) -> Step:
    """The step of transformers and peft, whose adapters on experts are `target_parameters`."""
    from peft import LoraConfig, get_peft_model

    base = make_base(case.base)
    base.set_experts_implementation(implementation)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"] if "attention" in case.targets else []
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=modules, target_parameters=parameters
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(base, config)
    model.eval()
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name and name.split(".lora_")[1][0] in case.train)
        trained += [parameter] if parameter.requires_grad else []
    _randomise(trained)
    return _summed(model, trained, make_units(case))


SIDES: dict[str, Callable[[Case], Step]] = {
    "private": private,
    "plain": plain,
    "peft-eager": lambda case: peft(case, "eager"),
    "peft-grouped": lambda case: peft(case, "grouped_mm"),
}


def _summed(model: "nn.Module", trained: list["nn.Parameter"], units: list[list[Example]]) -> Step:
    batch = collate([example for unit in units for example in unit]).to(device())

    def step() -> None:
        losses = per_example_loss(model, batch.input_ids, batch.attention_mask, batch.answer_mask)
        losses.sum().backward()
        if any(parameter.grad is None for parameter in trained):
            raise RuntimeError("a trained tensor got no gradient: the sides do not compare")
        for parameter in trained:
            parameter.grad = None

    return step


@torch.no_grad()
def _randomise(parameters: list["nn.Parameter"]) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def _drop(_: object) -> None:
    """Nothing: a step's result is not kept."""


def timed(step: Step) -> float:
    """Seconds of a step.

    With one thread on a CPU they are the process's own, so that other programs on the machine cost
    a step nothing but its caches.
    """
    alone = device() == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    begun = clock()
    step()
    if device() == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def peak_bytes(step: Step) -> int:
    """What a step needs at its peak beyond what is held before.

    Resident, or allocated on a GPU.
    """
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    # What the allocator holds back would hide what the step asks for.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_bytes("VmRSS")
    step()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(side: str, case: str) -> None:
    """Answer words until there are none."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    step = SIDES[side](Case.decode(case))
    answers: dict[str, Callable[[], float]] = {
        "step": lambda: timed(step),
        "memory": lambda: peak_bytes(step),
    }
    for line in sys.stdin:
        print(answers[line.strip()](), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
