"""The sites as witnesses of the running log: who is asked, for what, and whether it is enough.

Rules:

- All witnesses are asked for the same checkpoint, the *candidate*, until the quorum has cosigned
  it; only then comes a newer one. Else a busy log would give each witness another checkpoint, and
  no checkpoint would ever have its quorum.
- A newer candidate comes at a bounded rate, so that cosigning stays beside the rounds.
- A site counts with the key that it announced in the log under its own signature, as long as it is
  enrolled.
- A checkpoint with its quorum is never replaced on disk by one without.

What a crash leaves: signatures that were not written yet are lost, and their witnesses sign the
same checkpoint again when they are asked again.
"""

import threading
import time
from collections.abc import Mapping

from privacy.audit.checkpoint import log_key, parse_checkpoint
from privacy.audit.cosignature import cosigned_at
from privacy.audit.note import Note, NoteKey, NoteSignature
from privacy.audit.quorum import Quorum
from privacy.audit.witness import Request, open_signed
from privacy.durable import replace_file
from privacy.errors import ConfigError, VerificationError
from server.config import FederationConfig
from server.evidence import Evidence
from server.roster import Roster

POLICY = "policy"
# A new checkpoint is shown to the witnesses this often at most.
CANDIDATE_S = 2.0


class Witnesses:
    """Safe for threads.

    Args:
      config: Says what the quorum is.
      public_key: Of the log's operator.
      roster: Enrolled sites.
      evidence: The log, and the keys that sites announced in it.
    """

    def __init__(
        self, config: FederationConfig, public_key: bytes, roster: Roster, evidence: Evidence
    ) -> None:
        self._config = config
        self._log_key = log_key(evidence.log.origin, public_key)
        self._roster = roster
        self._evidence = evidence
        self._lock = threading.Lock()
        self._signatures: dict[str, NoteSignature] = {}
        self._is_urgent = False
        self._kept_size, self._kept = self._read_cosigned()
        self._covered_size = self._kept_size if self._quorum().holds(self._kept) else 0
        self._candidate = evidence.log.checkpoint
        self._size = _size(self._candidate)
        self._since = time.monotonic()
        if self._kept_size == self._size:
            self._signatures = dict(self._kept)
        self._problem = ""
        self.write_policy()

    # -- what a witness asks ----------------------------------------------------------------------

    def ask(self, site: str, old_size: int) -> str:
        """What a site that saw `old_size` entries last is to cosign; empty where it has done so.

        Raises:
          VerificationError: The site announced no key.
        """
        keys = self._keys()
        if site not in keys:
            raise VerificationError(
                f"expected {site} to announce its witness's key before it witnesses"
            )
        with self._lock:
            self._advance(keys)
            if old_size == 0 and self._evidence.announced_at(site) >= self._size:
                # Who begins is shown a log with its own entries: it refuses one without them. The
                # others sign the newer one too; a site announces few keys.
                self._show_newest()
            if old_size == self._size and site in _by(keys, self._signatures):
                return ""
            path: list[bytes] = []
            # A site that saw more than we have must learn it: it will not sign, and say why.
            if 0 < old_size <= self._size:
                path = self._evidence.log.consistency(old_size, self._size)
            return str(Request(old_size=old_size, path=tuple(path), checkpoint=self._candidate))

    def take(self, site: str, cosigned: str) -> bool:
        """Keep a site's cosignature; False when another checkpoint is being cosigned by now.

        Raises:
          VerificationError: It is no cosignature of this site.
        """
        note = Note.parse(cosigned)
        keys = self._keys()
        key = keys.get(site)
        if key is None or cosigned_at(note, key) is None:
            raise VerificationError(f"expected a cosignature by the key that {site} announced")
        with self._lock:
            if note.text != Note.parse(self._candidate).text:
                return False
            self._signatures[site] = note.by(key)[-1]
            self._keep(keys)
            return True

    def _advance(self, keys: Mapping[str, NoteKey]) -> None:
        """Go on to the newest checkpoint, once the one before has its quorum."""
        newest = self._evidence.log.checkpoint
        pause_s = 0.0 if self._is_urgent else CANDIDATE_S
        if (
            newest != self._candidate
            and self._quorum().holds(_by(keys, self._signatures))
            and time.monotonic() - self._since >= pause_s
        ):
            self._show_newest()

    def _show_newest(self) -> None:
        self._candidate = self._evidence.log.checkpoint
        self._size = _size(self._candidate)
        self._signatures, self._since = {}, time.monotonic()
        self._is_urgent = False

    def _keep(self, keys: Mapping[str, NoteKey]) -> None:
        quorum = self._quorum()
        current = _by(keys, self._signatures)
        is_met = quorum.holds(current)
        if is_met or not quorum.holds(_by(keys, self._kept)):
            self._evidence.log.add_cosignatures(
                self._candidate, current.values(), [keys[site] for site in current]
            )
            self._kept_size, self._kept = self._size, current
        if is_met:
            self._covered_size = self._size

    # -- what the coordinator asks ----------------------------------------------------------------

    def covers(self, size: int) -> bool:
        """Whether the quorum has cosigned the first `size` entries."""
        quorum = self._quorum()
        with self._lock:
            if quorum.needed == 0 or self._covered_size >= size:
                return True
            # Somebody waits: the next to ask gets the newest checkpoint at once.
            self._is_urgent = True
            return False

    def status(self) -> dict[str, object]:
        """The state of the quorum as JSON can carry it.

        `waiting_s` is how long the checkpoint shown to the witnesses has lacked its quorum.
        """
        quorum, keys = self._quorum(), self._keys()
        enrolled = self._roster.list()
        active = {e.site for e in enrolled if e.active}
        with self._lock:
            self._advance(keys)
            current = _by(keys, self._signatures)
            is_met = quorum.holds(current)
            return {
                "needed": quorum.needed,
                "operators": len(quorum.operators),
                "cosigned_entries": self._covered_size,
                "by": sorted(_by(keys, self._kept)),
                "waiting_s": 0.0 if is_met else round(time.monotonic() - self._since, 1),
                "missing": [] if is_met else quorum.missing(current),
                "without_key": sorted(active - set(keys)),
                "unknown": sorted(
                    set(self._config.witness_operators) - {e.site for e in enrolled}
                ),
                "problem": self._problem,
            }

    def write_policy(self) -> None:
        """Write the federation's policy beside the log, for whoever verifies it.

        Where too few sites announced a key there is no policy: one that asks for less would be
        believed.
        """
        path = self._config.log_folder / POLICY
        with self._lock:
            try:
                content = self._quorum().policy(self._log_key, self._keys()).encode()
            except ConfigError as error:
                self._problem = str(error)
                path.unlink(missing_ok=True)
                return
            self._problem = ""
            if not path.exists() or path.read_bytes() != content:
                replace_file(path, content)

    # -- what both follow from --------------------------------------------------------------------

    def _quorum(self) -> Quorum:
        return Quorum.over(
            self._config.witness_quorum,
            [e.site for e in self._roster.list() if e.active],
            self._config.witness_operators,
        )

    def _keys(self) -> dict[str, NoteKey]:
        """The keys with which enrolled sites cosign."""
        announced = self._evidence.witnesses()
        return {
            site: key
            for site, key in announced.items()
            if self._roster.active_site(site) is not None
        }

    def _read_cosigned(self) -> tuple[int, dict[str, NoteSignature]]:
        """Size and signatures of the newest cosigned checkpoint on disk; none where it is spoilt.

        The file follows from what the sites signed, and they sign again: it must not keep the
        coordinator from its start.
        """
        try:
            text = self._evidence.log.cosigned
            if not text:
                return 0, {}
            size = open_signed(text, self._log_key).size
            note = Note.parse(text)
            found = {
                site: note.by(key)[-1]
                for site, key in self._keys().items()
                if cosigned_at(note, key) is not None
            }
        except (VerificationError, UnicodeDecodeError):
            return 0, {}
        return size, found


def _by(
    keys: Mapping[str, NoteKey], signatures: Mapping[str, NoteSignature]
) -> dict[str, NoteSignature]:
    """The signatures by the sites' present keys: no policy knows a replaced one."""
    return {s: found for s, found in signatures.items() if s in keys and found.is_by(keys[s])}


def _size(note: str) -> int:
    return parse_checkpoint(Note.parse(note).text).size
