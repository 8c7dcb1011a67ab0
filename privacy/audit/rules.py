"""What may follow what in a log: the protocol's promises, each a method.

A plan is the one whose digest is named; a site approved it before it spent budget under it; a
round is within the plan; epsilon is recomputed from noise multiplier, sample rate and steps and
never believed; budget is committed before an update leaves; an update is accepted only as sent; an
adapter is released only from accepted updates; noised figures about a released adapter leave only
behind the commit of their budget, as they were committed; tracers are pinned before an update that
they are in, and the ranks of their secrets are as many as the plan has, once.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import rfc8785

from privacy.audit.entry import FORMS, Entry, Event
from privacy.audit.keys import KeyRing, Role
from privacy.audit.note import NoteKey
from privacy.audit.policy import WITNESS_TYPES
from privacy.dp import calibrate, exposure, membership
from privacy.dp.config import Unit
from privacy.errors import ConfigError, VerificationError
from privacy.masking.canaries import check_said, set_digest
from privacy.masking.figures import parse_over_masking, parse_recalls
from privacy.pki.identity import Algorithm, algorithm_of
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

# What a site may set aside: an event that sites say.
_SET_ASIDE = {
    event.value
    for event, form in FORMS.items()
    if form.role is Role.SITE and event is not Event.ENTRY_SET_ASIDE
}
# Set aside, these are missing in what is summed up of a site: epsilon, tests, what left it.
COUNTED = frozenset(
    {
        Event.BUDGET_RESERVED,
        Event.BUDGET_COMMITTED,
        Event.BUDGET_REFUSED,
        Event.TEST_RESERVED,
        Event.TEST_COMMITTED,
        Event.ADAPTER_TESTED,
        Event.EXPOSURE_MEASURED,
        Event.UPDATE_SENT,
    }
)

Accountant = Callable[[Iterable[calibrate.Event], float], float]
_Round = tuple[str, str, int]  # plan digest, run id, server round
_Test = tuple[str, str, int]  # plan digest, run id, number of the test
_Kind = tuple[float, float]  # noise multiplier, sample rate


def _short(digest: str) -> bytes:
    """What is remembered of a site's entry: a log may have millions."""
    return bytes.fromhex(digest.removeprefix("sha256:"))[:16]


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
        # The newest key that each site announced and still cosigns with.
        self.witnesses: dict[str, NoteKey] = {}
        self._witness_keys: dict[bytes, str] = {}
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
        # Sums over `_reserved`: to go through all rounds of a site at each of its rounds would
        # make a log of 100,000 entries take minutes.
        self._steps: dict[str, Counter[_Kind]] = {}
        self._num_rounds: Counter[tuple[str, str, str]] = Counter()
        self._units: dict[str, set[Unit]] = {}
        self._committed: dict[str, dict[_Round, Entry]] = {}
        self._sent: dict[str, dict[_Round, str]] = {}
        self._accepted: dict[_Round, dict[str, str]] = {}
        self._released: dict[str, dict[int, str]] = {}
        # Run -> site -> adapters of it that name the site.
        self._added: dict[str, Counter[str]] = {}
        self._tests: dict[str, dict[_Test, Entry]] = {}
        self._committed_tests: dict[str, dict[_Test, Entry]] = {}
        self._tracers: dict[str, dict[str, str]] = {}
        self._exposures: dict[str, dict[str, Entry]] = {}
        self._finished: set[str] = set()
        self._told: dict[str, dict[_Test, Mapping[str, str]]] = {}
        self._digests: set[bytes] = set()
        self._checks: Mapping[Event, Callable[[Entry], None]] = {
            Event.SITE_ENROLLED: self._site_enrolled,
            Event.SITE_REVOKED: self._site_revoked,
            Event.PLAN_OFFERED: self._plan_offered,
            Event.RUN_STARTED: self._run_started,
            Event.UPDATE_ACCEPTED: self._update_accepted,
            Event.ADAPTER_RELEASED: self._adapter_released,
            Event.ROUND_FAILED: self._round_failed,
            Event.RUN_FINISHED: self._run_finished,
            Event.WITNESS_ANNOUNCED: self._witness_announced,
            Event.ENTRY_SET_ASIDE: self._entry_set_aside,
            Event.PLAN_APPROVED: self._plan_approved,
            Event.EVALUATED: self._evaluated,
            Event.DATA_MASKED: self._data_masked,
            Event.BUDGET_RESERVED: self._budget_reserved,
            Event.BUDGET_COMMITTED: self._budget_committed,
            Event.UPDATE_SENT: self._update_sent,
            Event.TEST_RESERVED: self._test_reserved,
            Event.TEST_COMMITTED: self._test_committed,
            Event.ADAPTER_TESTED: self._adapter_tested,
            Event.TRACERS_ADDED: self._tracers_added,
            Event.EXPOSURE_MEASURED: self._exposure_measured,
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
        self._digests.add(_short(entry.digest))

    def outcome(self, run_id: str, site: str) -> tuple[str, int, bool, int]:
        """What came of a run so far.

        Returns:
          Digest of its newest adapter and the round that made it, empty and 0 before the first;
          whether it is over; how many of its adapters name the site.
        """
        released = self._released.get(run_id, {})
        newest = max(released, default=0)
        num_added = self._added[run_id][site] if released else 0
        return released.get(newest, ""), newest, run_id in self._finished, num_added

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
        algorithm = algorithm_of(bytes.fromhex(signing_key))
        said = entry.predicate.get("algorithm", Algorithm.ED25519.value)
        _need(
            said == algorithm.value,
            f"expected {site} to be enrolled with a key of {said}, got one of {algorithm}",
        )
        before = self._enrolled.get(site)
        earlier = algorithm if before is None else algorithm_of(bytes.fromhex(before))
        _need(
            not algorithm.is_weaker_than(earlier),
            f"expected {site} to go on signing with {earlier}, got a key of {algorithm}",
        )
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
        self.witnesses.pop(site, None)

    def _witness_announced(self, entry: Entry) -> None:
        try:
            key = NoteKey.parse(entry.predicate["witness_key"])
        except ConfigError as error:
            raise VerificationError(str(error)) from None
        expected = f"cloister/{self._federation}/{entry.party}"
        _need(
            key.name == expected and key.type in WITNESS_TYPES,
            f"expected the key of a witness {expected}, got {key.type.name.lower()} {key.name}",
        )
        # One key under two names would count twice in a quorum; a signing key would let what is
        # signed for one purpose stand for the other.
        _need(
            self._witness_keys.get(key.public_key, entry.party) == entry.party
            and all(key.public_key != other.public_key for other in self._keys),
            "expected a witness's key of its own, got one that is used elsewhere",
        )
        self._witness_keys[key.public_key] = entry.party
        self.witnesses[entry.party] = key

    def _entry_set_aside(self, entry: Entry) -> None:
        event, refused = entry.predicate["refused_event"], _short(entry.subjects["entry"])
        _need(
            event in _SET_ASIDE,
            f"expected a site to set aside what sites say, other than that, got {event}",
        )
        # What is in the log was not refused, and what was set aside has its place already.
        _need(
            refused not in self._digests,
            f"expected {entry.party} to set aside an entry that the log lacks, got one it names",
        )
        self._digests.add(refused)

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
        try:
            check_said(
                parse_recalls(entry.predicate["recall"]),
                parse_over_masking(entry.predicate["over_masking"]),
                plan.masking,
                is_known=plan.canaries == set_digest(),
            )
        except ValueError as error:
            raise VerificationError(str(error)) from None
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
        if place not in self._reserved.setdefault(site, {}):
            mechanism = self.plans[place[0]].mechanism
            steps = _count([calibrate.round_event(mechanism)])
            self._steps.setdefault(site, Counter()).update(steps)
            self._num_rounds[site, place[0], place[1]] += 1
            self._units.setdefault(site, set()).add(mechanism.unit)
        self._reserved[site][place] = entry

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
        mechanism = self.plans[place[0]].mechanism
        try:
            this = calibrate.Event(
                said["noise_multiplier"], said["sample_rate"], said["num_steps"]
            )
        except ValueError as error:
            raise VerificationError(str(error)) from None
        _need(
            this == calibrate.round_event(mechanism),
            "expected noise multiplier, sample rate and steps of the plan",
        )
        again = place in self._reserved.get(entry.party, {})
        prior = self._check_prior(entry, place[0], but=[this] if again else [])
        if not self._recompute:
            return
        num_rounds = self._num_rounds[entry.party, place[0], place[1]] + (0 if again else 1)
        run = self._accountant([calibrate.run_event(mechanism, num_rounds)], mechanism.delta)
        _need(
            _at_most(run, said["epsilon_run"]),
            f"epsilon of the run does not follow: {num_rounds} rounds give {run:.4g}, the entry"
            f" says {said['epsilon_run']:.4g}",
        )
        self._check_total(entry, [*prior, this])
        _need(
            _at_most(said["epsilon_run"], mechanism.target_epsilon),
            f"epsilon {said['epsilon_run']:.4g} of the run is over the plan's"
            f" {mechanism.target_epsilon:.4g}",
        )

    def _check_prior(
        self, entry: Entry, plan_digest: str, but: Iterable[calibrate.Event] = ()
    ) -> list[calibrate.Event]:
        """The releases before this one, which hold all that the log knows of this site.

        `but` leaves out this one itself, where it was reserved before.
        """
        said, site, plan = entry.predicate, entry.party, self.plans[plan_digest]
        mechanism = plan.mechanism
        try:
            prior = [calibrate.Event(*release) for release in said["prior"]]
        except ValueError as error:
            raise VerificationError(str(error)) from None
        _need(
            mechanism.delta <= said["delta"] < 1,
            f"expected a delta from the plan's {mechanism.delta:g} to 1, got {said['delta']:g}",
        )
        # At a delta of 1 / n a mechanism may publish one whole record; near 1 any epsilon holds.
        num_units = plan.share(site).num_units
        _need(
            said["delta"] < 1 / num_units,
            f"expected a delta below 1 / {num_units}, the plan's units of {site}, got"
            f" {said['delta']:g}",
        )
        _need(len(prior) <= MAX_PRIOR, f"expected at most {MAX_PRIOR} earlier releases")
        tests = self._tests_of(site)
        # A site has one ledger, and a ledger one unit: of two, neither epsilon would count all.
        _need(
            self._units.get(site, set()) <= {mechanism.unit}
            and all(self.plans[place[0]].mechanism.unit == mechanism.unit for place in tests),
            f"expected one unit in the ledger of {site}, got a second",
        )
        known_steps = self._steps.get(site, Counter()) - _count(but)
        known_steps += _count(_test_event(test) for test in tests.values())
        prior_steps = _count(prior)
        _need(
            all(prior_steps[kind] >= num_steps for kind, num_steps in known_steps.items()),
            "expected all earlier releases of this site among the prior ones",
        )
        return prior

    def _check_total(self, entry: Entry, releases: Iterable[calibrate.Event]) -> None:
        said = entry.predicate
        total = self._accountant(releases, said["delta"])
        _need(
            _at_most(total, said["epsilon_total"]) and _at_most(said["epsilon_total"], total),
            f"epsilon in total does not follow: the releases give {total:.4g}, the entry says"
            f" {said['epsilon_total']:.4g}",
        )
        _need(
            _at_most(said["epsilon_total"], said["budget_epsilon"]),
            f"epsilon {said['epsilon_total']:.4g} is over the site's budget"
            f" {said['budget_epsilon']:.4g}",
        )

    # -- tests of an adapter ---------------------------------------------------------------------

    def _tests_of(self, site: str) -> Mapping[_Test, Entry]:
        return self._tests.get(site, {})

    def _test(self, entry: Entry) -> _Test:
        """The test that the entry is about, of an adapter that was released in its run."""
        return *self._attacked(entry), entry.predicate["test_number"]

    def _attacked(self, entry: Entry) -> tuple[str, str]:
        """Plan and run of the adapter that the entry is about, which was released."""
        digest, run_id = entry.subjects["plan"], entry.predicate["run_id"]
        self._check_active(entry.party)
        _need(
            self._runs.get(run_id) == digest,
            f"expected the plan of run {run_id}, got another digest",
        )
        _need(
            entry.party in self._approved.get(digest, set()),
            f"expected {entry.party} to approve the plan before it tests an adapter of it",
        )
        _need(
            entry.subjects["adapter"] in self._released.get(run_id, {}).values(),
            f"expected a test of an adapter that was released in run {run_id}, got another digest",
        )
        return digest, run_id

    def _test_reserved(self, entry: Entry) -> None:
        place, said = self._test(entry), entry.predicate
        number, num_attacks = place[2], len(membership.EDGES)
        _need(
            place not in self._tests_of(entry.party),
            f"expected test {number} to be spent once, got a second reservation",
        )
        _need(
            said["num_releases"] == num_attacks,
            f"expected {num_attacks} releases, one for each attack, got {said['num_releases']}",
        )
        try:
            this = _test_event(entry)
        except ValueError as error:
            raise VerificationError(str(error)) from None
        prior = self._check_prior(entry, place[0])
        if self._recompute:
            alone = self._accountant([this], said["delta"])
            _need(
                _at_most(alone, said["epsilon_test"]) and _at_most(said["epsilon_test"], alone),
                f"epsilon of the test does not follow: its noise gives {alone:.4g}, the entry"
                f" says {said['epsilon_test']:.4g}",
            )
            self._check_total(entry, [*prior, this])
        self._tests.setdefault(entry.party, {})[place] = entry

    def _test_committed(self, entry: Entry) -> None:
        site, place = entry.party, self._test(entry)
        reserved = self._tests_of(site).get(place)
        if reserved is None:
            raise VerificationError(f"expected a reservation of test {place[2]} before its commit")
        _need(
            reserved.predicate == entry.predicate
            and reserved.subjects["adapter"] == entry.subjects["adapter"],
            f"expected the commit of test {place[2]} to say what its reservation said",
        )
        earlier = self._committed_tests.setdefault(site, {}).setdefault(place, entry)
        _need(
            earlier.subjects == entry.subjects,
            f"expected one commit of test {place[2]}, got a second for other figures",
        )

    def _adapter_tested(self, entry: Entry) -> None:
        site, place, said = entry.party, self._test(entry), entry.predicate
        committed = self._committed_tests.get(site, {}).get(place)
        if committed is None:
            raise VerificationError(
                f"expected the budget of test {place[2]} to be committed before its figures leave"
            )
        _need(
            committed.subjects == entry.subjects
            and committed.predicate["noise_multiplier"] == said["noise_multiplier"],
            f"expected the figures for which the budget of test {place[2]} was committed",
        )
        _need(
            membership.digest(said["noise_multiplier"], said) == entry.subjects["result"],
            "expected figures that hash to the digest that the entry names",
        )
        _need(
            self._told.setdefault(site, {}).setdefault(place, entry.subjects) == entry.subjects,
            f"expected one set of figures of test {place[2]}, got a second",
        )

    # -- tracers ---------------------------------------------------------------------------------

    def _tracers_added(self, entry: Entry) -> None:
        site, digest, said = entry.party, entry.subjects["plan"], entry.predicate
        self._check_active(site)
        _need(
            site in self._approved.get(digest, set()),
            f"expected {site} to approve the plan before it adds tracers under it",
        )
        planned = self.plans[digest].exposure.tracers
        _need(
            said["num_tracers"] == planned,
            f"expected the plan's {planned} tracers of {site}, got {said['num_tracers']}",
        )
        tracers = entry.subjects["tracers"]
        _need(
            self._tracers.setdefault(site, {}).setdefault(digest, tracers) == tracers,
            f"expected one set of tracers of {site} under a plan, got a second",
        )

    def _exposure_measured(self, entry: Entry) -> None:
        site, said = entry.party, entry.predicate
        digest, run_id = self._attacked(entry)
        added = self._tracers.get(site, {}).get(digest)
        _need(
            added is not None, f"expected {site} to add tracers before it looks for their secrets"
        )
        _need(
            entry.subjects["tracers"] == added,
            f"expected ranks of the tracers that {site} added, got others",
        )
        _need(
            said["num_candidates"] == exposure.NUM_CANDIDATES,
            f"expected ranks among {exposure.NUM_CANDIDATES}, got {said['num_candidates']}",
        )
        planned = self.plans[digest].exposure.tracers
        _need(
            len(said["ranks"]) == planned,
            f"expected {planned} ranks, one for each of the plan's tracers, got"
            f" {len(said['ranks'])}",
        )
        # An early adapter remembers least, and one without this site's updates nothing.
        released = self._released[run_id]
        _need(
            entry.subjects["adapter"] == released[max(released)],
            f"expected ranks under the newest adapter of run {run_id}, got an earlier one",
        )
        _need(
            run_id in self._finished or max(released) == self.plans[digest].rounds.num_rounds,
            f"expected ranks after the last round of run {run_id}, got them after round"
            f" {max(released)}",
        )
        _need(
            site in self._added[run_id],
            f"expected an update of {site} in an adapter of run {run_id}, got none: nobody trained"
            " on its tracers",
        )
        earlier = self._exposures.setdefault(site, {}).setdefault(digest, entry)
        _need(
            earlier.predicate == said and earlier.subjects == entry.subjects,
            f"expected one set of ranks of {site} for a run, got a second",
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
        _need(
            not self.plans[place[0]].exposure.tracers or place[0] in self._tracers.get(site, {}),
            f"expected {site} to pin the plan's tracers before it sends an update",
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

    def _evaluated(self, entry: Entry) -> None:
        site, place = entry.party, self._round(entry)
        self._check_active(site)
        _need(
            site in self._approved.get(place[0], set()),
            f"expected {site} to approve the plan before it measures an adapter under it",
        )
        # A round that failed leaves the adapter of the one before it.
        # Released in the order of rounds: the newest is found first.
        released = reversed(self._released.get(place[1], {}).items())
        initial = self.plans[place[0]].initial_adapter
        newest = next((adapter for n, adapter in released if n <= place[2]), initial)
        _need(
            entry.subjects.get("adapter", newest) == newest,
            f"expected {site} to measure the adapter of round {place[2]}, got another digest",
        )

    def _update_accepted(self, entry: Entry) -> None:
        site, place, update = entry.predicate["site"], self._round(entry), entry.subjects["update"]
        _need(site not in self._revoked, f"expected no update of {site}, which is revoked")
        _need(
            place[2] not in self._released.get(place[1], {}),
            f"expected no update in round {place[2]} after its adapter",
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
        _need(
            place[1] not in self._finished,
            f"expected no adapter of run {place[1]} after its end",
        )
        needed = self.plans[place[0]].rounds.min_sites
        _need(
            len(sites) >= needed, f"expected updates of at least {needed} sites, got {len(sites)}"
        )
        _need(
            place[2] > next(reversed(self._released.get(place[1], {})), 0),
            f"expected one adapter a round, in order, got round {place[2]} again or late",
        )
        self._released.setdefault(place[1], {})[place[2]] = entry.subjects["adapter"]
        self._added.setdefault(place[1], Counter()).update(sites)

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
        self._finished.add(run_id)


def _test_event(entry: Entry) -> calibrate.Event:
    return membership.event(entry.predicate["noise_multiplier"])


def _at_most(value: float, bound: float) -> bool:
    return value <= bound + _TOLERANCE * max(1.0, bound)


def _count(events: Iterable[calibrate.Event]) -> Counter[_Kind]:
    counts: Counter[_Kind] = Counter()
    for event in events:
        counts[(event.noise_multiplier, event.sample_rate)] += event.num_steps
    return counts
