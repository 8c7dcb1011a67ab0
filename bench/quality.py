"""What an adapter is worth: base, each site alone, all data pooled, and federated.

Parties are files `NAME.jsonl.gz` with rows `{id, prompt, label}` and `unit_id` where a unit has
several rows; a folder to train on and one to test on hold files of the same names. Every setting
sees the same base, adapter, optimizer and number of steps. With an epsilon the steps are those of
the product (`client.train`), with noise for that epsilon over all rounds; with `inf` they are the
same steps without clipping and noise. Text is taken as it is: masking has its own measurement.
"""

import argparse
import gzip
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, pstdev

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from client.dataset import TokenizedUnit
from client.train import make_optimizer, run_rounds, train_round
from model.adapter import (
    AdapterState,
    adapter_specs,
    initial_adapter,
    inject_adapter,
    load_adapter,
    read_adapter,
    trained_parameters,
)
from model.base import load_base, nano_folder
from model.config import AdapterConfig, BaseRef, ServerOptimizerConfig
from model.metrics import evaluate
from model.tensors import Packed
from model.tokenizer import encode
from privacy.dp.calibrate import calibrate_noise
from privacy.dp.config import MechanismConfig, Unit
from privacy.dp.engine import NO_CLIP, PrivateGradients, draw_units
from privacy.masking.config import MaskingConfig
from privacy.plan import ExitConfig, OptimizerConfig, RoundsConfig, RunPlan, SiteShare, TextConfig
from server.aggregate import StreamingMean

_DIGEST = "sha256:" + "0" * 64
SETTINGS = ("alone", "pooled", "federated")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What all settings have in common; the fields are those of a plan.

    Attributes:
      max_test: Test rows a site, at most; 0 for all.
    """

    adapter: AdapterConfig
    text: TextConfig
    optimizer: OptimizerConfig
    server_optimizer: ServerOptimizerConfig
    clip_norm: float
    sample_rate: float
    steps_per_round: int
    num_rounds: int
    max_test: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """One site: units to train on, pairs to test on, the labels to choose from."""

    name: str
    units: tuple[TokenizedUnit, ...]
    test: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]


@dataclass(kw_only=True)
class Row:
    """One setting at one epsilon: means over sites, standard deviation over seeds.

    Attributes:
      setting: `base`, `alone`, `pooled` or `federated`.
      epsilon: As asked for; `inf` without privacy.
      loss: Held-out label loss in nats, the whole label together, mean over sites.
      accuracy: By scoring the label candidates, mean over sites.
      accuracy_sd: Of that mean, over seeds.
      sites: Loss and accuracy by site, means over seeds.
    """

    setting: str
    epsilon: str
    loss: float
    accuracy: float
    accuracy_sd: float
    sites: dict[str, dict[str, float]] = field(default_factory=dict)


def read_parties(
    train: Path, test: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> list[Party]:
    """Every party that has a file in both folders, by name.

    Raises:
      RuntimeError: There is none.
    """
    parties = []
    for path in sorted(train.glob("*.jsonl.gz")):
        if not (test / path.name).exists():
            continue
        units: dict[str, list[tuple[str, str]]] = {}
        for row in _rows(path):
            units.setdefault(str(row.get("unit_id", row["id"])), []).append(
                (row["prompt"], row["label"])
            )
        pairs = [(row["prompt"], row["label"]) for row in _rows(test / path.name)]
        if recipe.max_test:
            # Every n-th, not the first: files may be sorted.
            pairs = pairs[:: max(1, len(pairs) // recipe.max_test)][: recipe.max_test]
        parties.append(
            Party(
                name=path.name.removesuffix(".jsonl.gz"),
                units=tuple(
                    TokenizedUnit(
                        unit_id=unit,
                        examples=tuple(encode(tokenizer, *pair, recipe.text) for pair in own),
                    )
                    for unit, own in units.items()
                ),
                test=tuple(pairs),
                labels=tuple(sorted({label for own in units.values() for _, label in own})),
            )
        )
    if not parties:
        raise RuntimeError(f"expected files of the same name in {train} and {test}, got none")
    return parties


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class Study:
    """Trains and measures every setting on one model.

    Args:
      base: Folder of the base; the embedded one by default.
    """

    def __init__(
        self, train: Path, test: Path, recipe: Recipe, *, base: Path | None = None
    ) -> None:
        model, self.tokenizer = load_base(base or nano_folder(), None)
        self.recipe = recipe
        self.parties = read_parties(train, test, self.tokenizer, recipe)
        self.specs = adapter_specs(model.config, recipe.adapter)
        self.start = initial_adapter(model.config, recipe.adapter, seed=0)
        self.model: nn.Module = inject_adapter(model, recipe.adapter)

    def rows(
        self, epsilons: Sequence[str], num_seeds: int, settings: Sequence[str] = SETTINGS
    ) -> Iterator[Row]:
        """The settings at all epsilons; the base once."""
        self.forget()
        yield _row("base", "inf", [{p.name: self.measure(p) for p in self.parties}])
        for epsilon in epsilons:
            for setting in settings:
                begun = time.monotonic()
                seeds = []
                for seed in range(num_seeds):
                    torch.manual_seed(seed)
                    seeds.append(getattr(self, f"_{setting}")(epsilon))
                _say(f"{setting} at epsilon {epsilon}: {time.monotonic() - begun:.0f} s")
                yield _row(setting, epsilon, seeds)

    def _alone(self, epsilon: str) -> dict[str, tuple[float, float]]:
        measured = {}
        for party in self.parties:
            self.train({party.name: party.units}, epsilon)
            measured[party.name] = self.measure(party)
        return measured

    def _pooled(self, epsilon: str) -> dict[str, tuple[float, float]]:
        units = [unit for party in self.parties for unit in party.units]
        self.train({"pooled": units}, epsilon)
        return {party.name: self.measure(party) for party in self.parties}

    def _federated(self, epsilon: str) -> dict[str, tuple[float, float]]:
        self.train({party.name: party.units for party in self.parties}, epsilon)
        return {party.name: self.measure(party) for party in self.parties}

    def forget(self) -> None:
        """Back to the base."""
        load_adapter(self.model, self.start)

    def train(self, sites: Mapping[str, Sequence[TokenizedUnit]], epsilon: str) -> None:
        """All rounds among these sites, one or many; leaves the model with the last adapter."""
        plan = self._plan({name: len(units) for name, units in sites.items()}, epsilon)

        def mean_update(_server_round: int, state: AdapterState) -> Packed:
            average = StreamingMean(state.pack(trained_only=True).size)
            for units in sites.values():
                load_adapter(self.model, state)
                average.add(self._round(units, plan, epsilon), float(len(units)))
            return average.mean()

        noise = 0.0 if epsilon == "inf" else plan.noise_variance(list(sites))
        state = run_rounds(plan, self.start, mean_update, noise_variance=noise)
        load_adapter(self.model, state)

    def _round(self, units: Sequence[TokenizedUnit], plan: RunPlan, epsilon: str) -> Packed:
        if epsilon != "inf":
            share = SiteShare(name="site", num_units=len(units))
            return train_round(self.model, units, plan, share, server_round=1).update
        return _plain_round(self.model, units, plan)

    def measure(self, party: Party) -> tuple[float, float]:
        """Held-out label loss and accuracy of the model as it is."""
        self.model.eval()
        quality = evaluate(self.model, self.tokenizer, party.test, party.labels, self.recipe.text)
        return quality.loss, quality.accuracy

    def _plan(self, sizes: Mapping[str, int], epsilon: str) -> RunPlan:
        recipe = self.recipe
        # Below one over the number of all units, so that it fits the pooled setting too.
        delta = 10.0 ** -math.ceil(math.log10(2 * sum(len(p.units) for p in self.parties)))
        noise = 1.0
        if epsilon != "inf":
            noise = calibrate_noise(
                float(epsilon),
                delta,
                recipe.sample_rate,
                recipe.num_rounds * recipe.steps_per_round,
            )
        return RunPlan(
            federation="bench",
            run="quality",
            base=BaseRef(name="nano", digest=_DIGEST),
            adapter=recipe.adapter,
            tensors=self.specs,
            initial_adapter=_DIGEST,
            text=recipe.text,
            masking=MaskingConfig(),
            mechanism=MechanismConfig(
                unit=Unit.RECORD,
                target_epsilon=8.0 if epsilon == "inf" else float(epsilon),
                delta=delta,
                noise_multiplier=noise,
                clip_norm=recipe.clip_norm,
                sample_rate=recipe.sample_rate,
                steps_per_round=recipe.steps_per_round,
            ),
            optimizer=recipe.optimizer,
            server_optimizer=recipe.server_optimizer,
            rounds=RoundsConfig(num_rounds=recipe.num_rounds, min_sites=1),
            exits=ExitConfig(max_update_norm=1e6, max_update_bytes=1_000_000_000),
            sites=tuple(SiteShare(name=n, num_units=s) for n, s in sorted(sizes.items())),
        )


def _plain_round(model: nn.Module, units: Sequence[TokenizedUnit], plan: RunPlan) -> Packed:
    """The same steps as `train_round` takes, without clipping and noise."""
    before = read_adapter(model).pack(trained_only=True)
    parameters = trained_parameters(model)
    optimizer = make_optimizer(parameters, plan.optimizer)
    mechanism = plan.mechanism
    with PrivateGradients(model, clip_norm=NO_CLIP) as gradients:
        for _ in range(mechanism.steps_per_round):
            drawn = draw_units(len(units), mechanism.sample_rate)
            summed = gradients.clipped_sum([units[index].examples for index in drawn])
            total = summed.total / (mechanism.sample_rate * len(units))
            for parameter, gradient in zip(parameters, gradients.split(total), strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad()
    return read_adapter(model).pack(trained_only=True) - before


def _row(setting: str, epsilon: str, seeds: Sequence[Mapping[str, tuple[float, float]]]) -> Row:
    names = list(seeds[0])
    sites = {
        name: {
            "loss": round(mean(seed[name][0] for seed in seeds), 4),
            "accuracy": round(mean(seed[name][1] for seed in seeds), 4),
        }
        for name in names
    }
    accuracies = [mean(seed[name][1] for name in names) for seed in seeds]
    return Row(
        setting=setting,
        epsilon=epsilon,
        loss=round(mean(own["loss"] for own in sites.values()), 4),
        accuracy=round(mean(accuracies), 4),
        accuracy_sd=round(pstdev(accuracies), 4),
        sites=sites,
    )


def line(row: Row) -> str:
    """A row for a person: loss, accuracy, and both for each site."""
    sites = "  ".join(
        f"{name} {own['loss']:.2f}/{own['accuracy']:.3f}" for name, own in row.sites.items()
    )
    return (
        f"{row.setting:10} {row.epsilon:>4}  {row.loss:8.3f}  "
        f"{row.accuracy:.3f} +-{row.accuracy_sd:.3f}  {sites}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def recipe(arguments: argparse.Namespace) -> Recipe:
    """What the command line asks for.

    Raises:
      ValueError: A number that no recipe can have.
    """
    if getattr(arguments, "seeds", 1) < 1 or arguments.rounds < 1 or arguments.steps < 1:
        raise ValueError("expected at least one seed, round and step")
    return Recipe(
        adapter=AdapterConfig(
            lora_rank=arguments.rank,
            lora_alpha=arguments.alpha,
            targets=tuple(sorted(arguments.targets.split(","))),
        ),
        text=TextConfig(max_tokens=arguments.max_tokens),
        optimizer=OptimizerConfig(name="sgd", learning_rate=1.0),
        server_optimizer=ServerOptimizerConfig(
            name="adam",
            learning_rate=arguments.server_rate,
            decay=arguments.decay,
            max_noise_gain=arguments.max_noise_gain,
        ),
        clip_norm=arguments.clip_norm,
        sample_rate=arguments.sample_rate,
        steps_per_round=arguments.steps,
        num_rounds=arguments.rounds,
        max_test=arguments.max_test,
    )


def read_epsilons(text: str) -> list[str]:
    """Epsilons as a person wrote them, each a positive number or `inf`.

    Raises:
      ValueError: One is neither.
    """
    epsilons = text.split(",")
    for epsilon in epsilons:
        if not float(epsilon) > 0:
            raise ValueError(f"expected --epsilon of numbers above 0 or inf, got {epsilon}")
    return epsilons


def read_settings(text: str) -> list[str]:
    """Settings as a person wrote them.

    Raises:
      ValueError: One does not exist.
    """
    settings = text.split(",")
    if set(settings) - set(SETTINGS):
        raise ValueError(f"expected --settings from {', '.join(SETTINGS)}, got {text}")
    return settings
