"""The coordinator's evidence: its own entries, and the gate that every site's entry passes.

Light enough for every command: it needs neither Flower nor torch.
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from privacy.audit.entry import Entry, Event, make_entry, parse_entry
from privacy.audit.keys import PartyKey, Role
from privacy.audit.log import Log, Receipt, check_sequence, check_signer
from privacy.audit.note import NoteKey
from privacy.audit.opening import Openings
from privacy.audit.rules import Rules
from privacy.dp import calibrate
from privacy.errors import VerificationError
from privacy.pki.identity import Algorithm, SigningKey
from server.config import FederationConfig
from server.roster import Enrolment

PARTY = "coordinator"
# Releases of more kinds than this are recomputed by auditors only: each kind takes time, and a
# site chooses how many it claims.
MAX_RECOMPUTED_KINDS = 64
# A site announces a key when it begins and when it lost one. Each announcement starts the
# signatures of that site anew, so they must not go on for ever.
MAX_ANNOUNCED_KEYS = 100


class Evidence:
    """The log as the coordinator keeps it: each entry checked and on disk before the call returns.

    An entry that does not follow from the earlier ones is refused, whoever signed it: an auditor
    stops at the first wrong entry, so one site's lie would hide everything after it.
    """

    def __init__(self, config: FederationConfig, key: SigningKey) -> None:
        self._key = key
        # Whoever holds it keeps every other entry out.
        self.lock = threading.RLock()
        own = PartyKey(party=PARTY, role=Role.COORDINATOR, public_key=key.public_key)
        self.log = Log(config.log_folder, key, f"cloister/{config.name}", [own])
        self._openings = Openings(config.openings_path)
        self._rules = Rules(self.log.keys, calibrate.epsilon)
        self._sent: dict[tuple[str, int, str], str] = {}
        self._announced: dict[str, list[int]] = {}
        try:
            for index, line in enumerate(self.log.lines()):
                self._follow(parse_entry(line), index, recompute=False)
        except BaseException:
            self.log.close()
            raise

    def _follow(self, entry: Entry, index: int, *, recompute: bool) -> None:
        """Check an entry against all earlier ones, and remember what it allows."""
        self._rules.check(entry, index, recompute=recompute)
        if entry.event is Event.UPDATE_SENT:
            place = (entry.subjects["plan"], entry.predicate["server_round"], entry.party)
            self._sent[place] = entry.subjects["update"]
        elif entry.event is Event.WITNESS_ANNOUNCED:
            self._announced.setdefault(entry.party, []).append(index)

    def sent_update(self, plan_digest: str, server_round: int, site: str) -> str | None:
        """Digest of the update that a site says it sent in a round, None before it says so."""
        with self.lock:
            return self._sent.get((plan_digest, server_round, site))

    def outcome(self, run_id: str, site: str) -> dict[str, object]:
        """What the log has of a run, for a site that asks before it signs what depends on it.

        An update counts as added where a released adapter names its site: one that was accepted
        before a crash and not sent again is in none.
        """
        with self.lock:
            adapter, server_round, is_finished, num_added = self._rules.outcome(run_id, site)
        return {
            "adapter": adapter,
            "server_round": server_round,
            "finished": is_finished,
            "num_added": num_added,
        }

    def witnesses(self) -> dict[str, NoteKey]:
        """The key with which each site cosigns, as it announced it; a copy."""
        with self.lock:
            return dict(self._rules.witnesses)

    def announced_at(self, site: str) -> int:
        """The entry in which a site announced its present witness's key; -1 before it did."""
        with self.lock:
            return self._announced.get(site, [-1])[-1]

    def _check_announced(self, entry: Entry) -> None:
        """Refuse a site's next witness's key where it announced too many."""
        if (
            entry.event is Event.WITNESS_ANNOUNCED
            and len(self._announced.get(entry.party, [])) >= MAX_ANNOUNCED_KEYS
        ):
            raise VerificationError(
                f"expected at most {MAX_ANNOUNCED_KEYS} witness's keys of {entry.party}"
            )

    def extend(self, lines: Sequence[bytes]) -> list[Receipt]:
        """Append entries durably, under one checkpoint, and return their receipts.

        Raises:
          VerificationError: One is malformed, not its signer's, out of order, or does not follow.
            Those before it were kept: their sender sends them again and gets their receipts.
        """
        problem: VerificationError | None = None
        with self.lock:
            sequences, size = self.log.sequences(), self.log.size
            good: list[Entry] = []
            seen: set[bytes] = set()
            for line in lines:
                try:
                    entry = parse_entry(line)
                    if not self.log.holds(line) and line not in seen:
                        check_signer(entry, self.log.keys)
                        check_sequence(entry, sequences)
                        self._check_announced(entry)
                        kinds = len(entry.predicate.get("prior", ()))
                        self._follow(entry, size, recompute=kinds <= MAX_RECOMPUTED_KINDS)
                        size += 1
                except VerificationError as error:
                    problem = error
                    break
                seen.add(line)
                good.append(entry)
            receipts = self.log.extend_checked(good) if good else []
        if problem is not None:
            raise problem
        return receipts

    def record(
        self,
        event: Event,
        subjects: Mapping[str, str] | None = None,
        *,
        personal: Mapping[str, str] | None = None,
        **fields: object,
    ) -> None:
        """Sign one entry and append it durably.

        Args:
          event: What happened.
          subjects: Digests of what it is about.
          personal: Values that name a person or are a person's words: the entry carries
            commitments, what opens them is kept first. Empty ones are left out.
          fields: The event's other fields.
        """
        with self.lock:
            fields |= self._openings.commit(PARTY, event, personal or {})
            line = make_entry(
                self._key,
                PARTY,
                event,
                sequence=self.log.next_sequence(self._key.key_id),
                at=datetime.now(UTC),
                subjects=subjects,
                predicate=fields,
            )
            self.extend([line])

    def enrolled(self, enrolment: Enrolment, personal: Mapping[str, str] | None = None) -> None:
        """A site was let in: its key signs from now on."""
        key = PartyKey(party=enrolment.site, role=Role.SITE, public_key=enrolment.signing_key)
        self.log.add_party(key)
        fields: dict[str, Any] = {
            "site": enrolment.site,
            "signing_key": enrolment.signing_key.hex(),
            "certificate_serial": enrolment.certificate_serial,
            "num_units": enrolment.num_units,
        }
        # Ed25519 goes without saying, as it did before there was a choice.
        if key.algorithm is not Algorithm.ED25519:
            fields["algorithm"] = key.algorithm.value
        self.record(Event.SITE_ENROLLED, personal=personal, **fields)
