"""The coordinator's settings, read from `federation.toml`.

Nothing here can change a guarantee: what a run does for privacy stands in its plan, and the sites
decide on that. Folders are relative to the file's own folder.
"""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from privacy.audit.opening import OPENINGS
from privacy.errors import ConfigError
from privacy.pki.identity import Algorithm, check_name, parse_algorithm
from privacy.transit import parse_address

FILE_NAME = "federation.toml"
DEFAULT_LISTEN = "0.0.0.0:9092"


def _name(value: str) -> str:
    check_name(value)
    return value


def _address(value: str) -> str:
    try:
        parse_address(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return value


def _folder(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("expected the path of a folder")
    return value


def _algorithm(value: str) -> str:
    try:
        return parse_algorithm(value).value
    except ConfigError as error:
        raise ValueError(str(error)) from None


_Address = Annotated[str, AfterValidator(_address)]
_Folder = Annotated[str, AfterValidator(_folder)]


class FederationConfig(BaseModel):
    """What the coordinator needs to serve a federation.

    Attributes:
      name: Name of the federation; certificates carry it, so it cannot change later.
      address: `host:port` under which sites reach the coordinator; its certificate names the host.
      listen: Where the coordinator's one port is opened.
      hosts: Further host names or addresses that the coordinator's certificate names.
      site_certificate_days: How long a site's certificate is valid.
      server_certificate_days: How long the coordinator's certificate is valid.
      signature_algorithm: How the coordinator's key signs: `ed25519` or `ml-dsa-44`.
      num_threads: Calls that are served at the same time.
      witness_quorum: How many operators of sites must cosign the log before a run is over:
        `majority`, `all`, `none`, or a number.
      witness_operators: Who runs a site's machines, where that is nobody of the site's own: sites
        of one operator count once, those of `coordinator` not at all.
      authority: Folder of the certificate authority.
      keys: Folder of the coordinator's TLS and signing keys.
      state: Folder of the roster and of the runs' state.
      log: Folder of the evidence log.
      adapters: Folder of the released adapters.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_name)]
    address: _Address
    listen: _Address = DEFAULT_LISTEN
    hosts: list[str] = []
    site_certificate_days: int = Field(default=30, ge=1, le=397)
    server_certificate_days: int = Field(default=365, ge=1, le=397)
    signature_algorithm: Annotated[str, AfterValidator(_algorithm)] = Algorithm.ED25519.value
    num_threads: int = Field(default=128, ge=4, le=1024)
    witness_quorum: Literal["majority", "all", "none"] | Annotated[int, Field(ge=1)] = "majority"
    witness_operators: dict[
        Annotated[str, AfterValidator(_name)], Annotated[str, AfterValidator(_name)]
    ] = {}
    authority: _Folder = "authority"
    keys: _Folder = "keys"
    state: _Folder = "state"
    log: _Folder = "log"
    adapters: _Folder = "adapters"
    _base: Path = PrivateAttr(default_factory=Path)

    @property
    def authority_folder(self) -> Path:
        """Where the certificate authority's key and certificate are."""
        return self._base / self.authority

    @property
    def keys_folder(self) -> Path:
        """Where the coordinator's own keys and certificate are."""
        return self._base / self.keys

    @property
    def state_folder(self) -> Path:
        """Where the state of runs is."""
        return self._base / self.state

    @property
    def roster_path(self) -> Path:
        """The roster's database."""
        return self.state_folder / "roster.sqlite"

    @property
    def openings_path(self) -> Path:
        """What opens the commitments of the coordinator's entries."""
        return self.state_folder / OPENINGS

    @property
    def log_folder(self) -> Path:
        """Where the evidence log is."""
        return self._base / self.log

    @property
    def adapters_folder(self) -> Path:
        """Where released adapters are."""
        return self._base / self.adapters

    @property
    def certificate_hosts(self) -> list[str]:
        """Every host name and address that the coordinator's certificate must name."""
        return list(dict.fromkeys([parse_address(self.address)[0], *self.hosts]))


def load(path: Path) -> FederationConfig:
    """Read `federation.toml`; `path` is the file or its folder.

    Raises:
      ConfigError: The file is missing, is no TOML, or a key in it is missing, unknown or
        impossible; the message names the key.
    """
    if path.is_dir():
        path = path / FILE_NAME
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            hint="cloister-coordinator init makes it; run in its folder or name it",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        config = FederationConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}") from None
    config._base = path.parent  # private to this module: no key of the file can set it
    return config


def template(
    *,
    name: str,
    address: str,
    listen: str = DEFAULT_LISTEN,
    algorithm: str = Algorithm.ED25519.value,
) -> str:
    """The text of a commented `federation.toml`.

    Raises:
      ConfigError: The name, an address or the algorithm is none.
    """
    given = {"name": name, "address": address, "listen": listen, "signature_algorithm": algorithm}
    try:
        FederationConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ConfigError(
            f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
    # JSON's strings are TOML's basic strings.
    return f"""\
# Settings of the coordinator. What a run does for privacy stands in its plan, never here.

# Name of the federation. Certificates carry it: it cannot change after the first enrolment.
name = {json.dumps(name)}

# Under which sites reach the coordinator, host:port. Its certificate names this host.
address = {json.dumps(address)}

# Where the coordinator opens its one port. Everything on it is mutual TLS 1.3.
listen = {json.dumps(listen)}

# Further host names or IP addresses for the coordinator's certificate.
hosts = []

# How many days certificates are valid, 1 to 397. A short one limits what a stolen key can do.
site_certificate_days = 30
server_certificate_days = 365

# How the coordinator signs entries, checkpoints and kits: "ed25519" or "ml-dsa-44" (FIPS 204,
# which a quantum computer does not break; signatures of 2.4 kB). The key was made so: it cannot
# change later.
signature_algorithm = {json.dumps(algorithm)}

# Calls served at the same time; a connected site holds one, and needs a second.
num_threads = 128

# How many operators of sites must cosign the log before a run is over: "majority", "all", "none",
# or a number. Sites whose machines one party runs count once, those that the coordinator's own
# people run not at all: witness_operators = {{ clinic_b = "clinic_a", lab = "coordinator" }}
witness_quorum = "majority"
witness_operators = {{}}

# Folders, relative to this file.
authority = "authority"  # the certificate authority; its key may live on another machine
keys = "keys"            # the coordinator's own TLS and signing keys
state = "state"          # the roster, and the runs' state
log = "log"              # the evidence log, to be handed to auditors
adapters = "adapters"    # released adapters, by digest
"""
