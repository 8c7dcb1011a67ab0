"""The usual faults inside a site, looked for one by one and explained: `cloister-site check`.

Keys, data, device and memory here; the way to the coordinator in `client/reach.py`. Each check
answers with a finding and never raises for the fault that it looks for: what is the case in words,
and what to do next. Nothing about a record is in a finding.
"""

import json
import math
import os
import stat
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final

from client.config import SiteConfig
from client.home import SiteHome
from client.reach import Credentials, Finding, check_remote
from client.sources import FileSection
from client.witness import check_stopped
from privacy.errors import ConfigError, FederationError
from privacy.pki.authority import load_tls_key, public_der
from privacy.pki.enrolment import issued_at, read_kit

NUM_PROBED_RECORDS: Final = 20
# Measured with torch 2.13 and transformers 5.23: what the program takes before it holds a base,
# and how much more than weights and file it takes while it loads them.
PROGRAM_MB: Final = 750
LOAD_FACTOR: Final = 1.15
_ENROL: Final = "enrol again: cloister-site enrol KIT"
_MAX_HEADER_BYTES: Final = 100_000_000


def check_site(folder: Path) -> list[Finding]:
    """Look at everything that keeps a site from taking part; `folder` is the site's home."""
    home = SiteHome(folder)
    try:
        config = home.config()
    except ConfigError as error:
        return [Finding(name="settings", ok=False, found=str(error), advice=error.hint)]
    findings = [Finding(name="settings", ok=True, found=f"{home.config_path} can be read")]
    keys = (home.tls_key_path, home.signing_key_path, home.holdout_key_path)
    made = [home.exposure_key_path] if home.exposure_key_path.exists() else []
    findings += [check_key(path) for path in (*keys, *home.surrogate_key_paths(), *made)]
    findings += check_evidence(home)
    findings += [check_data(config), check_device(config.compute.device)]
    base = config.base.folder or Path(str(files("model"))) / "nano"
    compute = config.compute
    findings.append(
        check_memory(
            base, memory_limit_mb=compute.memory_limit_mb, activations=compute.activations
        )
    )
    try:
        credentials = _credentials(home)
    except FederationError as error:
        findings.append(
            Finding(name="enrolment", ok=False, found=str(error), advice=error.hint or _ENROL)
        )
        return findings
    address, proxy = config.site.coordinator, config.site.proxy
    return findings + list(check_remote(address, credentials, proxy=proxy))


def check_evidence(home: SiteHome) -> list[Finding]:
    """What a person has to decide before the agent goes on; nothing where there is nothing."""
    try:
        check_stopped(home)
        refused = None
        if home.journal_path.exists():
            journal = home.journal()
            refused = journal.refused()
            journal.close()
    except FederationError as error:
        return [Finding(name="log", ok=False, found=str(error), advice=error.hint)]
    if refused is None:
        return []
    return [
        Finding(
            name="journal",
            ok=False,
            found=f"the log does not take entry {refused.entry.sequence}: {refused.reason}",
            advice="cloister-site journal shows it, and how to go on without losing it",
        )
    ]


def _credentials(home: SiteHome) -> Credentials:
    """What the site shows to the coordinator, whether it is still valid or not."""
    tls_key = load_tls_key(home.tls_key_path)
    try:
        content = home.kit_path.read_bytes()
    except OSError:
        # Not there, or not readable: `kit` has the words for it.
        content = b""
    kit = (
        home.kit()
        if not content
        else read_kit(
            content,
            site=home.config().site.name,
            tls_key=tls_key,
            signing_key=home.signing_key(),
            # A certificate that has expired is a finding of its own, with its dates.
            at=issued_at(content),
        )
    )
    return Credentials(
        federation=kit.federation,
        site=kit.site,
        ca_pem=kit.ca_pem,
        certificate_pem=kit.certificate_pem,
        key_pem=home.tls_key_path.read_bytes(),
        node_key=public_der(tls_key),
    )


def check_key(path: Path) -> Finding:
    """Whether a private key is there, and is its owner's alone."""
    name = f"key {path.name}"
    try:
        found, folder = path.stat(), path.parent.stat()
    except OSError as error:
        return Finding(
            name=name,
            ok=False,
            found=f"{path} cannot be read: {error.strerror}",
            advice="cloister-site init makes the keys; run as the user who ran it",
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return Finding(
            name=name,
            ok=False,
            found=f"{path} has mode {mode:04o}: others than its owner can use it",
            advice=f"chmod 600 {path}, and ask for new keys if others could have read it",
        )
    if found.st_uid != os.geteuid():
        return Finding(
            name=name,
            ok=False,
            found=f"{path} belongs to user {found.st_uid}, this is user {os.geteuid()}",
            advice="run as that user, or chown the key",
        )
    folder_mode = stat.S_IMODE(folder.st_mode)
    if folder_mode & 0o022 and not folder_mode & stat.S_ISVTX:
        return Finding(
            name=name,
            ok=False,
            found=f"{path.parent} has mode {folder_mode:04o}: others can replace the key",
            advice=f"chmod 700 {path.parent}",
        )
    return Finding(name=name, ok=True, found=f"{path} is readable for its owner only")


def check_data(config: SiteConfig) -> Finding:
    """Whether the records can be read, by the only reader of records."""
    name = "data"
    data = config.data
    # A database on a server is asked, a file is looked at first.
    path = None if data.needs_network else Path(data.place)
    if path is not None and not os.access(path, os.R_OK):
        reason = "cannot be read by this user" if path.exists() else "does not exist"
        key = "path" if isinstance(data, FileSection) else "url"
        return Finding(
            name=name,
            ok=False,
            found=f"{path} {reason}",
            advice=f"correct data.{key} in site.toml, or the file's permissions",
        )
    # Imported where it is needed: it brings the tokenizer and the recognisers with it.
    from client.dataset import describe, probe

    try:
        # First: where a list of columns is missing, it has one to propose.
        seen = describe(config)
        num_records = probe(config, limit=NUM_PROBED_RECORDS)
    except ConfigError as error:
        return Finding(
            name=name,
            ok=False,
            found=str(error),
            advice=error.hint or "correct what is named there; docs/connectors.md has examples",
        )
    return Finding(
        name=name,
        ok=True,
        found=f"the first {num_records} records of {data.place} can be read: {seen}",
    )


def check_device(device: str, *, count: Callable[[], int] | None = None) -> Finding:
    """Whether the device that training shall use is there."""
    name = "device"
    if device == "cpu":
        return Finding(name=name, ok=True, found="training on the CPU, as site.toml says")
    num_devices = (count or _count_cuda_devices)()
    index = int(device.partition(":")[2] or 0)
    if num_devices == 0:
        return Finding(
            name=name,
            ok=False,
            found=f"site.toml says {device}, and torch sees no GPU",
            advice="install the GPU's driver and a torch with CUDA, "
            'pass the GPU to the container, or set device = "cpu"',
        )
    if index >= num_devices:
        return Finding(
            name=name,
            ok=False,
            found=f"site.toml says {device}, and torch sees {num_devices} GPUs, counted from 0",
            advice="set device to one of them",
        )
    return Finding(name=name, ok=True, found=f"torch sees {num_devices} GPUs, and uses {device}")


def check_memory(
    base_folder: Path,
    *,
    memory_limit_mb: int,
    activations: str = "float32",
    available_mb: int | None = None,
) -> Finding:
    """Whether the base fits, into what site.toml allows and into what the machine has left."""
    name = "memory"
    try:
        needed_mb = base_memory_mb(base_folder, activations)
    except ConfigError as error:
        return Finding(name=name, ok=False, found=str(error), advice=error.hint)
    if needed_mb > memory_limit_mb:
        return Finding(
            name=name,
            ok=False,
            found=f"the base needs about {needed_mb} MB, and training may take {memory_limit_mb}",
            advice=f"set memory_limit_mb = {needed_mb * 3 // 2} or more",
        )
    left_mb = free_memory_mb() if available_mb is None else available_mb
    if needed_mb > left_mb:
        return Finding(
            name=name,
            ok=False,
            found=f"the base needs about {needed_mb} MB, and this machine has {left_mb} MB left",
            advice="stop other programs, give the container more, or take a smaller base",
        )
    return Finding(
        name=name,
        ok=True,
        found=f"the base needs about {needed_mb} MB of {min(left_mb, memory_limit_mb)} MB",
    )


def base_memory_mb(folder: Path, activations: str = "float32") -> int:
    """About how much memory loading a base takes, from the headers of its weights, in MB.

    Args:
      folder: Of the base.
      activations: Type of the weights in memory, as `[compute]` says.

    Raises:
      ConfigError: The folder holds no weights, or one of its files is damaged.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths or not (folder / "config.json").is_file():
        raise ConfigError(
            f"expected config.json and *.safetensors of a base in {folder}",
            hint="correct base.folder in site.toml; empty takes the embedded base",
        )
    num_values = sum(_count_values(path) for path in paths)
    # In the type that is asked for, whatever the file's is.
    num_bytes = 2 if activations == "bfloat16" else 4
    weights_bytes = num_bytes * num_values + sum(path.stat().st_size for path in paths)
    return PROGRAM_MB + math.ceil(weights_bytes * LOAD_FACTOR / 1e6)


def free_memory_mb() -> int:
    """What this process may still take: of the machine, and of its container where it has one."""
    fields = dict(
        line.split(":", 1)
        for line in Path("/proc/meminfo").read_text().splitlines()
        if ":" in line
    )
    left = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        # No container, or an older kind: the machine's own number stands.
        limit, used = "max", 0
    if limit.isdecimal():
        left = min(left, max(0, int(limit) - used))
    return left // 1_000_000


def _count_values(path: Path) -> int:
    try:
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            # A damaged length must not fill the memory; a header cut short is no JSON.
            header = json.loads(opened.read(min(length, _MAX_HEADER_BYTES)))
        return sum(
            math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path} is no safetensors file, or is damaged",
            hint="copy the base again and compare its digest",
        ) from None


def _count_cuda_devices() -> int:
    # Only a site that asks for a GPU pays for torch's import here.
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
