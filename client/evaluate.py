"""Quality of the global adapter on this site's held-out units, beside the base and the site alone.

Three adapters are measured on all records of these units: none (the base), one that this site
trained alone with the plan's own numbers, and the federated one. The figures depend on records
without noise, so they stay in the site's folder. The adapter trained alone is thrown away: nothing
of it leaves, so it spends nothing of the budget.

In between, the global adapter of a round is measured on a part of these records, the same part
each time, so that the figures of rounds can be compared.
"""

import hashlib
import time
from collections.abc import Callable, Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from client.config import SiteConfig
from client.dataset import HeldOutRecord, SiteDataset
from client.progress import report
from client.train import run_rounds, train_round
from model.adapter import INITIAL_SEED, AdapterState, initial_adapter, load_adapter
from model.loss import base_of
from model.metrics import answer_nll
from model.metrics import evaluate as measure
from model.tensors import Packed
from model.tokenizer import encode
from privacy.errors import TrainingError
from privacy.plan import RunPlan, SiteShare


def evaluate_all(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: SiteDataset,
    plan: RunPlan,
    config: SiteConfig,
    federated: AdapterState,
) -> dict[str, object]:
    """Loss and accuracy of base, alone and federated, as `results.json` holds them.

    `alone` is None where the site does not want it, or where the plan starts from an adapter that
    this site cannot make itself. All are None when no unit is held out. `point` is what
    `evaluate_round` would say of the federated adapter, None where rounds are not measured.
    """
    names = ("base", "alone", "federated", "point")
    if not data.held_out:
        return {"num_held_out": 0, **dict.fromkeys(names)}
    start = initial_adapter(base_of(model).config, plan.adapter, seed=INITIAL_SEED)
    results: dict[str, object] = {"num_held_out": len(data.held_out), **dict.fromkeys(names)}
    load_adapter(model, federated)
    results["federated"] = _quality(model, tokenizer, data, plan, "federated")
    if config.evaluation.every:
        records = sample(data.held_out, config.evaluation.round_records)
        is_whole = len(records) == len(data.held_out)
        results["point"] = (
            results["federated"] if is_whole else _written(model, tokenizer, records, data, plan)
        )
    # B is zero in the initial adapter, so it is the base.
    load_adapter(model, start)
    results["base"] = _quality(model, tokenizer, data, plan, "base")
    if config.evaluation.alone and start.digest == plan.initial_adapter:
        _train_alone(model, data, plan, plan.share(config.site.name), start)
        results["alone"] = _quality(model, tokenizer, data, plan, "alone")
    return results


def evaluate_round(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: SiteDataset,
    plan: RunPlan,
    config: SiteConfig,
    adapter: AdapterState,
    *,
    limit_s: float,
) -> dict[str, float] | None:
    """Loss and accuracy of a round's adapter on a part of the held-out records; None without any.

    Draws no random number and changes nothing in `model` but the adapter, which each round loads
    anew: training after it is what it would be without.

    After `limit_s` seconds it is given up, between two batches. A process that has to be ended
    would cost the next round: it would read and mask all records again.

    Raises:
      TrainingError: It takes longer than that.
    """
    if not data.held_out:
        return None
    deadline = time.monotonic() + limit_s

    def check() -> None:
        if time.monotonic() > deadline:
            raise TrainingError(
                f"measuring a round took longer than the {limit_s:.1f} s that a round leaves it",
                hint="lower [evaluation] round_records, or measure fewer rounds with every",
            )

    load_adapter(model, adapter)
    records = sample(data.held_out, config.evaluation.round_records)
    return _written(model, tokenizer, records, data, plan, before_batch=check)


def sample(held_out: Sequence[HeldOutRecord], most: int) -> tuple[HeldOutRecord, ...]:
    """At most so many of the held-out records, the same in each round and each process.

    They are chosen by a digest: a database may give its rows in another order next time.
    """
    if len(held_out) <= most:
        return tuple(held_out)

    def digest(record: HeldOutRecord) -> bytes:
        said = "\0".join((record.unit_id, record.prompt, record.answer, record.label))
        return hashlib.sha256(said.encode()).digest()

    return tuple(sorted(held_out, key=digest)[:most])


def _train_alone(
    model: nn.Module, data: SiteDataset, plan: RunPlan, share: SiteShare, state: AdapterState
) -> None:
    """The plan's rounds with this site as the only one: its update is the mean."""

    def own_update(server_round: int, current: AdapterState) -> Packed:
        report("alone", round=server_round, num_rounds=plan.rounds.num_rounds)
        load_adapter(model, current)
        return train_round(model, data.train, plan, share, server_round=server_round).update

    noise = plan.noise_variance([share.name])
    load_adapter(model, run_rounds(plan, state, own_update, noise_variance=noise))


def _quality(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: SiteDataset,
    plan: RunPlan,
    name: str,
) -> dict[str, float]:
    report("evaluating", records=len(data.held_out))
    written = _written(model, tokenizer, data.held_out, data, plan)
    report(f"evaluated_{name}", loss=written["loss"], accuracy=written["accuracy"])
    return written


def _written(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[HeldOutRecord],
    data: SiteDataset,
    plan: RunPlan,
    before_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """What `results.json` says of the adapter that is in `model`."""
    model.eval()
    pairs = [(record.prompt, record.label) for record in records]
    quality = measure(model, tokenizer, pairs, data.labels, plan.text, before_batch=before_batch)
    loss = quality.loss
    if plan.text.answer != "label":
        # The label's loss is not what the plan learns.
        examples = [
            encode(tokenizer, record.prompt, record.answer, plan.text) for record in records
        ]
        loss = float(answer_nll(model, examples, before_batch=before_batch).mean())
    return {
        "loss": round(loss, 5),
        "accuracy": round(quality.accuracy, 5),
        "num_examples": quality.num_examples,
    }
