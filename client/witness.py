"""This site as a witness of the coordinator's log: it cosigns what extends what it saw before.

Beside the rounds, in a thread of its own, over the agent's connection:

1. Ask the coordinator for a newer checkpoint, with the proof that it extends the one seen last.
2. Check signature and proof, write the new one to disk, and only then sign it with the witness's
   key. A crash in between leaves a site that signs the same checkpoint again.
3. Send the cosignature. A lost one is asked for again.

A checkpoint that the log signed and that does not extend the one seen last ends the agent: two
histories mean that nothing said to this site can be relied on. Both checkpoints stay in a folder
for `cloister-audit compare`, and no work of that coordinator is taken until a person has decided.
An answer that proves nothing (no checkpoint of this log, a proof from elsewhere) is not signed; so
many in a row end the agent too, because a log that cannot be witnessed is one that can be
rewritten.

The key's public half is announced in the log under the site's signing key. Whoever has that one
can check it, and the coordinator cannot put another in its place.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from client.home import SiteHome
from client.journal import Journal
from privacy.audit.checkpoint import log_key
from privacy.audit.cosignature import Algorithm, CosigningKey
from privacy.audit.entry import Event, format_time, parse_entry
from privacy.audit.note import Note
from privacy.audit.witness import Request, Seen, StaleError, Witness, open_signed
from privacy.durable import replace_file, sync_folder
from privacy.errors import ConfigError, FederationError, TransportError, VerificationError
from privacy.pki.enrolment import EnrolmentKit

# Between two questions, however often there is something new, and when nothing seems to be.
MIN_S: Final = 2.0
POLL_S: Final = 5.0
MAX_BAD_ANSWERS: Final = 3
_MEMORY: Final = "memory.json"
_STOPPED: Final = "stopped.json"
_DECIDED: Final = "decided.json"
# A copy that a person made beside one, `refused-1.bak`, is none.
_REFUSED_FOLDER: Final = re.compile(r"refused-([1-9][0-9]{0,8})", re.ASCII)
SEEN: Final = "seen.checkpoint"
REFUSED: Final = "refused.checkpoint"

Tell = Callable[..., None]


class Asked(Protocol):
    """The two calls of a witness; they raise as `client.link.Link` says."""

    def checkpoint(self, old_size: int) -> str:
        """A request to cosign, empty when there is nothing newer than `old_size` entries."""

    def cosign(self, note: str) -> bool:
        """Hand over a cosignature; False when another checkpoint is asked for by now."""


class StoppedError(VerificationError):
    """The coordinator's log does not hold together for this site, and a person must decide."""


def check_stopped(home: SiteHome) -> None:
    """Check that this site did not stop over the coordinator's log.

    Raises:
      StoppedError: It did, and nobody has decided.
    """
    found = stopped(home)
    if found is not None:
        raise _stopped_error(home, str(found.get("reason", "")), str(found.get("folder", "")))


def stopped(home: SiteHome) -> Mapping[str, object] | None:
    """Why this site stopped, None where it did not.

    Raises:
      ConfigError: The file that says so cannot be read.
    """
    path = home.witness_folder / _STOPPED
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"expected a JSON object in {path}")
    return found


def resume(home: SiteHome) -> Path:
    """A person has decided: work may be taken again. What was seen last stays remembered.

    Returns:
      The folder that keeps the evidence and the decision.

    Raises:
      ConfigError: The site did not stop.
    """
    found = stopped(home)
    if found is None:
        raise ConfigError("expected a site that stopped over the coordinator's log")
    folder = home.witness_folder / str(found.get("folder", ""))
    # Whoever decides may have moved the evidence to where it is compared.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    decided = {**found, "decided_at": format_time(datetime.now(UTC))}
    replace_file(folder / _DECIDED, _json(decided))
    sync_folder(folder)
    # A crash here leaves a site that asks once more.
    (home.witness_folder / _STOPPED).unlink()
    sync_folder(home.witness_folder)
    return folder


class BadAnswers:
    """How many answers in a row proved nothing; it outlives a connection.

    Else a coordinator that drops the line after each bad answer is never found out.
    """

    def __init__(self) -> None:
        self.number = 0


class SiteWitness:
    """The witness of one site; its key and its memory are made when they never were.

    Args:
      home: The site's folder.
      kit: Names the federation and the coordinator's key.
      journal: Where the key is announced.
      tell: Told what the operator should know.
      bad: Counts answers that prove nothing, from one connection to the next.

    Raises:
      ConfigError: The key or the memory was lost, is unreadable or is another log's. A witness
        without them signs nothing.
    """

    def __init__(
        self,
        home: SiteHome,
        kit: EnrolmentKit,
        journal: Journal,
        tell: Tell,
        bad: BadAnswers | None = None,
    ) -> None:
        self._home = home
        self._journal = journal
        self._tell = tell
        self._log = log_key(f"cloister/{kit.federation}", kit.coordinator_key)
        self.name = f"{self._log.name}/{home.config().site.name}"
        announced = journal.newest(Event.WITNESS_ANNOUNCED)
        self._announced = None if announced is None else announced.predicate["witness_key"]
        self._key = self._open_key()
        self._witness = self._open_memory()
        self._changed = threading.Condition()
        self._due_at = 0.0
        self._asked_at = 0.0
        self._bad = bad or BadAnswers()
        self._ended = False

    @property
    def vkey(self) -> str:
        """The public key as a policy names it."""
        return self._key.public.vkey

    @property
    def seen(self) -> Seen:
        """What was cosigned last."""
        return self._witness.seen

    def _open_key(self) -> CosigningKey:
        path = self._home.witness_key_path
        if not path.exists():
            if self._announced is not None:
                raise ConfigError(
                    f"expected the witness's key in {path}, which this site announced",
                    hint="restore it from a copy, or make another: cloister-site witness"
                    " --new-key",
                )
            make_key(self._home)
        return CosigningKey.load(path, self.name)

    def _open_memory(self) -> Witness:
        path = self._home.witness_folder / _MEMORY
        if not path.exists():
            if self._announced == self.vkey:
                # It may have signed: without its memory it could sign another history.
                raise ConfigError(
                    f"expected the memory of this site's witness in {path}, got none",
                    hint="restore it from a copy, or make another key: cloister-site witness"
                    " --new-key",
                )
            Witness.create(path, self._log)
        return Witness(path, self._key, self._log)

    def announce(self) -> None:
        """Say in the journal, under the site's own key, with which key it cosigns."""
        if self._announced != self.vkey:
            self._journal.record(Event.WITNESS_ANNOUNCED, witness_key=self.vkey)
            self._announced = self.vkey

    # -- beside the rounds ------------------------------------------------------------------------

    def wake(self, *, now: bool = False) -> None:
        """There may be something new: ask `now`, or at the bounded rate."""
        with self._changed:
            self._due_at = min(self._due_at, 0.0 if now else self._asked_at + MIN_S)
            self._changed.notify_all()

    def end(self) -> None:
        """End `watch`."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def watch(self, link: Asked, on_stopped: Callable[[FederationError], None]) -> None:
        """Ask and cosign until `end`; `on_stopped` gets the reason for which no work may go on."""
        has_ended = False
        try:
            self._watch(link, on_stopped)
            has_ended = True
        finally:
            if not has_ended:
                # A fault that nobody foresaw: work must not go on while nobody watches the log.
                on_stopped(
                    FederationError(
                        "this site's witness of the coordinator's log failed; no work is taken",
                        hint="the fault stands above; report it, then start the agent again",
                    )
                )

    def _watch(self, link: Asked, on_stopped: Callable[[FederationError], None]) -> None:
        while self._wait():
            try:
                self.step(link)
            except TransportError:
                # The main loop sees to the line, and a lost cosignature is asked for again.
                continue
            except OSError as error:
                # A full disk: nothing was signed, because nothing could be remembered.
                self._tell(witness=f"cannot write: {error.strerror}")
            except (StoppedError, ConfigError) as error:
                on_stopped(error)
                return
            except FederationError:
                # Shut out: the main loop meets the same fault on its next call.
                return

    def _wait(self) -> bool:
        with self._changed:
            while not self._ended and (left := self._due_at - time.monotonic()) > 0:
                self._changed.wait(left)
            self._asked_at = time.monotonic()
            self._due_at = self._asked_at + POLL_S
            return not self._ended

    def step(self, link: Asked) -> None:
        """Ask once, and cosign what is new.

        Raises:
          StoppedError: The log went back, forked, or gave no good answer for too long.
          FederationError: A call failed, see `client.link.Link`.
          OSError: The memory could not be written; nothing was signed.
        """
        seen = self._witness.seen
        try:
            asked = link.checkpoint(seen.size)
        except ConfigError as error:
            self._count_bad(seen, str(error))
            return
        if not asked:
            self._bad.number = 0
            return
        try:
            request = Request.parse(asked)
            size = open_signed(request.checkpoint, self._log).size
        except VerificationError as error:
            self._count_bad(seen, str(error))
            return
        if size >= seen.size and request.old_size != seen.size:
            self._count_bad(seen, f"expected a proof from {seen.size} entries on")
            return
        if seen.size == 0 and (request.path or size == 0):
            self._count_bad(seen, "expected a first checkpoint without a proof")
            return
        if seen.size == 0 and size < (floor := self._floor()):
            self._count_bad(
                seen, f"expected the {floor} entries that this site was told of, got {size}"
            )
            return
        try:
            signature = self._witness.cosign(request, datetime.now(UTC))
        except StaleError as error:
            if self._witness.seen != seen:
                # The thread of another connection went on meanwhile; the next question is newer.
                return
            raise self._stop(seen, str(error), request.checkpoint) from None
        except VerificationError as error:
            raise self._stop(self._witness.seen, str(error), request.checkpoint) from None
        self._bad.number = 0
        if self._ended:
            # The line is being closed; at the next one the same is asked for again.
            return
        text = Note.parse(request.checkpoint).text
        try:
            link.cosign(str(Note(text=text, signatures=(signature,))))
        except ConfigError as error:
            # Who does not want it lacks it: that shows where a quorum is asked for.
            self._tell(witness=f"the coordinator does not take the cosignature: {error}")

    def is_not_asked(self) -> None:
        """The coordinator let this site in without asking it to witness the log.

        Raises:
          StoppedError: Once too often.
        """
        if self._announced is not None:
            self._count_bad(
                self._witness.seen, "the coordinator no longer asks this site to witness its log"
            )

    def _floor(self) -> int:
        """How many entries the first checkpoint has at least.

        Where the memory was lost, the places that the log gave for this site's entries are all
        that is left of what was seen. Those up to the present key's announcement count: the
        coordinator shows no older checkpoint to a site that begins.
        """
        floor = told = 0
        for line, index in self._journal.lines():
            told = max(told, 0 if index is None else index + 1)
            if parse_entry(line).event is Event.WITNESS_ANNOUNCED:
                floor = told
        return floor

    def _count_bad(self, seen: Seen, reason: str) -> None:
        """Nothing was proved and nothing signed; too often in a row, and the site stops."""
        self._bad.number += 1
        self._tell(witness=f"no good answer, {self._bad.number} of {MAX_BAD_ANSWERS}: {reason}")
        if self._bad.number >= MAX_BAD_ANSWERS:
            self._bad.number = 0
            raise self._stop(seen, f"no checkpoint of its log could be checked: {reason}", "")

    def _stop(self, seen: Seen, reason: str, refused: str) -> StoppedError:
        """Keep what was seen and what was refused, durably, and say so."""
        try:
            folder = self._keep(seen, reason, refused)
        except OSError as error:
            # It stops all the same; whoever starts the agent again meets the same log.
            self._tell(witness=f"cannot keep the evidence: {error.strerror}")
            folder = ""
        return _stopped_error(self._home, reason, folder)

    def _keep(self, seen: Seen, reason: str, refused: str) -> str:
        """Write the evidence, then that this site stopped; returns the folder's name."""
        parent = self._home.witness_folder
        found = [_REFUSED_FOLDER.fullmatch(path.name) for path in parent.iterdir()]
        number = 1 + max((int(match[1]) for match in found if match), default=0)
        folder = parent / f"refused-{number}"
        folder.mkdir(mode=0o700)
        for name, note in ((SEEN, seen.note), (REFUSED, refused)):
            if note:
                replace_file(folder / name, note.encode())
        sync_folder(folder)
        content = {
            "at": format_time(datetime.now(UTC)),
            "reason": reason,
            "folder": folder.name,
            "log": self._log.name,
        }
        # A crash before this line leaves a site that asks again and stops again.
        replace_file(parent / _STOPPED, _json(content))
        sync_folder(parent)
        return folder.name


def make_key(home: SiteHome) -> None:
    """Make the key with which this site cosigns; the one before is put beside it.

    The memory stays: also with another key the site does not cosign another history. Where the
    memory was lost as well, what the site saw is lost: it refuses a log that lacks entries which
    it was told of, and cannot tell another fork from the log that it cosigned.
    """
    home.keys_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name, path = home.config().site.name, home.witness_key_path
    key = CosigningKey.generate(name, Algorithm(home.config().witness.algorithm))
    fresh = path.with_name(path.name + ".next")
    fresh.unlink(missing_ok=True)
    key.save(fresh)
    if path.exists():
        path.replace(path.with_name(path.name + ".old"))
    fresh.replace(path)
    sync_folder(home.keys_folder)


def _stopped_error(home: SiteHome, reason: str, folder: str) -> StoppedError:
    kept = home.witness_folder / folder
    return StoppedError(
        f"the coordinator's log does not hold together: {reason}; this site takes no work of it",
        hint=f"what was seen and what was refused are in {kept}: compare them with the other"
        " sites' (cloister-audit compare), and with the coordinator by voice; then: cloister-site"
        " witness --resume",
    )


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
