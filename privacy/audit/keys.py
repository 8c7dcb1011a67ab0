"""Whose signature counts: the public keys of the parties, by role.

An auditor gets these keys from the parties themselves and compares fingerprints by voice. A log
folder carries a copy in `keys.json`; whoever has only that copy knows that the log fits its own
keys, and no more.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from privacy.errors import ConfigError
from privacy.pki.identity import fingerprint, key_id

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_KEY = re.compile(r"[0-9a-f]{64}")


class Role(StrEnum):
    """Who may sign what: each event belongs to one role."""

    COORDINATOR = "coordinator"
    SITE = "site"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartyKey:
    """The public key of one party.

    Attributes:
      party: Its name.
      role: What it is in the federation.
      public_key: Ed25519, 32 raw bytes.
    """

    party: str
    role: Role
    public_key: bytes

    def __post_init__(self) -> None:
        """Refuse what could sign for nobody."""
        if not _NAME.fullmatch(self.party):
            raise ValueError(f"expected a party's name of a-z 0-9 _ -, got {self.party!r}")
        if len(self.public_key) != 32:
            raise ValueError(f"expected a key of 32 bytes, got {len(self.public_key)}")

    @property
    def key_id(self) -> str:
        """How entries name the key."""
        return key_id(self.public_key)

    @property
    def fingerprint(self) -> str:
        """For comparison by voice."""
        return fingerprint(self.public_key)


class KeyRing:
    """The keys of all parties; a party that changed its key has several, but one role."""

    def __init__(self, keys: Iterable[PartyKey] = ()) -> None:
        self._by_id: dict[str, PartyKey] = {}
        for key in keys:
            self.add(key)

    def __iter__(self) -> Iterator[PartyKey]:
        """The keys in the order in which they were added."""
        return iter(self._by_id.values())

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._by_id)

    def add(self, key: PartyKey) -> None:
        """Let `key` sign for its party.

        Raises:
          ConfigError: The key is another party's already, or the party has another role.
        """
        known = self._by_id.get(key.key_id, key)
        roles = {other.role for other in self if other.party == key.party} | {key.role}
        if known != key or len(roles) > 1:
            raise ConfigError(
                f"expected one party and one role for a key, got two for {key.party!r}"
            )
        if key.role is Role.COORDINATOR and any(
            other.role is Role.COORDINATOR and other.party != key.party for other in self
        ):
            raise ConfigError(f"expected one coordinator, got a second one, {key.party!r}")
        self._by_id[key.key_id] = key

    def find(self, wanted: str) -> PartyKey | None:
        """The key with that key id, if it is known."""
        return self._by_id.get(wanted)

    def coordinator_keys(self) -> list[PartyKey]:
        """The keys that may sign checkpoints."""
        return [key for key in self if key.role is Role.COORDINATOR]

    def dump(self) -> str:
        """The text of a `keys.json`."""
        parties = [
            {"party": key.party, "role": key.role.value, "public_key": key.public_key.hex()}
            for key in self
        ]
        return json.dumps({"parties": parties}, indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> "KeyRing":
        """Read a `keys.json`.

        Raises:
          ConfigError: The file is missing or is no such file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ConfigError(f"expected JSON in {path}") from None
        return cls(_parse_parties(content, path))


def _parse_parties(content: object, path: Path) -> list[PartyKey]:
    problem = ConfigError(
        f"expected in {path} a list 'parties' of party, role and public_key (64 hex digits)"
    )
    parties = content.get("parties") if isinstance(content, dict) else None
    if not isinstance(parties, list):
        raise problem
    keys = []
    for entry in parties:
        if not isinstance(entry, dict) or set(entry) != {"party", "role", "public_key"}:
            raise problem
        party, role, public_key = entry["party"], entry["role"], entry["public_key"]
        if not (
            isinstance(party, str) and isinstance(public_key, str) and _KEY.fullmatch(public_key)
        ):
            raise problem
        try:
            keys.append(
                PartyKey(party=party, role=Role(role), public_key=bytes.fromhex(public_key))
            )
        except ValueError:
            raise problem from None
    return keys
