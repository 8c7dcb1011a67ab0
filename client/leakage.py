"""The program that attacks an adapter with a site's own units, in a room without keys and network.

`python -m client.leakage`, started by `client.disclosure` as the agent starts `client.child`: the
records are read, masked and split by the same code. Losses of single units never leave this
process; figures and counts go to the site's own command, which decides what becomes of them.

A unit's losses are computed by itself, never beside others: what stands in a batch with it would
change their last digits, and a count could move by more than one when a unit is taken away. A
long unit's records go through in microbatches of their own, as in training: all at once would not
fit into memory, and its test, spent already, could never end.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from client.app import node_of
from client.dataset import SiteDataset
from client.framing import unframe
from client.progress import listened, report
from client.worker import Handler, Progress, serve
from model.adapter import INITIAL_SEED, AdapterState, initial_adapter, load_adapter
from model.loss import LOSS_DENOMINATOR, base_of, collate, per_example_loss
from model.tokenizer import Example, encode
from privacy.dp import membership
from privacy.dp.engine import DEFAULT_MAX_TOKENS, parts_of
from privacy.errors import ConfigError
from privacy.plan import RunPlan

_REPORT_EVERY: Final = 100


def measure(
    model: nn.Module,
    members: Sequence[Sequence[Example]],
    others: Sequence[Sequence[Example]],
    plan: RunPlan,
    adapter: AdapterState,
) -> dict[str, Any]:
    """What each attack achieves with these units, exactly, and the counts that noise may go to.

    Args:
      model: With the plan's adapter put in; holds the base's behaviour afterwards.
      members: Units that the site trained on, each with its examples.
      others: Units that it held out.
      plan: The plan.
      adapter: The adapter that is attacked.

    Raises:
      ConfigError: A group is empty.
    """
    if not members or not others:
        raise ConfigError(
            f"expected units to train on and units held out, got {len(members)} and {len(others)}",
            hint="about one unit in five is held out: test an adapter on more records",
        )
    units = [*members, *others]
    model.eval()
    load_adapter(model, adapter)
    adapter_losses = _losses(model, units, "adapter")
    # B is zero in the initial adapter, so it is the base.
    load_adapter(model, initial_adapter(base_of(model).config, plan.adapter, seed=INITIAL_SEED))
    base_losses = _losses(model, units, "base")
    found = [
        membership.scores(of_adapter, of_base)
        for of_adapter, of_base in zip(adapter_losses, base_losses, strict=True)
    ]
    inside, outside = found[: len(members)], found[len(members) :]
    attacks = {
        name: asdict(membership.attack([u[name] for u in inside], [u[name] for u in outside]))
        for name in membership.EDGES
    }
    return {
        "num_members": len(members),
        "num_others": len(others),
        "attacks": attacks,
        "counts": membership.count(inside, outside),
    }


@torch.no_grad()
def _losses(model: nn.Module, units: Sequence[Sequence[Example]], what: str) -> list[float]:
    """Each unit's mean loss of a token of its answers, in nats, as it is in training."""
    device = base_of(model).device
    losses = []
    for number, examples in enumerate(units):
        nll, num_tokens = 0.0, 0
        for part in parts_of([examples], DEFAULT_MAX_TOKENS):
            batch = collate(part).to(device)
            loss_B = per_example_loss(
                model, batch.input_ids, batch.attention_mask, batch.answer_mask
            )
            nll += float(loss_B.double().sum()) * LOSS_DENOMINATOR
            num_tokens += int(batch.answer_mask.sum())
        losses.append(nll / num_tokens)
        if number % _REPORT_EVERY == 0:
            report(f"attacking_{what}", units=number)
    return losses


def held_out_examples(
    data: SiteDataset, tokenizer: PreTrainedTokenizerBase, plan: RunPlan
) -> list[list[Example]]:
    """The held-out units, each with its examples, as they would have been trained on."""
    units: dict[str, list[Example]] = {}
    for record in data.held_out:
        example = encode(tokenizer, record.prompt, record.answer, plan.text)
        units.setdefault(record.unit_id, []).append(example)
    return list(units.values())


def _answer(request: bytes, tell: Callable[[Progress], None]) -> bytes:
    settings, adapter = unframe(request)
    packed = np.frombuffer(adapter, dtype="<f4").astype(np.float32)
    with listened(tell):
        node = node_of(settings)
        measured = measure(
            node.model,
            [unit.examples for unit in node.data.train],
            held_out_examples(node.data, node.tokenizer, node.plan),
            node.plan,
            AdapterState.unpack(node.plan.tensors, packed),
        )
    return json.dumps(measured).encode()


def _make_handler() -> Handler:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    return _answer


def main() -> NoReturn:
    """Answer the requests of the command until it closes the pipe."""
    serve(_make_handler)


if __name__ == "__main__":
    main()
