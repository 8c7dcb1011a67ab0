"""What a verified log shows: who, what was agreed, what was done, and what was refused.

Every fact carries the numbers of the entries that it comes from.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from privacy.audit.entry import Entry, Event
from privacy.audit.keys import Role
from privacy.audit.verify import VerifiedLog
from privacy.dp import membership
from privacy.masking.figures import (
    OverMasking,
    Recall,
    parse_over_masking,
    parse_recalls,
)
from privacy.plan import RunPlan

REFUSALS = (
    Event.DOOR_REFUSED,
    Event.UPDATE_REJECTED,
    Event.PLAN_REFUSED,
    Event.BUDGET_REFUSED,
    Event.INSTRUCTION_REFUSED,
    Event.REPLY_REFUSED,
    # A refusal by the log, told by the site whose entry it was.
    Event.ENTRY_SET_ASIDE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """What one round cost one site, as its ledger reserved it and as it was recomputed.

    A reserved round counts as spent, whether or not its update left. So does a test of an adapter,
    which stands behind the round before it.

    Attributes:
      run_id: The run.
      server_round: Its round; of a test, the last one before it.
      epsilon_run: Over this run so far, at the plan's delta.
      epsilon_total: Over everything in the site's ledger, at `delta`.
      delta: The ledger's.
      budget_epsilon: What the site allows.
      entry: Number of the entry.
      committed: Whether the round is bound to its update, or the test to its figures.
      test_number: Number of the test; 0 for a round.
    """

    run_id: str
    server_round: int
    epsilon_run: float
    epsilon_total: float
    delta: float
    budget_epsilon: float
    entry: int
    committed: bool
    test_number: int = 0

    @property
    def place(self) -> tuple[str, int, int]:
        """What is spent once."""
        return self.run_id, 0 if self.test_number else self.server_round, self.test_number


@dataclass(kw_only=True, slots=True)
class AdapterTest:
    """A test of a released adapter at one site.

    Attributes:
      site: Where.
      run_id: Of which run.
      adapter: Digest of the adapter.
      noise_multiplier: Of the noise on each count.
      epsilon: What it costs by itself, at the ledger's delta.
      counts: Noised counts (`privacy.dp.membership`); empty as long as none are in the log.
      entries: Where it stands.
    """

    site: str
    run_id: str
    adapter: str
    noise_multiplier: float
    epsilon: float
    counts: dict[str, list[int]] = field(default_factory=dict)
    entries: list[int] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Ranked:
    """What a site said of its tracers in one run.

    Attributes:
      site: Where.
      run_id: Of which run.
      ranks: Of the tracers' secrets under the released adapter.
      entries: Where it stands.
    """

    site: str
    run_id: str
    ranks: tuple[int, ...]
    entries: list[int]


@dataclass(kw_only=True, slots=True)
class SiteEvidence:
    """Everything in the log about one site.

    Attributes:
      name: The site.
      enrolled: Entries that enrolled it.
      revoked: Entries that revoked it.
      signing_key: Its public key in hex.
      certificate_serial: Its newest certificate.
      num_units: What it declared in public.
      masked: Entity types that it masked; empty when it said nothing of it.
      masked_in: Entries that say so.
      recalls_of: Plan -> type and language -> the lowest that it said of planted examples.
      over_masking_of: Plan -> language -> the highest that it said of clean sentences.
      self_tests: Entries that say that its self-test passed.
      masked_plans: Plans for which it said that it masked.
      tested_plans: Plans for which it said that its self-test passed.
      unmasked: Plans of which an update left before it said that it had masked.
      untested: Plans of which an update left before it said that its self-test had passed.
      approved: Entries with which it approved plans.
      spends: Budget reserved, in order.
      sent: Entries of updates that left.
      bytes_sent: Their sizes together.
      accepted: Entries that accepted its updates.
      tests_of: Run and number -> test of an adapter.
      tracers_in: Plan -> entry that pinned its tracers here, before they were trained on.
      ranked: Run -> the ranks of its tracers' secrets.
    """

    name: str
    enrolled: list[int] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)
    signing_key: str = ""
    certificate_serial: str = ""
    num_units: int = 0
    masked: tuple[str, ...] = ()
    masked_in: list[int] = field(default_factory=list)
    recalls_of: dict[str, dict[tuple[str, str], Recall]] = field(default_factory=dict)
    over_masking_of: dict[str, dict[str, OverMasking]] = field(default_factory=dict)
    self_tests: list[int] = field(default_factory=list)
    masked_plans: set[str] = field(default_factory=set)
    tested_plans: set[str] = field(default_factory=set)
    unmasked: set[str] = field(default_factory=set)
    untested: set[str] = field(default_factory=set)
    approved: list[int] = field(default_factory=list)
    spends: list[Spend] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    bytes_sent: int = 0
    accepted: list[int] = field(default_factory=list)
    tests_of: dict[tuple[str, int], AdapterTest] = field(default_factory=dict)
    tracers_in: dict[str, int] = field(default_factory=dict)
    ranked: dict[str, Ranked] = field(default_factory=dict)

    @property
    def tests(self) -> list[AdapterTest]:
        """Tests of adapters, in the order in which they were begun."""
        return list(self.tests_of.values())

    @property
    def recalls(self) -> tuple[Recall, ...]:
        """The lowest of each type and language, over all plans."""
        lowest: dict[tuple[str, str], Recall] = {}
        for said in self.recalls_of.values():
            _keep_lowest(lowest, said.values())
        return tuple(lowest.values())

    @property
    def over_masking(self) -> tuple[OverMasking, ...]:
        """The highest of each language, over all plans."""
        highest: dict[str, OverMasking] = {}
        for said in self.over_masking_of.values():
            _keep_highest(highest, said.values())
        return tuple(highest.values())


@dataclass(kw_only=True, slots=True)
class RoundEvidence:
    """One round of a run.

    Attributes:
      server_round: Its number.
      accepted: Site -> entry that accepted its update.
      rejected: Entries that rejected one.
      released: Entry that released the adapter, None when it failed or is not over.
      adapter: Digest of the adapter.
      sites: Whose updates the adapter is made of.
      failed: Entry that says that the round failed.
      ended_at: When it was released or failed.
    """

    server_round: int
    accepted: dict[str, int] = field(default_factory=dict)
    rejected: list[int] = field(default_factory=list)
    released: int | None = None
    adapter: str = ""
    sites: tuple[str, ...] = ()
    failed: int | None = None
    ended_at: datetime | None = None


@dataclass(kw_only=True, slots=True)
class RunEvidence:
    """One run of a plan.

    Attributes:
      run_id: Its number.
      digest: The plan.
      plan: The plan itself.
      offered: Entry that offered it.
      started: Entry that started the run.
      finished: Entry that ended it, None while it goes on.
      approved: Site -> entry that approved the plan.
      rounds: By number.
    """

    run_id: str
    digest: str
    plan: RunPlan
    offered: int
    started: int
    finished: int | None = None
    approved: dict[str, int] = field(default_factory=dict)
    rounds: dict[int, RoundEvidence] = field(default_factory=dict)

    @property
    def released(self) -> list[RoundEvidence]:
        """The rounds that ended with an adapter, in order."""
        return [r for _, r in sorted(self.rounds.items()) if r.released is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Refusals of one kind by one party.

    Attributes:
      by: Who refused.
      event: What was refused.
      rule: Which rule was broken.
      whom: Whose doing it was, where the log says so.
      entries: Where it stands.
    """

    by: str
    event: Event
    rule: str
    whom: str
    entries: tuple[int, ...]


@dataclass(kw_only=True, slots=True)
class Evidence:
    """What a verified log shows.

    Attributes:
      log: The log.
      federation: Its name.
      coordinator: Name of the coordinator's party.
      first_at: Time of the first entry.
      last_at: Time of the last entry.
      sites: By name.
      runs: In the order in which they started.
      refusals: In the order in which they first happened.
    """

    log: VerifiedLog
    federation: str
    coordinator: str
    first_at: datetime
    last_at: datetime
    sites: dict[str, SiteEvidence] = field(default_factory=dict)
    runs: dict[str, RunEvidence] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)


def gather(log: VerifiedLog) -> Evidence:
    """Sort the entries of a verified log by what they are about.

    Raises:
      ValueError: The log is empty.
    """
    if not log.entries:
        raise ValueError("expected a log with entries, got an empty one")
    first = log.entries[0]
    evidence = Evidence(
        log=log,
        federation=first.predicate["federation"],
        coordinator=first.party,
        first_at=min(entry.at for entry in log.entries),
        last_at=max(entry.at for entry in log.entries),
    )
    offered: dict[str, int] = {}
    approved: dict[str, dict[str, int]] = {}
    for index, entry in enumerate(log.entries):
        plan = entry.subjects.get("plan", "")
        if entry.event is Event.PLAN_OFFERED:
            offered.setdefault(plan, index)
        elif entry.event is Event.PLAN_APPROVED:
            approved.setdefault(plan, {}).setdefault(entry.party, index)
        elif entry.event is Event.RUN_STARTED:
            run_id = entry.predicate["run_id"]
            evidence.runs.setdefault(
                run_id,
                RunEvidence(
                    run_id=run_id,
                    digest=plan,
                    plan=log.plans[plan],
                    offered=offered[plan],
                    started=index,
                    approved=approved.setdefault(plan, {}),
                ),
            )
        if entry.role is Role.SITE:
            _add_to_site(evidence.sites[entry.party], entry, index)
        else:
            _add_of_coordinator(evidence, entry, index)
    evidence.refusals = _refusals(log.entries)
    return evidence


def _add_to_site(site: SiteEvidence, entry: Entry, index: int) -> None:
    said, plan = entry.predicate, entry.subjects.get("plan", "")
    match entry.event:
        case Event.PLAN_APPROVED:
            site.approved.append(index)
        case Event.DATA_MASKED:
            site.masked = tuple(said["entity_types"])
            site.masked_in.append(index)
            site.masked_plans.add(plan)
            _keep_lowest(site.recalls_of.setdefault(plan, {}), parse_recalls(said["recall"]))
            figures = parse_over_masking(said["over_masking"])
            _keep_highest(site.over_masking_of.setdefault(plan, {}), figures)
        case Event.SELF_TEST_PASSED:
            site.self_tests.append(index)
            site.tested_plans.add(plan)
        case Event.BUDGET_RESERVED | Event.BUDGET_COMMITTED:
            _add_spend(
                site,
                Spend(
                    run_id=said["run_id"],
                    server_round=said["server_round"],
                    epsilon_run=said["epsilon_run"],
                    epsilon_total=said["epsilon_total"],
                    delta=said["delta"],
                    budget_epsilon=said["budget_epsilon"],
                    entry=index,
                    committed=entry.event is Event.BUDGET_COMMITTED,
                ),
            )
        case Event.TEST_RESERVED | Event.TEST_COMMITTED | Event.ADAPTER_TESTED:
            _add_test(site, entry, index)
        case Event.TRACERS_ADDED:
            site.tracers_in.setdefault(plan, index)
        case Event.EXPOSURE_MEASURED:
            run_id, ranks = said["run_id"], tuple(said["ranks"])
            known = site.ranked.setdefault(
                run_id, Ranked(site=site.name, run_id=run_id, ranks=ranks, entries=[])
            )
            known.entries.append(index)
        case Event.UPDATE_SENT:
            site.sent.append(index)
            site.bytes_sent += said["update_bytes"]
            if plan not in site.masked_plans:
                site.unmasked.add(plan)
            if plan not in site.tested_plans:
                site.untested.add(plan)
        case _:
            pass


def _add_spend(site: SiteEvidence, spend: Spend) -> None:
    # Reservation and commit of a round, or what a crash made a site say twice, are one spend. A
    # commit says what its reservation said, so it keeps the reservation's place.
    places = [other.place for other in site.spends]
    if spend.place not in places:
        site.spends.append(spend)
    elif spend.committed and not site.spends[places.index(spend.place)].committed:
        site.spends[places.index(spend.place)] = spend
    elif not spend.committed:
        del site.spends[places.index(spend.place)]
        site.spends.append(spend)


def _add_test(site: SiteEvidence, entry: Entry, index: int) -> None:
    said = entry.predicate
    place = (said["run_id"], said["test_number"])
    if entry.event is Event.ADAPTER_TESTED:
        test = site.tests_of[place]
        test.counts = {name: list(said[name]) for name in membership.FIELDS}
        test.entries.append(index)
        return
    if place not in site.tests_of:
        site.tests_of[place] = AdapterTest(
            site=site.name,
            run_id=said["run_id"],
            adapter=entry.subjects["adapter"],
            noise_multiplier=said["noise_multiplier"],
            epsilon=said["epsilon_test"],
        )
    site.tests_of[place].entries.append(index)
    before = [spend for spend in site.spends if spend.run_id == said["run_id"]]
    _add_spend(
        site,
        Spend(
            run_id=said["run_id"],
            server_round=before[-1].server_round if before else 0,
            epsilon_run=before[-1].epsilon_run if before else 0.0,
            epsilon_total=said["epsilon_total"],
            delta=said["delta"],
            budget_epsilon=said["budget_epsilon"],
            entry=index,
            committed=entry.event is Event.TEST_COMMITTED,
            test_number=said["test_number"],
        ),
    )


def _keep_lowest(lowest: dict[tuple[str, str], Recall], said: Iterable[Recall]) -> None:
    for recall in said:
        key = (recall.entity_type, recall.source)
        if key not in lowest or recall.share < lowest[key].share:
            lowest[key] = recall


def _keep_highest(highest: dict[str, OverMasking], said: Iterable[OverMasking]) -> None:
    for figure in said:
        known = highest.get(figure.source)
        if known is None or figure.share > known.share:
            highest[figure.source] = figure


def _add_of_coordinator(evidence: Evidence, entry: Entry, index: int) -> None:
    said = entry.predicate
    if entry.event is Event.SITE_ENROLLED:
        site = evidence.sites.setdefault(said["site"], SiteEvidence(name=said["site"]))
        site.enrolled.append(index)
        site.signing_key = said["signing_key"]
        site.certificate_serial = said["certificate_serial"]
        site.num_units = said["num_units"]
    elif entry.event is Event.SITE_REVOKED:
        evidence.sites[said["site"]].revoked.append(index)
    elif entry.event is Event.RUN_FINISHED:
        evidence.runs[said["run_id"]].finished = index
    elif said.get("run_id") in evidence.runs and "server_round" in said:
        rounds = evidence.runs[said["run_id"]].rounds
        _add_to_round(
            rounds.setdefault(
                said["server_round"], RoundEvidence(server_round=said["server_round"])
            ),
            entry,
            index,
        )
        if entry.event is Event.UPDATE_ACCEPTED:
            evidence.sites[said["site"]].accepted.append(index)


def _add_to_round(this: RoundEvidence, entry: Entry, index: int) -> None:
    match entry.event:
        case Event.UPDATE_ACCEPTED:
            this.accepted.setdefault(entry.predicate["site"], index)
        case Event.UPDATE_REJECTED:
            this.rejected.append(index)
        case Event.ADAPTER_RELEASED:
            this.released = index
            this.adapter = entry.subjects["adapter"]
            this.sites = tuple(entry.predicate["sites"])
            this.ended_at = entry.at
        case Event.ROUND_FAILED:
            this.failed = index
            this.ended_at = entry.at
        case _:
            pass


def _refusals(entries: Iterable[Entry]) -> list[Refusal]:
    found: dict[tuple[str, Event, str, str], list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.event in REFUSALS:
            said = entry.predicate
            # A stranger's address stands behind a commitment, another one at each try.
            whom = said.get("site", "")
            rule = said.get("refused_event") or said.get("rule", "budget")
            found.setdefault((entry.party, entry.event, rule, whom), []).append(index)
    return [
        Refusal(by=by, event=event, rule=rule, whom=whom, entries=tuple(indices))
        for (by, event, rule, whom), indices in found.items()
    ]
