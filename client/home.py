"""A site's folder: what lies where, and who may read it.

```
site.toml            settings, written by a person
keys/                private keys, mode 0700; the training process never sees this folder
  tls.key            EC P-256, proves the site to the coordinator
  signing.key        Ed25519 or ML-DSA-44, signs evidence and updates
  holdout.key        32 random bytes: which units are held out
  surrogate-1.key    32 random bytes: which made-up values stand for real ones; the highest number
                     is used, the others are kept to make text of earlier times again
  exposure.key       32 random bytes, once a plan with tracers is trained: which secrets they have
  witness.key        cosigns the coordinator's checkpoints, nothing else
witness/             memory of the checkpoint seen last; what was refused, with both checkpoints
request.json         enrolment request for the coordinator; holds public keys only
kit.json             the coordinator's signed answer
journal.sqlite       decisions, evidence, everything that left
openings.jsonl       who decided on plans and why: what opens the commitments in the evidence
ledger/              privacy budget, one file a population
results.json         quality measured on this site's held-out units; stays here
privacy_test.json    what attacks make of an adapter and this site's units, exactly; stays here
exposure.json        how well an adapter remembers this site's tracers; stays here
adapters/            the last adapter of each run, by digest; `peft` loads it
status.json          what the agent does right now
```
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc

from client.config import SiteConfig, load_config
from client.journal import Journal
from client.tracers import KEY_BYTES as TRACER_KEY_BYTES
from privacy import transit
from privacy.audit.opening import OPENINGS, Openings
from privacy.dp.ledger import Ledger
from privacy.durable import replace_private, sync_folder
from privacy.errors import ConfigError
from privacy.masking.surrogates import KEY_BYTES, SurrogateKey
from privacy.pki.authority import generate_tls_key, load_tls_key, save_tls_key
from privacy.pki.enrolment import EnrolmentKit, read_kit
from privacy.pki.identity import Algorithm, SigningKey, write_private

_SURROGATE_KEY = re.compile(r"surrogate-([1-9][0-9]{0,5})\.key")


class SiteHome:
    """The folder of one site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.config_path = self.folder / "site.toml"
        self.keys_folder = self.folder / "keys"
        self.tls_key_path = self.keys_folder / "tls.key"
        self.signing_key_path = self.keys_folder / "signing.key"
        self.holdout_key_path = self.keys_folder / "holdout.key"
        self.exposure_key_path = self.keys_folder / "exposure.key"
        self.witness_key_path = self.keys_folder / "witness.key"
        self.witness_folder = self.folder / "witness"
        self.request_path = self.folder / "request.json"
        self.kit_path = self.folder / "kit.json"
        self.journal_path = self.folder / "journal.sqlite"
        self.openings_path = self.folder / OPENINGS
        self.ledger_folder = self.folder / "ledger"
        self.results_path = self.folder / "results.json"
        self.privacy_test_path = self.folder / "privacy_test.json"
        self.exposure_path = self.folder / "exposure.json"
        self.adapters_folder = self.folder / "adapters"
        self.status_path = self.folder / "status.json"
        self.lock_path = self.folder / "agent.lock"

    def config(self) -> SiteConfig:
        """The settings.

        Raises:
          ConfigError: Missing or impossible, or a file of the source lies among the keys.
        """
        config = load_config(self.config_path)
        # No process that reads records sees that folder: there it would be missing in each round.
        for key in ("path", "password_file", "tls_ca"):
            path = getattr(config.data, key, None)
            if path is not None and path.resolve().is_relative_to(self.keys_folder.resolve()):
                raise ConfigError(
                    f"expected data.{key} outside {self.keys_folder}, which the process that "
                    f"reads the records does not see, got {path}",
                    hint=f"move it, beside {self.config_path.name} say",
                )
        return config

    def make_keys(self, algorithm: Algorithm = Algorithm.ED25519) -> None:
        """Make the site's four keys, mode 0600 in a folder of mode 0700.

        Raises:
          ConfigError: One exists already.
        """
        self.keys_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.keys_folder.chmod(0o700)
        save_tls_key(generate_tls_key(), self.tls_key_path)
        SigningKey.generate(algorithm).save(self.signing_key_path)
        write_private(self.holdout_key_path, secrets.token_bytes(32))
        self.add_surrogate_key()

    def surrogate_key_paths(self) -> list[Path]:
        """The files of the surrogate keys, the one in use last."""
        found = {
            int(match[1]): path
            for path in self.keys_folder.glob("surrogate-*.key")
            if (match := _SURROGATE_KEY.fullmatch(path.name))
        }
        return [path for _, path in sorted(found.items())]

    def add_surrogate_key(self) -> SurrogateKey:
        """Make a surrogate key and use it from now on; the earlier ones stay."""
        number = 1
        for path in self.surrogate_key_paths():
            number = int(path.stem.rpartition("-")[2]) + 1
        key = SurrogateKey(secrets.token_bytes(KEY_BYTES))
        write_private(self.keys_folder / f"surrogate-{number}.key", key.secret)
        sync_folder(self.keys_folder)
        return key

    def surrogate_key(self, key_id: str = "") -> SurrogateKey:
        """The key in use, or the one with this id.

        Raises:
          ConfigError: There is none, or a file holds no key.
        """
        keys = [_read_surrogate_key(path) for path in self.surrogate_key_paths()]
        chosen = [key for key in keys if key_id in ("", key.key_id)]
        if not chosen:
            named = f" with id {key_id}" if key_id else ""
            raise ConfigError(
                f"expected a surrogate key{named} in {self.keys_folder}, got none",
                hint="cloister-site mask --new-key makes one",
            )
        return chosen[-1]

    def adapter_folder(self, digest: str) -> Path:
        """The folder of the adapter with this digest, whether or not it is there."""
        return self.adapters_folder / digest.removeprefix("sha256:")

    def signing_key(self) -> SigningKey:
        """The key that signs evidence and updates.

        Raises:
          ConfigError: Missing, or of another algorithm than the settings say.
        """
        algorithm = Algorithm(self.config().site.signature_algorithm)
        return SigningKey.load(self.signing_key_path, algorithm)

    def openings(self) -> Openings:
        """What opens the commitments of this site's entries."""
        return Openings(self.openings_path)

    def holdout_key(self) -> bytes:
        """The key that decides which units are held out.

        Raises:
          ConfigError: Missing or of another length.
        """
        try:
            key = self.holdout_key_path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"cannot read {self.holdout_key_path}: {error.strerror}",
                hint="restore it from a copy; a new one would train on units held out before",
            ) from None
        if len(key) != 32:
            raise ConfigError(f"expected 32 bytes in {self.holdout_key_path}, got {len(key)}")
        return key

    def exposure_key(self, *, make: bool = False) -> bytes:
        """The key that the secrets of this site's tracers follow from.

        Args:
          make: Make one where there is none: only before anything was trained with it.

        Raises:
          ConfigError: Missing, or of another length.
        """
        path = self.exposure_key_path
        if make and not path.exists():
            # A crash before the name is there leaves no key, never a part of one. After a power
            # cut it may be gone; then another is made, and no entry speaks of the first.
            replace_private(path, secrets.token_bytes(TRACER_KEY_BYTES))
            sync_folder(self.keys_folder)
        try:
            key = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}",
                hint="restore it from a copy; another one has other secrets, which nobody trained",
            ) from None
        if len(key) != TRACER_KEY_BYTES:
            raise ConfigError(f"expected {TRACER_KEY_BYTES} bytes in {path}, got {len(key)}")
        return key

    def kit(self) -> EnrolmentKit:
        """The enrolment kit, checked anew against this site's keys and the clock.

        Raises:
          ConfigError: There is none yet.
          VerificationError: It is for another site or keys, or its certificate is not valid now.
        """
        try:
            content = self.kit_path.read_bytes()
        except OSError:
            raise ConfigError(
                f"expected an enrolment kit in {self.kit_path}, got none",
                hint="send request.json to the coordinator, then: cloister-site enrol KIT",
            ) from None
        return read_kit(
            content,
            site=self.config().site.name,
            tls_key=load_tls_key(self.tls_key_path),
            signing_key=self.signing_key(),
            at=datetime.now(UTC),
        )

    def channel(self) -> grpc.Channel:
        """A channel to the coordinator under mutual TLS; it connects on the first call."""
        config, kit = self.config(), self.kit()
        return transit.channel(
            config.site.coordinator,
            ca_pem=kit.ca_pem,
            certificate_pem=kit.certificate_pem,
            key_pem=self.tls_key_path.read_bytes(),
            proxy=config.site.proxy,
        )

    def journal(self) -> Journal:
        """The journal."""
        return Journal(self.journal_path, self.signing_key(), self.config().site.name)

    def ledger(self) -> Ledger:
        """The privacy ledger of the population that the site's data describe."""
        config = self.config()
        return Ledger(
            self.ledger_folder / f"{config.data.population}.sqlite",
            population=config.data.population,
            unit=config.data.unit,
            budget_epsilon=config.budget.epsilon,
            delta=config.budget.delta,
        )

    def write_json(self, path: Path, content: Mapping[str, object]) -> None:
        """Replace a file with JSON, mode 0600; a reader sees the old or the new one, whole."""
        partial = path.with_suffix(".next")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            json.dump(content, opened, indent=1)
            opened.write("\n")
        partial.replace(path)

    @contextmanager
    def agent_lock(self) -> Iterator[None]:
        """Be the one agent of this site; the file holds its process id while it runs.

        Raises:
          ConfigError: Another agent runs.
        """
        descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"an agent runs on {self.folder} already",
                    hint="cloister-site stop ends it",
                ) from None
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def agent_pid(self) -> int | None:
        """Process id of the running agent, None when none runs."""
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(self.lock_path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(os.pread(descriptor, 32, 0))
            finally:
                os.close(descriptor)
        return None


def _read_surrogate_key(path: Path) -> SurrogateKey:
    try:
        return SurrogateKey(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", hint="restore it from a copy") from None


def file_digest(path: Path) -> str:
    """`sha256:` and the SHA-256 of a file's bytes."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
