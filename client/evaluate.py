"""Quality of the global adapter on this site's held-out units, beside the base and the site alone.

Three adapters are measured on the same units: none (the base), one that this site trained alone
with the plan's own numbers, and the federated one. The figures depend on records without noise, so
they stay in the site's folder. The adapter trained alone is thrown away: nothing of it leaves, so
it spends nothing of the budget.
"""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from client.config import SiteConfig
from client.dataset import LabelledUnit, SiteDataset
from client.progress import report
from client.train import run_rounds, train_round
from model.adapter import INITIAL_SEED, AdapterState, initial_adapter, load_adapter
from model.loss import base_of
from model.metrics import Quality, answer_nll
from model.metrics import evaluate as measure
from model.tensors import Packed
from model.tokenizer import encode
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
    this site cannot make itself. All are None when no unit is held out.
    """
    names = ("base", "alone", "federated")
    if not data.held_out:
        return {"num_held_out": 0, **dict.fromkeys(names)}
    start = initial_adapter(base_of(model).config, plan.adapter, seed=INITIAL_SEED)
    results: dict[str, object] = {"num_held_out": len(data.held_out), **dict.fromkeys(names)}
    load_adapter(model, federated)
    results["federated"] = _quality(model, tokenizer, data, plan, "federated")
    # B is zero in the initial adapter, so it is the base.
    load_adapter(model, start)
    results["base"] = _quality(model, tokenizer, data, plan, "base")
    if config.evaluation.alone and start.digest == plan.initial_adapter:
        _train_alone(model, data, plan, plan.share(config.site.name), start)
        results["alone"] = _quality(model, tokenizer, data, plan, "alone")
    return results


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
    report("evaluating", units=len(data.held_out))
    model.eval()
    pairs = [(unit.prompt, unit.label) for unit in data.held_out]
    quality = measure(model, tokenizer, pairs, data.labels, plan.text)
    loss = quality.loss
    if plan.text.answer != "label":
        loss = _answer_loss(model, tokenizer, data.held_out, plan)
    report(f"evaluated_{name}", loss=loss, accuracy=quality.accuracy)
    return _written(quality, loss)


def _answer_loss(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[LabelledUnit],
    plan: RunPlan,
) -> float:
    """Mean negative log-likelihood of what the plan learns, where that is not the label."""
    examples = [encode(tokenizer, unit.prompt, unit.answer, plan.text) for unit in held_out]
    return float(answer_nll(model, examples).mean())


def _written(quality: Quality, loss: float) -> dict[str, float]:
    return {
        "loss": round(loss, 5),
        "accuracy": round(quality.accuracy, 5),
        "num_examples": quality.num_examples,
    }
