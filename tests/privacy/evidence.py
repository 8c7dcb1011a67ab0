"""A small federation that writes a real log: real keys, real signatures, no training."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from model.config import AdapterConfig, BaseRef, TensorSpec
from privacy.audit.entry import Event, commit, make_entry
from privacy.audit.keys import KeyRing, PartyKey, Role
from privacy.audit.log import Log
from privacy.audit.rules import Accountant
from privacy.dp import calibrate, membership
from privacy.dp.config import MechanismConfig, Unit
from privacy.masking.canaries import num_clean, num_planted
from privacy.masking.config import ENTITY_TYPES, MaskingConfig
from privacy.pki.identity import Algorithm, SigningKey
from privacy.plan import (
    ExitConfig,
    ExposureConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)

COORDINATOR = "coordinator"
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
SITES = ("bank_a", "hospital_a", "hospital_b")


def digest(text: str) -> str:
    """A digest that stands for some bytes."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def quick_accountant(events: Iterable[calibrate.Event], delta: float) -> float:
    """A stand-in for the accountant that answers at once and grows as it should."""
    total = sum(
        event.num_steps * (event.sample_rate / event.noise_multiplier) ** 2 for event in events
    )
    return math.sqrt(2 * total * math.log(1 / delta))


# Every planted example is found, but one date.
RECALL: list[list[object]] = [
    [entity_type, language, planted, planted - (entity_type == "DATE"), planted - 2]
    for (entity_type, language), planted in sorted(num_planted(("en",), ENTITY_TYPES).items())
]
# One clean sentence in a hundred is masked.
OVER_MASKING: list[list[object]] = [
    [language, num, 1] for language, num in num_clean(("en",)).items()
]


def make_plan(
    *,
    sites: Iterable[str] = SITES,
    num_rounds: int = 3,
    min_sites: int = 2,
    noise_multiplier: float = 1.1,
    run: str = "triage",
    target_epsilon: float = 8.0,
    tracers: int = 0,
) -> RunPlan:
    """A plan for a run with one tensor."""
    return RunPlan(
        federation="lakeside",
        run=run,
        base=BaseRef(name="nano", digest=digest("base")),
        adapter=AdapterConfig(lora_rank=4, lora_alpha=8.0),
        tensors=(
            TensorSpec(name="layer.lora_A.weight", shape=(4, 16), trained=False),
            TensorSpec(name="layer.lora_B.weight", shape=(16, 4), trained=True),
        ),
        initial_adapter=digest("adapter 0"),
        text=TextConfig(prompt_template="{prompt}\nLabel:", answer="label", max_tokens=128),
        masking=MaskingConfig(),
        mechanism=MechanismConfig(
            unit=Unit.PATIENT,
            target_epsilon=target_epsilon,
            delta=1e-4,
            noise_multiplier=noise_multiplier,
            clip_norm=1.0,
            sample_rate=0.1,
            steps_per_round=6,
        ),
        optimizer=OptimizerConfig(),
        rounds=RoundsConfig(num_rounds=num_rounds, min_sites=min_sites),
        exits=ExitConfig(max_update_norm=10.0, max_update_bytes=1_000_000),
        exposure=ExposureConfig(tracers=tracers),
        sites=tuple(SiteShare(name=site, num_units=400) for site in sorted(sites)),
    )


def runs_on(version: str = "0.1.0", **changes: object) -> dict[str, Any]:
    """What a party says that it runs on."""
    fields: dict[str, Any] = {
        "version": version,
        "python": "3.11.7",
        "packages": [["flwr", "1.41.0"], ["torch", "2.13.0+cpu"]],
        "processor": "x86_64",
        "num_cores": 4,
        "device": "cpu",
    }
    return fields | changes


class Federation:
    """Parties with keys, and the log that they write.

    Each method lets one party say one thing; what is said may be wrong, but is always well signed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        plan: RunPlan | None = None,
        accountant: Accountant = quick_accountant,
        sites: Iterable[str] = SITES,
        run_id: str = "7",
        algorithms: Mapping[str, Algorithm] | None = None,
    ) -> None:
        self.folder = folder
        self.sites = tuple(sites)
        self.plan = plan or make_plan(sites=self.sites)
        self.run_id = run_id
        # Who does not say what it runs on.
        self.silent: set[str] = set()
        self.accountant = accountant
        self.at = START
        self.keys = {
            party: SigningKey.generate((algorithms or {}).get(party, Algorithm.ED25519))
            for party in (COORDINATOR, *self.sites)
        }
        self.ring = KeyRing(
            PartyKey(
                party=party,
                role=Role.COORDINATOR if party == COORDINATOR else Role.SITE,
                public_key=key.public_key,
            )
            for party, key in self.keys.items()
        )
        self.log = Log(folder, self.keys[COORDINATOR], "cloister/lakeside", self.ring)

    def line(self, party: str, event: Event, subjects: dict[str, str], **fields: object) -> bytes:
        """An entry that was not appended."""
        self.at += timedelta(seconds=7)
        key = self.keys[party]
        return make_entry(
            key,
            party,
            event,
            sequence=self.log.next_sequence(key.key_id),
            at=self.at,
            subjects=subjects,
            predicate=fields,
        )

    def say(
        self, party: str, event: Event, subjects: dict[str, str] | None = None, **fields: object
    ) -> int:
        """Append an entry and return its number."""
        return self.log.append(self.line(party, event, subjects or {}, **fields)).index

    def begin(self) -> None:
        """Found the federation, enrol everyone, offer the plan, approve it, start the run."""
        self.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
        for number, site in enumerate(self.sites):
            self.enrol(site, number)
        self.say(COORDINATOR, Event.COORDINATOR_STARTED, **runs_on())
        self.offer()
        for site in self.sites:
            if site not in self.silent:
                self.say(site, Event.AGENT_STARTED, **runs_on())
            self.approve(site)
        self.start()
        for site in self.sites:
            self.say(
                site,
                Event.DATA_MASKED,
                {"plan": self.plan.digest, "canaries": self.plan.canaries},
                entity_types=list(self.plan.masking.entity_types),
                recall=RECALL,
                over_masking=OVER_MASKING,
                commitment=commit({"num_records": 400}, bytes(32)),
            )
            self.say(site, Event.SELF_TEST_PASSED, {"plan": self.plan.digest})
            if self.plan.exposure.tracers:
                self.add_tracers(site)

    def add_tracers(self, site: str, tracers: str = "", **changes: object) -> int:
        """A site pins its tracers."""
        named = tracers or digest(f"tracers of {site}")
        return self.say(
            site,
            Event.TRACERS_ADDED,
            {"plan": self.plan.digest, "tracers": named},
            **{"num_tracers": self.plan.exposure.tracers, **changes},
        )

    def measure_exposure(
        self,
        site: str,
        server_round: int,
        ranks: list[int],
        subjects: Mapping[str, str] | None = None,
        **changes: object,
    ) -> int:
        """A site releases ranks of its tracers."""
        named = {**self.tested(server_round), "tracers": digest(f"tracers of {site}")}
        return self.say(
            site,
            Event.EXPOSURE_MEASURED,
            named | dict(subjects or {}),
            **{"run_id": self.run_id, "num_candidates": 1024, "ranks": ranks, **changes},
        )

    def enrol(self, site: str, number: int = 0) -> int:
        """The coordinator enrols a site."""
        key = self.keys[site]
        strong = key.algorithm is not Algorithm.ED25519
        more: dict[str, Any] = {"algorithm": key.algorithm.value} if strong else {}
        return self.say(
            COORDINATOR,
            Event.SITE_ENROLLED,
            **more,
            site=site,
            signing_key=self.keys[site].public_key.hex(),
            certificate_serial=f"{number + 4096:x}",
            num_units=400,
        )

    def offer(self, plan: RunPlan | None = None) -> int:
        """The coordinator offers a plan."""
        plan = plan or self.plan
        return self.say(
            COORDINATOR, Event.PLAN_OFFERED, {"plan": plan.digest}, plan=plan_object(plan)
        )

    def approve(self, site: str) -> int:
        """A site approves the plan."""
        return self.say(site, Event.PLAN_APPROVED, {"plan": self.plan.digest})

    def start(self) -> int:
        """The coordinator starts the run."""
        return self.say(
            COORDINATOR, Event.RUN_STARTED, {"plan": self.plan.digest}, run_id=self.run_id
        )

    def spend(self, server_round: int, **changes: object) -> dict[str, Any]:
        """What a site's ledger would say of this round."""
        mechanism = self.plan.mechanism
        steps = mechanism.steps_per_round * (server_round - 1)
        same_run = [[mechanism.noise_multiplier, mechanism.sample_rate, steps]] if steps else []
        prior: Any = changes.get("prior", same_run)
        this = calibrate.round_event(mechanism)
        releases = [calibrate.Event(*release) for release in prior]
        return {
            "run_id": self.run_id,
            "server_round": server_round,
            "noise_multiplier": mechanism.noise_multiplier,
            "sample_rate": mechanism.sample_rate,
            "num_steps": mechanism.steps_per_round,
            "delta": mechanism.delta,
            "epsilon_run": self.accountant(
                [calibrate.run_event(mechanism, server_round)], mechanism.delta
            ),
            "epsilon_total": self.accountant([*releases, this], mechanism.delta),
            "budget_epsilon": 8.0,
            "prior": prior,
        } | changes

    def reserve(self, site: str, server_round: int, **changes: object) -> int:
        """A site reserves budget."""
        fields = self.spend(server_round, **changes)
        return self.say(site, Event.BUDGET_RESERVED, {"plan": self.plan.digest}, **fields)

    def commit(self, site: str, server_round: int, **changes: object) -> int:
        """A site commits budget."""
        fields = self.spend(server_round, **changes)
        return self.say(site, Event.BUDGET_COMMITTED, {"plan": self.plan.digest}, **fields)

    def update(self, site: str, server_round: int) -> str:
        """The digest of a site's update."""
        return digest(f"update of {site} in {server_round}")

    def send(self, site: str, server_round: int, **subjects: str) -> int:
        """A site sends its update."""
        named = {"plan": self.plan.digest, "update": self.update(site, server_round)} | subjects
        return self.say(
            site,
            Event.UPDATE_SENT,
            named,
            run_id=self.run_id,
            server_round=server_round,
            update_bytes=51_234,
        )

    def accept(self, site: str, server_round: int, **subjects: str) -> int:
        """The coordinator accepts an update."""
        named = {"plan": self.plan.digest, "update": self.update(site, server_round)} | subjects
        return self.say(
            COORDINATOR,
            Event.UPDATE_ACCEPTED,
            named,
            run_id=self.run_id,
            server_round=server_round,
            site=site,
            update_bytes=51_234,
        )

    def release(self, server_round: int, sites: Iterable[str] | None = None) -> int:
        """The coordinator releases an adapter."""
        return self.say(
            COORDINATOR,
            Event.ADAPTER_RELEASED,
            {"plan": self.plan.digest, "adapter": digest(f"adapter {server_round}")},
            run_id=self.run_id,
            server_round=server_round,
            sites=sorted(self.sites if sites is None else sites),
        )

    def train(self, site: str, server_round: int) -> None:
        """All that one site says in one round, and its update's acceptance."""
        self.reserve(site, server_round)
        self.commit(site, server_round)
        self.send(site, server_round)
        self.accept(site, server_round)

    def round(self, server_round: int) -> None:
        """A whole round."""
        for site in self.sites:
            self.train(site, server_round)
        self.release(server_round)
        for site in self.sites:
            self.evaluate(site, server_round)

    def evaluate(self, site: str, server_round: int, **subjects: str) -> int:
        """A site measures an adapter."""
        named = {"plan": self.plan.digest, "adapter": digest(f"adapter {server_round}")} | subjects
        return self.say(
            site, Event.EVALUATED, named, run_id=self.run_id, server_round=server_round
        )

    def counts(self, **changes: list[int]) -> dict[str, list[int]]:
        """Noised counts as an attack that fails might give them."""
        return {
            name: [40 if name.endswith("members") else 12] * membership.num_cells(name)
            for name in membership.FIELDS
        } | changes

    def test_fields(
        self, number: int, rounds_before: int, noise: float = 10.0, **changes: object
    ) -> dict[str, Any]:
        """What a site's ledger would say of a test behind so many rounds, and no other test."""
        mechanism, this = self.plan.mechanism, membership.event(noise)
        steps = mechanism.steps_per_round * rounds_before
        prior: Any = changes.get(
            "prior", [[mechanism.noise_multiplier, mechanism.sample_rate, steps]] if steps else []
        )
        releases = [calibrate.Event(*release) for release in prior]
        return {
            "run_id": self.run_id,
            "test_number": number,
            "noise_multiplier": noise,
            "num_releases": this.num_steps,
            "delta": mechanism.delta,
            "epsilon_test": self.accountant([this], mechanism.delta),
            "epsilon_total": self.accountant([*releases, this], mechanism.delta),
            "budget_epsilon": 8.0,
            "prior": prior,
        } | changes

    def tested(self, server_round: int, result: str = "") -> dict[str, str]:
        """Subjects of a test of the adapter that a round released."""
        subjects = {"plan": self.plan.digest, "adapter": digest(f"adapter {server_round}")}
        return subjects | ({"result": result} if result else {})

    def test_adapter(self, site: str, server_round: int, number: int = 1) -> None:
        """All that a site says of a test, right behind its round."""
        fields = self.test_fields(number, server_round)
        counts, noise = self.counts(), fields["noise_multiplier"]
        subjects = self.tested(server_round, membership.digest(noise, counts))
        self.say(site, Event.TEST_RESERVED, self.tested(server_round), **fields)
        self.say(site, Event.TEST_COMMITTED, subjects, **fields)
        self.say(
            site,
            Event.ADAPTER_TESTED,
            subjects,
            run_id=self.run_id,
            test_number=number,
            noise_multiplier=noise,
            **counts,
        )

    def finish(self, num_rounds: int) -> int:
        """The coordinator ends the run."""
        return self.say(COORDINATOR, Event.RUN_FINISHED, run_id=self.run_id, num_rounds=num_rounds)

    def run(self) -> None:
        """The whole run, as it should go."""
        self.begin()
        for server_round in range(1, self.plan.rounds.num_rounds + 1):
            self.round(server_round)
        self.finish(self.plan.rounds.num_rounds)


def plan_object(plan: RunPlan) -> dict[str, Any]:
    """The plan as it stands in an entry."""
    loaded: dict[str, Any] = json.loads(plan.canonical())
    return loaded
