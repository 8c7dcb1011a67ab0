"""Where a run stands, on disk: weights, optimizer and progress in one file."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass
class Progress:
    """Tokens seen, and the curve: tokens, then losses since the point before.

    Losses are in nats a token: of text, and of answers of the label warm-up.
    """

    tokens: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)


def save_checkpoint(
    out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write weights, optimizer and progress; a crash leaves the previous checkpoint whole."""
    flat = {
        f"model.{k}": v.contiguous()
        for k, v in model.state_dict().items()
        if k != "lm_head.weight"
    }
    for index, state in optimizer.state_dict()["state"].items():
        flat |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    save_file(flat, out / "checkpoint.next", metadata={"progress": json.dumps(asdict(progress))})
    os.replace(out / "checkpoint.next", out / "checkpoint.safetensors")


def load_checkpoint(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what `save_checkpoint` wrote; a new beginning when there is nothing to restore."""
    path = out / "checkpoint.safetensors"
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as opened:
        progress = Progress(**json.loads(opened.metadata()["progress"]))
    flat = load_file(path)
    weights = {k.removeprefix("model."): v for k, v in flat.items() if k.startswith("model.")}
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return progress
