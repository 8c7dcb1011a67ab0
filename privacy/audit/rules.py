"""What may follow what in a log: the protocol's promises, each a method.

A plan is the one whose digest is named; a site approved it before it spent budget under it; a
round is within the plan; epsilon is recomputed from noise multiplier, sample rate and steps and
never believed; budget is committed before an update leaves; an update is accepted only as sent; an
adapter is released only from accepted updates.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import rfc8785

from privacy.audit.entry import Entry, Event
from privacy.audit.keys import KeyRing, Role
from privacy.dp import calibrate
from privacy.errors import ConfigError, VerificationError
from privacy.masking.canaries import num_clean, num_planted, set_digest
from privacy.masking.figures import parse_over_masking, parse_recalls
from privacy.plan import RunPlan

MAX_PRIOR = 10_000
# Two machines' floating point differ in the last digits; a lie worth telling does not hide there.
_TOLERANCE = 1e-3

# Who refuses may name a plan that nobody offered: that is what was refused.
_OF_ANY_PLAN = {
    Event.PLAN_OFFERED,
    Event.PLAN_REFUSED,
    Event.BUDGET_REFUSED,
    Event.INSTRUCTION_REFUSED,
    Event.REPLY_REFUSED,
    Event.UPDATE_REJECTED,
}

Accountant = Callable[[Iterable[calibrate.Event], float], float]
_Round = tuple[str, str, int]  # plan digest, run id, server round


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise VerificationError(message)


class Rules:
    """What may follow what. `check` takes the entries in the log's order.

    A log's writer asks it too, before it takes an entry: then no party can put one into the log at
    which every later verification would stop.
    """

    def __init__(self, keys: KeyRing, accountant: Accountant) -> None:
        self.plans: dict[str, RunPlan] = {}
        self._keys = keys
        self._accountant = accountant
        self._recompute = True
        self._federation = ""
        self._enrolled: dict[str, str] = {}
        self._revoked: set[str] = set()
        self._approved: dict[str, set[str]] = {}
        self._runs: dict[str, str] = {}
        self._masked: dict[str, set[str]] = {}
        self._reserved: dict[str, dict[_Round, Entry]] = {}
        self._committed: dict[str, dict[_Round, Entry]] = {}
        self._sent: dict[str, dict[_Round, str]] = {}
        self._accepted: dict[_Round, dict[str, str]] = {}
        self._released: dict[str, dict[int, str]] = {}
        self._checks: Mapping[Event, Callable[[Entry], None]] = {
            Event.SITE_ENROLLED: self._site_enrolled,
            Event.SITE_REVOKED: self._site_revoked,
            Event.PLAN_OFFERED: self._plan_offered,
            Event.RUN_STARTED: self._run_started,
            Event.UPDATE_ACCEPTED: self._update_accepted,
            Event.ADAPTER_RELEASED: self._adapter_released,
            Event.ROUND_FAILED: self._round_failed,
            Event.RUN_FINISHED: self._run_finished,
            Event.PLAN_APPROVED: self._plan_approved,
            Event.DATA_MASKED: self._data_masked,
            Event.BUDGET_RESERVED: self._budget_reserved,
            Event.BUDGET_COMMITTED: self._budget_committed,
            Event.UPDATE_SENT: self._update_sent,
        }

    def check(self, entry: Entry, index: int, *, recompute: bool = True) -> None:
        """Check one entry and remember what it allows.

        Args:
          entry: The entry; its signature and its number are checked by others.
          index: Its place in the log.
          recompute: False believes the epsilons, for a writer that computed them before.

        Raises:
          VerificationError: It does not follow from the earlier ones; nothing is remembered.
        """
        self._recompute = recompute
        first = entry.event is Event.FEDERATION_CREATED
        _need(first == (index == 0), "expected a log to begin with federation-created, once")
        if first:
            self._federation = entry.predicate["federation"]
        if entry.role is Role.SITE:
            self._check_enrolled(entry)
        plan = entry.subjects.get("plan")
        if plan is not None and entry.event not in _OF_ANY_PLAN:
            _need(plan in self.plans, "expected a plan that was offered, got another digest")
        check = self._checks.get(entry.event)
        if check is not None:
            check(entry)

    def _check_enrolled(self, entry: Entry) -> None:
        key = self._keys.find(entry.key_id)
        enrolled = self._enrolled.get(entry.party)
        _need(enrolled is not None, f"expected {entry.party} to be enrolled before it acts")
        _need(
            key is not None and key.public_key.hex() == enrolled,
            f"expected {entry.party} to sign with the key that it enrolled with",
        )

    def _site_enrolled(self, entry: Entry) -> None:
        site, signing_key = entry.predicate["site"], entry.predicate["signing_key"]
        known = [key.public_key.hex() for key in self._keys if key.party == site]
        _need(
            not known or signing_key in known,
            f"expected {site} to be enrolled with the key we have of it, got another",
        )
        self._enrolled[site] = signing_key
        self._revoked.discard(site)

    def _site_revoked(self, entry: Entry) -> None:
        site = entry.predicate["site"]
        _need(site in self._enrolled, f"expected an enrolled site, got {site}")
        self._revoked.add(site)

    def _plan_offered(self, entry: Entry) -> None:
        content = rfc8785.dumps(entry.predicate["plan"])
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        _need(
            digest == entry.subjects["plan"],
            f"the plan hashes to {digest[:23]}, the entry names {entry.subjects['plan'][:23]}",
        )
        try:
            plan = RunPlan.parse(content)
            self._check_claim(plan)
        except (ConfigError, ValueError) as error:
            raise VerificationError(f"the plan is none: {error}") from None
        _need(
            plan.federation == self._federation,
            f"expected a plan of {self._federation}, got one of {plan.federation}",
        )
        self.plans[digest] = plan

    def _check_claim(self, plan: RunPlan) -> None:
        cost = self._accountant(
            [calibrate.run_event(plan.mechanism, plan.rounds.num_rounds)], plan.mechanism.delta
        )
        _need(
            _at_most(cost, plan.mechanism.target_epsilon),
            f"the plan claims epsilon {plan.mechanism.target_epsilon:g}, its noise gives"
            f" {cost:.4g}",
        )

    def _plan_approved(self, entry: Entry) -> None:
        plan = self.plans[entry.subjects["plan"]]
        _need(
            any(share.name == entry.party for share in plan.sites),
            f"expected a plan in which {entry.party} takes part",
        )
        self._approved.setdefault(entry.subjects["plan"], set()).add(entry.party)

    def _run_started(self, entry: Entry) -> None:
        digest, run_id = entry.subjects["plan"], entry.predicate["run_id"]
        num_approved = len(self._approved.get(digest, set()))
        needed = self.plans[digest].rounds.min_sites
        _need(
            num_approved >= needed,
            f"expected approvals of {needed} sites before the run, got {num_approved}",
        )
        _need(
            self._runs.setdefault(run_id, digest) == digest,
            f"expected run {run_id} to keep its plan, got another digest",
        )

    def _round(self, entry: Entry) -> _Round:
        """The round that the entry is about, within a run of its plan."""
        digest = entry.subjects.get("plan")
        run_id, server_round = entry.predicate["run_id"], entry.predicate["server_round"]
        started = self._runs.get(run_id)
        _need(started is not None, f"expected a run that was started, got {run_id}")
        if started is None or (digest is not None and digest != started):
            raise VerificationError(f"expected the plan of run {run_id}, got another digest")
        num_rounds = self.plans[started].rounds.num_rounds
        _need(
            server_round <= num_rounds,
            f"expected rounds 1 to {num_rounds}, as the plan says, got {server_round}",
        )
        return started, run_id, server_round

    def _data_masked(self, entry: Entry) -> None:
        digest = entry.subjects["plan"]
        plan = self.plans[digest]
        expected = list(plan.masking.entity_types)
        _need(
            entry.predicate["entity_types"] == expected,
            f"expected {len(expected)} entity types to be masked, as the plan says",
        )
        _need(
            entry.subjects["canaries"] == plan.canaries,
            "expected the planted examples of the plan to be looked for",
        )
        recalls = parse_recalls(entry.predicate["recall"])
        over_masking = parse_over_masking(entry.predicate["over_masking"])
        if plan.canaries == set_digest():
            # A type that is not named is one that nobody looked for. Of another version's set
            # only the digest is known here.
            _need(
                {(found.entity_type, found.source): found.num_planted for found in recalls}
                == num_planted(plan.masking.languages, expected),
                "expected recall of each planted type and language, and of all examples",
            )
            _need(
                {figure.source: figure.num_clean for figure in over_masking}
                == num_clean(plan.masking.languages),
                "expected over-masking of each of the plan's languages, and of all sentences",
            )
        for recall in recalls:
            _need(
                recall.entity_type in expected and recall.share >= plan.masking.recall_floor,
                f"expected recall of {recall.entity_type} at or above the plan's floor of"
                f" {plan.masking.recall_floor:g}, got {recall.share:.3f}",
            )
        for figure in over_masking:
            _need(
                figure.share <= plan.masking.max_over_masking,
                f"expected over-masking ({figure.source}) of at most the plan's"
                f" {plan.masking.max_over_masking:g}, got {figure.share:.3f}",
            )
        self._masked.setdefault(entry.party, set()).add(digest)

    def _check_active(self, site: str) -> None:
        _need(site not in self._revoked, f"expected no act of {site}, which is revoked")

    def _budget_reserved(self, entry: Entry) -> None:
        site, place = entry.party, self._round(entry)
        self._check_active(site)
        _need(
            site in self._approved.get(place[0], set()),
            f"expected {site} to approve the plan before it spends budget under it",
        )
        _need(
            place not in self._committed.get(site, {}),
            f"expected round {place[2]} to be spent once, got a second reservation",
        )
        self._check_spend(entry, place)
        self._reserved.setdefault(site, {})[place] = entry

    def _budget_committed(self, entry: Entry) -> None:
        site, place = entry.party, self._round(entry)
        self._check_active(site)
        reserved = self._reserved.get(site, {}).get(place)
        _need(
            reserved is not None, f"expected a reservation of round {place[2]} before its commit"
        )
        _need(
            reserved is not None and reserved.predicate == entry.predicate,
            f"expected the commit of round {place[2]} to say what its reservation said",
        )
        earlier = self._committed.setdefault(site, {}).setdefault(place, entry)
        _need(
            earlier.subjects == entry.subjects,
            f"expected one commit of round {place[2]}, got a second for another update",
        )

    def _check_spend(self, entry: Entry, place: _Round) -> None:
        """Recompute what the entry says that was spent."""
        said = entry.predicate
        plan = self.plans[place[0]]
        mechanism = plan.mechanism
        try:
            this = calibrate.Event(
                said["noise_multiplier"], said["sample_rate"], said["num_steps"]
            )
            prior = [calibrate.Event(*release) for release in said["prior"]]
        except ValueError as error:
            raise VerificationError(str(error)) from None
        _need(
            this == calibrate.round_event(mechanism),
            "expected noise multiplier, sample rate and steps of the plan",
        )
        _need(
            mechanism.delta <= said["delta"] < 1,
            f"expected a delta from the plan's {mechanism.delta:g} to 1, got {said['delta']:g}",
        )
        # At a delta of 1 / n a mechanism may publish one whole record; near 1 any epsilon holds.
        num_units = plan.share(entry.party).num_units
        _need(
            said["delta"] < 1 / num_units,
            f"expected a delta below 1 / {num_units}, the plan's units of {entry.party}, got"
            f" {said['delta']:g}",
        )
        _need(len(prior) <= MAX_PRIOR, f"expected at most {MAX_PRIOR} earlier releases")
        others = [
            (other, known)
            for other, known in self._reserved.get(entry.party, {}).items()
            if other != place
        ]
        # A site has one ledger, and a ledger one unit: of two, neither epsilon would count all.
        _need(
            all(self.plans[other[0]].mechanism.unit == mechanism.unit for other, _ in others),
            f"expected one unit in the ledger of {entry.party}, got a second",
        )
        known_steps = _count(
            calibrate.round_event(self.plans[known.subjects["plan"]].mechanism)
            for _, known in others
        )
        prior_steps = _count(prior)
        _need(
            all(prior_steps[kind] >= num_steps for kind, num_steps in known_steps.items()),
            "expected all earlier releases of this site among the prior ones",
        )
        if not self._recompute:
            return
        num_rounds = 1 + sum(other[:2] == place[:2] for other, _ in others)
        run = self._accountant([calibrate.run_event(mechanism, num_rounds)], mechanism.delta)
        total = self._accountant([*prior, this], said["delta"])
        _need(
            _at_most(run, said["epsilon_run"]),
            f"epsilon of the run does not follow: {num_rounds} rounds give {run:.4g}, the entry"
            f" says {said['epsilon_run']:.4g}",
        )
        _need(
            _at_most(total, said["epsilon_total"]) and _at_most(said["epsilon_total"], total),
            f"epsilon in total does not follow: the releases give {total:.4g}, the entry says"
            f" {said['epsilon_total']:.4g}",
        )
        _need(
            _at_most(said["epsilon_run"], mechanism.target_epsilon),
            f"epsilon {said['epsilon_run']:.4g} of the run is over the plan's"
            f" {mechanism.target_epsilon:.4g}",
        )
        _need(
            _at_most(said["epsilon_total"], said["budget_epsilon"]),
            f"epsilon {said['epsilon_total']:.4g} is over the site's budget"
            f" {said['budget_epsilon']:.4g}",
        )

    def _update_sent(self, entry: Entry) -> None:
        site, place, update = entry.party, self._round(entry), entry.subjects["update"]
        self._check_active(site)
        _need(
            site in self._approved.get(place[0], set()),
            f"expected {site} to approve the plan before it sends an update under it",
        )
        _need(
            place[0] in self._masked.get(site, set()),
            f"expected {site} to say how it masked its records before it sends an update",
        )
        committed = self._committed.get(site, {}).get(place)
        _need(
            committed is not None,
            f"expected the budget of round {place[2]} to be committed before its update leaves",
        )
        _need(
            committed is not None and committed.subjects.get("update", update) == update,
            f"expected the update for which the budget of round {place[2]} was committed",
        )
        max_bytes = self.plans[place[0]].exits.max_update_bytes
        _need(
            entry.predicate["update_bytes"] <= max_bytes,
            f"expected at most {max_bytes} bytes, as the plan says",
        )
        _need(
            self._sent.setdefault(site, {}).setdefault(place, update) == update,
            f"expected one update in round {place[2]}, got a second, different one",
        )

    def _update_accepted(self, entry: Entry) -> None:
        site, place, update = entry.predicate["site"], self._round(entry), entry.subjects["update"]
        _need(site not in self._revoked, f"expected no update of {site}, which is revoked")
        _need(
            place[2] not in self._released.get(place[1], {}),
            f"expected no update in round {place[2]} behind its adapter",
        )
        _need(
            self._sent.get(site, {}).get(place) == update,
            f"expected an update that {site} sent in round {place[2]}, got another digest",
        )
        _need(
            self._accepted.setdefault(place, {}).setdefault(site, update) == update,
            f"expected one update of {site} in round {place[2]}, got a second",
        )

    def _adapter_released(self, entry: Entry) -> None:
        place, sites = self._round(entry), entry.predicate["sites"]
        missing = sorted(set(sites) - set(self._accepted.get(place, {})))
        _need(
            not missing,
            f"the adapter of round {place[2]} names {', '.join(missing)}, whose update was not"
            " accepted",
        )
        needed = self.plans[place[0]].rounds.min_sites
        _need(
            len(sites) >= needed, f"expected updates of at least {needed} sites, got {len(sites)}"
        )
        _need(
            place[2] > max(self._released.get(place[1], {}), default=0),
            f"expected one adapter a round, in order, got round {place[2]} again or late",
        )
        self._released.setdefault(place[1], {})[place[2]] = entry.subjects["adapter"]

    def _round_failed(self, entry: Entry) -> None:
        place = self._round(entry)
        _need(
            place[2] not in self._released.get(place[1], {}),
            f"expected no failure of round {place[2]}, whose adapter was released",
        )

    def _run_finished(self, entry: Entry) -> None:
        run_id, num_rounds = entry.predicate["run_id"], entry.predicate["num_rounds"]
        digest = self._runs.get(run_id)
        if digest is None:
            raise VerificationError("expected the end of a run that was started")
        # A coordinator that a crash interrupts behind this entry goes on and writes it again.
        released = self._released.get(run_id, {})
        _need(
            num_rounds == len(released),
            f"expected {len(released)} rounds, one for each adapter that was released, got"
            f" {num_rounds}",
        )
        last = released[max(released)] if released else self.plans[digest].initial_adapter
        _need(
            entry.subjects.get("adapter", last) == last,
            "expected the run to end with the adapter released last, got another digest",
        )


def _at_most(value: float, bound: float) -> bool:
    return value <= bound + _TOLERANCE * max(1.0, bound)


def _count(events: Iterable[calibrate.Event]) -> Counter[tuple[float, float]]:
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        counts[(event.noise_multiplier, event.sample_rate)] += event.num_steps
    return counts
