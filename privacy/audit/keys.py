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
from privacy.pki.identity import (
    Algorithm,
    algorithm_of,
    fingerprint,
    key_id,
    parse_algorithm,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_KEY = re.compile(r"[0-9a-f]{64}|[0-9a-f]{2624}")
_FIELDS = {"party", "role", "public_key"}


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
      public_key: Raw bytes: 32 of Ed25519, or 1312 of ML-DSA-44.
    """

    party: str
    role: Role
    public_key: bytes

    def __post_init__(self) -> None:
        """Refuse what could sign for nobody."""
        if not _NAME.fullmatch(self.party):
            raise ValueError(f"expected a party's name of a-z 0-9 _ -, got {self.party!r}")
        algorithm_of(self.public_key)

    @property
    def algorithm(self) -> Algorithm:
        """With which algorithm the party signs."""
        return algorithm_of(self.public_key)

    @property
    def key_id(self) -> str:
        """How entries name the key."""
        return key_id(self.public_key)

    @property
    def fingerprint(self) -> str:
        """For comparison by voice."""
        return fingerprint(self.public_key)


class KeyRing:
    """The keys of all parties; a party that changed its key has several, but one role.

    They stand in the order in which the party got them. It never goes back to a weaker algorithm:
    whoever broke that one would sign in its name again. The coordinator keeps to one, since any of
    its keys may sign any checkpoint.
    """

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
          ConfigError: The key is another party's already, or the party has another role or a key
            of a stronger algorithm.
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
        self._check_algorithm(key)
        self._by_id[key.key_id] = key

    def _check_algorithm(self, key: PartyKey) -> None:
        before = self._by_id.get(key.key_id) is not None
        others = [] if before else [other for other in self if other.party == key.party]
        for other in others:
            same = other.algorithm is key.algorithm
            if key.algorithm.is_weaker_than(other.algorithm) or (
                key.role is Role.COORDINATOR and not same
            ):
                raise ConfigError(
                    f"expected {key.party!r} to go on signing with {other.algorithm}, got a key of"
                    f" {key.algorithm}",
                    hint="a party's keys stand in the order in which it got them, and none is"
                    " weaker than the one before",
                )

    def find(self, wanted: str) -> PartyKey | None:
        """The key with that key id, if it is known."""
        return self._by_id.get(wanted)

    def coordinator_keys(self) -> list[PartyKey]:
        """The keys that may sign checkpoints."""
        return [key for key in self if key.role is Role.COORDINATOR]

    def dump(self) -> str:
        """The text of a `keys.json`."""
        parties = [
            {
                "party": key.party,
                "role": key.role.value,
                "algorithm": key.algorithm.value,
                "public_key": key.public_key.hex(),
            }
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
    parties = content.get("parties") if isinstance(content, dict) else None
    if not isinstance(parties, list):
        raise _no_keys(path)
    return [_parse_party(entry, path) for entry in parties]


def _no_keys(path: Path) -> ConfigError:
    return ConfigError(
        f"expected in {path} a list 'parties' of party, role, public_key (64 or 2624 hex digits)"
        " and, where it is not ed25519, algorithm"
    )


def _parse_party(entry: object, path: Path) -> PartyKey:
    if not isinstance(entry, dict) or set(entry) - {"algorithm"} != _FIELDS:
        raise _no_keys(path)
    party, role, public_key = entry["party"], entry["role"], entry["public_key"]
    try:
        algorithm = parse_algorithm(entry.get("algorithm", Algorithm.ED25519.value))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not (isinstance(party, str) and isinstance(public_key, str) and _KEY.fullmatch(public_key)):
        raise _no_keys(path)
    try:
        key = PartyKey(party=party, role=Role(role), public_key=bytes.fromhex(public_key))
    except ValueError:
        raise _no_keys(path) from None
    # Said, not only to be seen from the length: what a person compares is the word.
    if key.algorithm is not algorithm:
        raise ConfigError(
            f"{path}: expected a key of {algorithm} for {party}, got one of {key.algorithm}",
            hint=f'write "algorithm": "{key.algorithm}" if that is how {party} enrolled',
        )
    return key
