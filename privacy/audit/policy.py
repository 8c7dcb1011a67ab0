"""Whose signatures make a checkpoint believed: C2SP's `tlog-policy`.

```
log cloister/lakeside+<key>

witness hospital_a cloister/lakeside/hospital_a+<key>
witness bank_a cloister/lakeside/bank_a+<key>
witness regulator witness.example.org/w1+<key>
group sites 2 hospital_a bank_a
group all-sides all sites regulator
quorum all-sides
```

A log whose operator runs every witness proves nothing about split views: whoever writes the policy
counts operators, not lines.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from privacy.audit.checkpoint import Checkpoint, parse_checkpoint
from privacy.audit.cosignature import check_signed, cosigned_at
from privacy.audit.note import Note, NoteKey, SignatureType
from privacy.errors import ConfigError, VerificationError

# The keys of 1,000 sites: an ML-DSA-44 line has 1.8 kB and names.
MAX_POLICY_BYTES = 4_000_000
_NONE = "none"
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")
_LOG_TYPES = (SignatureType.ED25519, SignatureType.COSIGNATURE_MLDSA44)
WITNESS_TYPES = (SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_MLDSA44)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Witnesses or groups, of which so many must have cosigned."""

    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosigned:
    """A checkpoint that the policy believes.

    Attributes:
      checkpoint: The checkpoint.
      witnesses: Who cosigned it, by the policy's names, and when.
    """

    checkpoint: Checkpoint
    witnesses: Mapping[str, datetime]


@dataclass(kw_only=True, slots=True)
class Policy:
    """A policy file.

    Attributes:
      logs: Keys of the logs that it knows; empty leaves them to whoever asks.
      witnesses: By name.
      groups: By name.
      quorum: Name of the witness or group that must have cosigned; `none` asks for nobody.
    """

    logs: list[NoteKey] = field(default_factory=list)
    witnesses: dict[str, NoteKey] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    quorum: str = ""

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy file.

        Raises:
          ConfigError: The file cannot be read or is no policy; the line is named.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        try:
            return cls.parse(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}", hint=error.hint) from None

    @classmethod
    def parse(cls, content: bytes) -> "Policy":
        """Read a policy.

        Raises:
          ConfigError: It is none; the line is named.
        """
        if len(content) > MAX_POLICY_BYTES:
            raise ConfigError(f"expected a policy of at most {MAX_POLICY_BYTES} bytes")
        policy = cls()
        members: set[str] = set()
        # Names are octets: Latin-1 keeps each as it is, and two spellings of one letter apart.
        for number, line in enumerate(content.decode("latin-1").split("\n"), 1):
            words = re.split(r"[ \t]+", line.strip(" \t"))
            if not words[0] or words[0].startswith("#"):
                continue
            try:
                _check_plain(line)
                policy._add(words, members)
            except (ConfigError, UnicodeError) as error:
                raise ConfigError(f"line {number}: {error}") from None
        if not policy.quorum:
            raise ConfigError("expected a line 'quorum NAME', got none")
        witnesses = {key.public_key for key in policy.witnesses.values()}
        if any(key.public_key in witnesses for key in policy.logs):
            raise ConfigError("expected a log not to be its own witness")
        return policy

    def check(self, note: str, logs: Iterable[NoteKey] = ()) -> Cosigned:
        """Check that a log signed the checkpoint, and that the quorum cosigned it.

        Args:
          note: A checkpoint with its signatures.
          logs: Keys of logs to believe beside those of the policy.

        Raises:
          VerificationError: No such log signed it, a known witness's line does not verify, too
            few cosigned, or a witness's key is the log's own.
        """
        parsed = Note.parse(note)
        checkpoint = parse_checkpoint(parsed.text)
        logs = (*self.logs, *logs)
        known = [key for key in logs if key.name == checkpoint.origin]
        # `parse` knows only the policy's own logs; one given here is no witness of itself either.
        own = {key.public_key for key in logs}
        selves = sorted(name for name, key in self.witnesses.items() if key.public_key in own)
        if selves:
            raise VerificationError(
                f"expected a log not to be its own witness, got its key as {', '.join(selves)}",
                hint="take that line out of the policy",
            )
        # Not any(): every line by a known key is checked, one bad line condemns the note.
        signed = [check_signed(parsed, key) for key in known]
        if not any(signed):
            raise VerificationError(
                f"expected a checkpoint signed by the log {checkpoint.origin!r}, got none by a"
                " key that we know",
                hint="compare the log's key with the one in the policy",
            )
        times = {name: cosigned_at(parsed, key) for name, key in self.witnesses.items()}
        found = {name: at for name, at in times.items() if at is not None}
        if not self._holds(self.quorum, found):
            raise VerificationError(
                f"the checkpoint of {checkpoint.size} entries lacks its quorum {self.quorum!r}:"
                f" cosigned by {', '.join(sorted(found)) or 'no witness of the policy'}",
                hint="ask the witnesses, not the log's operator, which checkpoint they saw last",
            )
        return Cosigned(checkpoint=checkpoint, witnesses=found)

    def _holds(self, name: str, found: Mapping[str, datetime]) -> bool:
        if name == _NONE:
            return True
        group = self.groups.get(name)
        if group is None:
            return name in found
        return sum(self._holds(member, found) for member in group.members) >= group.needed

    def _add(self, words: list[str], members: set[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                key = _key(vkey, _LOG_TYPES, "log")
                _refuse_twice(key, self.logs)
                self.logs.append(key)
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                self._check_new(name)
                key = _key(vkey, WITNESS_TYPES, "witness")
                _refuse_twice(key, self.witnesses.values())
                self.witnesses[name] = key
            case ["group", name, needed, _, *_]:
                self._check_new(name)
                self.groups[name] = self._group(needed, words[3:], members)
            case ["quorum", name]:
                if self.quorum:
                    raise ConfigError("expected one quorum, got a second")
                if name != _NONE:
                    self._check_known(name)
                self.quorum = name
            case _:
                raise ConfigError(
                    "expected 'log KEY', 'witness NAME KEY', 'group NAME all|any|NUMBER NAME...'"
                    " or 'quorum NAME'"
                )

    def _group(self, needed: str, names: list[str], members: set[str]) -> Group:
        for name in names:
            self._check_known(name)
            if name in members:
                # A witness in two groups would count twice.
                raise ConfigError(f"expected {name!r} in one group, got it in a second place")
            members.add(name)
        if needed in ("all", "any"):
            return Group(needed=len(names) if needed == "all" else 1, members=tuple(names))
        if not _NUMBER.fullmatch(needed) or not 1 <= int(needed) <= len(names):
            raise ConfigError(f"expected all, any, or a number from 1 to {len(names)}")
        return Group(needed=int(needed), members=tuple(names))

    def _check_new(self, name: str) -> None:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise ConfigError(f"expected a new name, got {name!r} again")

    def _check_known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise ConfigError(f"expected a witness or group defined above, got {name!r}")


def _check_plain(line: str) -> None:
    if any(c < " " or c == "\x7f" for c in line.replace("\t", " ")):
        raise ConfigError("expected no control characters")


def _key(vkey: str, types: tuple[SignatureType, ...], what: str) -> NoteKey:
    key = NoteKey.parse(vkey.encode("latin-1").decode())
    if key.type not in types:
        raise ConfigError(f"expected a key that signs as a {what}, got type {key.type}")
    return key


def _refuse_twice(key: NoteKey, known: Iterable[NoteKey]) -> None:
    if any(other.public_key == key.public_key for other in known):
        raise ConfigError(f"expected each key once, got that of {key.name} again")
