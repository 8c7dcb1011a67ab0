"""Flower ClientApp: the route of a record on one screen.

The records are read, masked and tokenised once a process (`Node.load`); each round starts from
the adapter that came, trains in private, and answers with the update. The agent calls this in a
child process without keys and network; Flower's simulation calls it as it is. Once an update has
left, the agent may also ask how good the adapter was that the round began with.

Node config: `site_config` (site.toml), `plan` (canonical text), `holdout_key` (hex),
`surrogate_key` (hex) where the plan masks by surrogates, and `exposure_key` (hex) where it adds
tracers. In a simulation the run config holds them instead, `site_config` as a comma-separated list
of which `partition-id` picks one; no agent guards it, so it is for studies on public data only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from transformers import PreTrainedTokenizerBase

from client import dataset
from client.adapted import load_adapted
from client.config import SiteConfig, load_config
from client.evaluate import evaluate_all, evaluate_round
from client.home import file_digest
from client.progress import report
from client.traced import tokenized
from client.tracers import Tracer, make_tracers
from client.train import train_round
from model.adapter import AdapterState, load_adapter
from model.tensors import packed_digest
from privacy import wire
from privacy.dp.audit import self_test
from privacy.errors import ConfigError
from privacy.masking.surrogates import SurrogateKey
from privacy.plan import RunPlan

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round: from the adapter that came to the update that may leave."""
    node = _node(context)
    instruction = wire.read_instruction(message.content, "train", node.plan)
    load_adapter(node.model, AdapterState.unpack(node.plan.tensors, instruction.adapter))
    server_round = instruction.server_round
    share = node.plan.share(node.config.site.name)
    result = train_round(node.model, node.units, node.plan, share, server_round=server_round)
    report("trained", loss=result.loss_local, steps=result.num_steps, seconds=result.seconds)
    _keep(context, masking=node.masking(), **node.canaries())
    metrics = {"num_steps": result.num_steps} if "num_steps" in instruction.metrics else {}
    reply = wire.Reply(
        kind="train",
        plan=node.plan.digest,
        server_round=server_round,
        site=share.name,
        update=result.update,
        update_digest=packed_digest(node.plan.update_tensors(server_round), result.update),
        metrics=metrics,
    )
    return Message(wire.write_reply(reply, node.plan), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the adapter on the held-out units; the figures stay here, a receipt leaves."""
    node = _node(context)
    instruction = wire.read_instruction(message.content, "evaluate", node.plan)
    federated = AdapterState.unpack(node.plan.tensors, instruction.adapter)
    results = evaluate_all(
        node.model, node.tokenizer, node.data, node.plan, node.config, federated
    )
    _keep(context, masking=node.masking(), **node.canaries(), results=results)
    reply = wire.Reply(
        kind="evaluate",
        plan=node.plan.digest,
        server_round=instruction.server_round,
        site=node.config.site.name,
        update=None,
        update_digest=wire.NO_UPDATE,
        metrics={},
    )
    return Message(wire.write_reply(reply, node.plan), reply_to=message)


@app.query()
def measure(message: Message, context: Context) -> Message:
    """Measure the adapter that a round began with; all that comes of it stays here.

    The agent alone asks this, with an instruction to train that it has answered, and `measure_s`
    seconds for it. The coordinator cannot: no instruction has this type.
    """
    node = _node(context)
    instruction = wire.read_instruction(message.content, "train", node.plan)
    adapter = AdapterState.unpack(node.plan.tensors, instruction.adapter)
    limit_s = float(context.node_config["measure_s"])
    point = evaluate_round(
        node.model, node.tokenizer, node.data, node.plan, node.config, adapter, limit_s=limit_s
    )
    _keep(context, point=point)
    return Message(RecordDict(), reply_to=message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What stays in memory between rounds.

    Attributes:
      config: The site's settings.
      plan: The plan.
      model: The base with the plan's adapter in it.
      tokenizer: The base's.
      data: The site's units, masked.
      tracers: Made-up units that the plan adds to those that are trained on; kept apart, so that
        nothing that is measured of a site's units counts them. None where their key was not given.
    """

    config: SiteConfig
    plan: RunPlan
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    data: dataset.SiteDataset
    tracers: tuple[dataset.TokenizedUnit, ...] = ()

    @property
    def units(self) -> tuple[dataset.TokenizedUnit, ...]:
        """All that is trained on: the site's own units and the plan's tracers.

        Raises:
          ConfigError: The tracers' key was not given; an adapter trained without them would look
            as if it remembered nothing.
        """
        if len(self.tracers) != self.plan.exposure.tracers:
            raise ConfigError("expected a key for the plan's tracers, got none")
        return (*self.data.train, *self.tracers)

    def masking(self) -> dict[str, object]:
        """What masking did, for the site's own files."""
        stats = self.data.masking
        own = stats.measured.of(own=True)
        return {
            "num_records": stats.num_records,
            "num_masked": dict(stats.num_masked),
            "own_recall": [recall.as_list() for recall in own.recalls],
            "own_over_masking": [figure.as_list() for figure in own.over_masking],
        }

    def canaries(self) -> dict[str, object]:
        """Recall and over-masking of planted sentences, for the log."""
        planted = self.data.masking.measured.of(own=False)
        return {
            "canaries": [recall.as_list() for recall in planted.recalls],
            "over_masking": [figure.as_list() for figure in planted.over_masking],
        }

    @classmethod
    def load(
        cls,
        site_config: Path,
        plan: RunPlan,
        holdout_key: bytes,
        surrogate_key: SurrogateKey | None = None,
        exposure_key: bytes | None = None,
    ) -> Self:
        """Load the base by digest, put the adapter in, test it, and read the records.

        Raises:
          ConfigError: The base is another one, or its adapter has other tensors than the plan.
          TrainingError: The self-test fails: nothing was read, nothing is trained.
        """
        config = load_config(site_config)
        torch.set_num_threads(config.compute.threads)
        report("loading")
        adapted, tokenizer = load_adapted(plan, config.base.folder, config.compute)
        self_test(adapted, rank=plan.share(config.site.name).lora_rank)
        # Who measures and does not train has no use for them.
        tracers: tuple[Tracer, ...] = ()
        if exposure_key is not None:
            tracers = make_tracers(exposure_key, plan, config.site.name, num_secrets=1)
        traced = tokenized(tracers, tokenizer, plan)
        report("masking", records=0)

        def progress(num_records: int) -> None:
            if num_records % 100 == 0:
                report("masking", records=num_records)

        data = dataset.load(
            config,
            plan,
            tokenizer,
            holdout_key=holdout_key,
            surrogate_key=surrogate_key,
            progress=progress,
        )
        report("masked", records=data.masking.num_records)
        return cls(
            config=config,
            plan=plan,
            model=adapted,
            tokenizer=tokenizer,
            data=data,
            tracers=tuple(
                dataset.TokenizedUnit(unit_id=f"tracer {number}", examples=(tracer.trained,))
                for number, tracer in enumerate(traced, 1)
            ),
        )


_loaded: dict[tuple[str, str], Node] = {}


def _node(context: Context) -> Node:
    """The node that the context describes."""
    return node_of({**context.run_config, **context.node_config})


def node_of(settings: Mapping[str, Any]) -> Node:
    """The node that these settings describe; loaded on the first call, warm after.

    Raises:
      ConfigError: site.toml is another one than the agent started with.
    """
    site_config = str(settings["site_config"])
    if "partition-id" in settings:
        site_config = site_config.split(",")[int(settings["partition-id"])]
    plan = RunPlan.parse(str(settings["plan"]).encode())
    expected = str(settings.get("site_config_digest", ""))
    if expected and file_digest(Path(site_config)) != expected:
        raise ConfigError(
            f"expected {site_config} as it was when the agent started",
            hint="stop and start the agent: it opened the ledger that the file named then",
        )
    key = (site_config, plan.digest)
    if key not in _loaded:
        # One plan at a time: two adapted bases in memory could be more than the limit allows.
        _loaded.clear()
        holdout_key = bytes.fromhex(str(settings["holdout_key"]))
        secret = bytes.fromhex(str(settings.get("surrogate_key", "")))
        exposure_key = bytes.fromhex(str(settings.get("exposure_key", "")))
        _loaded[key] = Node.load(
            Path(site_config),
            plan,
            holdout_key,
            SurrogateKey(secret) if secret else None,
            exposure_key or None,
        )
    return _loaded[key]


def _keep(context: Context, **local: object) -> None:
    """Hand what stays at the site to the agent; it travels in no message."""
    context.state.config_records["local"] = ConfigRecord({"json": json.dumps(local)})
