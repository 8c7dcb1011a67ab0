"""The rounds as a Flower Strategy: instructions out, checked updates into one running mean.

It holds no state that a crash could lose: which rounds are over, and with which adapter, stands in
`RoundLog`, and what the server optimizer remembers beside that adapter in the registry. A round
that is over is passed through without a message, so after a restart `Strategy.start` runs from
round 1 and arrives where it was.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from model.factors import after_round
from model.fedopt import Moments, server_step
from model.tensors import Packed, add_update, packed_digest, packed_size
from privacy import wire
from privacy.errors import ReplyRefusedError
from privacy.plan import RunPlan
from server.aggregate import StreamingMean
from server.registry import Registry


class RoundLog(Protocol):
    """Where rounds are remembered and told to the evidence log."""

    def finished_round(self, server_round: int) -> tuple[bool, Packed | None]:
        """Whether a round is over, and the adapter that it released, if any."""

    def accepted(self, server_round: int, site: str, reply: wire.Reply, num_bytes: int) -> None:
        """An update passed every check of its own and is added next.

        Raises:
          ReplyRefusedError: It does not fit what the log says of its site.
        """

    def rejected(self, server_round: int, site: str, rule: str) -> None:
        """A reply broke a rule and was dropped, or the site answered with an error."""

    def released(
        self, server_round: int, adapter: Packed, sites: list[str], seconds: float
    ) -> None:
        """A round is over with a new adapter. Durable before it returns."""

    def failed(self, server_round: int, num_updates: int, seconds: float) -> None:
        """A round is over with too few updates; the adapter stays as it was."""

    def evaluated(self, server_round: int, site: str) -> None:
        """A site has measured the adapter on its own units."""


def adapter_record(packed: Packed) -> ArrayRecord:
    """A packed adapter as Flower's arrays."""
    return ArrayRecord({"packed": Array(np.ascontiguousarray(packed, dtype=np.float32))})


class PlanStrategy(Strategy):
    """Weighted federated averaging of one plan's updates, of one factor a round.

    Args:
      plan: What everybody agreed to.
      participants: Gives node -> site of those that take part in the round that begins; in a
        simulation the nodes stand for the plan's sites in their order.
      keys: Site -> raw public key that its replies are checked with. None only in a
        simulation, where no institution's agent signs.
      rounds: Memory of the rounds.
      registry: Keeps what the server optimizer remembers.
    """

    def __init__(
        self,
        plan: RunPlan,
        participants: Callable[[], Mapping[int, str]],
        keys: Mapping[str, bytes] | None,
        rounds: RoundLog,
        registry: Registry,
    ) -> None:
        self._plan = plan
        self._participants = participants
        self._sites: dict[int, str] = {}
        self._keys = keys
        self._rounds = rounds
        self._registry = registry
        self._adapter: Packed = np.empty(0, dtype=np.float32)
        self._begun_s = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One instruction a site; none for a round that is over."""
        self._adapter = arrays["packed"].numpy()
        if self._rounds.finished_round(server_round)[0]:
            return []
        self._sites = dict(self._participants())
        self._begun_s = time.monotonic()
        return self._messages("train", server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the updates as they come; release the new adapter if the quorum holds."""
        over, adapter = self._rounds.finished_round(server_round)
        if over:
            return (None if adapter is None else adapter_record(adapter)), None
        plan = self._plan
        mean = StreamingMean(packed_size(plan.update_tensors(server_round)))
        seen: list[str] = []
        for message in replies:
            site = self._sender(message)
            reply = self._checked(message, site, "train", server_round, seen)
            if reply is None or reply.update is None:
                continue
            num_bytes = wire.content_bytes(message.content)
            try:
                self._rounds.accepted(server_round, site, reply, num_bytes)
            except ReplyRefusedError as error:
                self._rounds.rejected(server_round, site, error.rule)
                continue
            seen.append(site)
            mean.add(
                reply.update,
                float(plan.share(site).num_units),
                plan.update_mask(site, server_round),
            )
        seconds = time.monotonic() - self._begun_s
        if mean.num_updates < plan.rounds.min_sites:
            self._rounds.failed(server_round, mean.num_updates, seconds)
            return None, None
        released = self._stepped(server_round, mean.mean(), seen)
        self._rounds.released(server_round, released, sorted(seen), seconds)
        return adapter_record(released), None

    def _stepped(self, server_round: int, mean: Packed, sites: Sequence[str]) -> Packed:
        """The next adapter; what the server optimizer remembers is kept before it is released."""
        plan = self._plan
        rate = plan.server_optimizer.rate(server_round, plan.rounds.num_rounds)
        if plan.server_optimizer.name == "mean":
            none = Moments.none(mean.size)
            step, _ = server_step(plan.server_optimizer, mean, none, rate=rate)
            added = add_update(plan.round_tensors(server_round), self._adapter, step)
            return after_round(plan.tensors, plan.adapter, added)
        before = packed_digest(plan.tensors, self._adapter)
        moments = Moments.none(mean.size)
        if before != plan.initial_adapter:
            moments = self._registry.load_moments(plan.digest, before, mean.size)
            self._registry.forget_moments(plan.digest, but=before)
        step, moments = server_step(
            plan.server_optimizer,
            mean,
            moments,
            rate=rate,
            noise_variance=plan.noise_variance(sites),
        )
        adapter = add_update(plan.tensors, self._adapter, step)
        # A crash here leaves moments without an adapter; the round is done again and writes them
        # anew.
        self._registry.keep_moments(plan.digest, packed_digest(plan.tensors, adapter), moments)
        return adapter

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After the last round every site measures the adapter at home; nothing in between."""
        if server_round != self._plan.rounds.num_rounds:
            return []
        self._adapter = arrays["packed"].numpy()
        self._sites = dict(self._participants())
        return self._messages("evaluate", server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note who has measured; the figures stay at the sites."""
        seen: list[str] = []
        for message in replies:
            site = self._sender(message)
            if self._checked(message, site, "evaluate", server_round, seen) is not None:
                seen.append(site)
                self._rounds.evaluated(server_round, site)
        return None

    def summary(self) -> None:
        """Nothing to tell: the plan says it all."""

    def _messages(self, kind: wire.Kind, server_round: int) -> list[Message]:
        instruction = wire.Instruction(
            kind=kind,
            plan=self._plan.digest,
            server_round=server_round,
            adapter=self._adapter,
            metrics=self._plan.exits.metrics if kind == "train" else (),
        )
        content = wire.write_instruction(instruction, self._plan)
        return [
            Message(content, node_id, kind, group_id=str(server_round))
            for node_id in sorted(self._sites)
        ]

    def _sender(self, message: Message) -> str:
        """The site whose node sent a reply; in a simulation the one that the reply names."""
        if self._keys is None and message.has_content():
            record = message.content.get("reply")
            named = record.get("site") if isinstance(record, ConfigRecord) else None
            if named in {share.name for share in self._plan.sites}:
                return str(named)
        return self._sites[message.metadata.src_node_id]

    def _checked(
        self,
        message: Message,
        site: str,
        kind: wire.Kind,
        server_round: int,
        seen: list[str],
    ) -> wire.Reply | None:
        """The reply if it breaks no rule; otherwise None, and the rule is noted."""
        try:
            if message.has_error():
                # The text is the site's own rule name, at most; anything else is not repeated.
                raise ReplyRefusedError("site-error", "the site answered with an error")  # noqa: TRY301
            if site in seen:
                raise ReplyRefusedError("second-reply", "expected one reply a round")  # noqa: TRY301
            reply = wire.read_reply(
                message.content, kind=kind, server_round=server_round, site=site, plan=self._plan
            )
            if self._keys is not None:
                key = self._keys.get(site)
                if key is None:
                    raise ReplyRefusedError("revoked", f"expected an active site, got {site}")  # noqa: TRY301
                wire.verify_reply(reply, key)
        except ReplyRefusedError as error:
            self._rounds.rejected(server_round, site, error.rule)
            return None
        return reply


def check_initial(plan: RunPlan, packed: Packed) -> ArrayRecord:
    """The initial adapter as Flower's arrays.

    Raises:
      ReplyRefusedError: It is not the one that the plan names.
    """
    if packed_digest(plan.tensors, packed) != plan.initial_adapter:
        raise ReplyRefusedError("digest-mismatch", f"expected adapter {plan.initial_adapter}")
    return adapter_record(packed)
