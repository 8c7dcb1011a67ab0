"""What an institution decides for itself: `site.toml`, read strictly.

An unknown key, a missing one, a string where a number belongs: each is an error that names the
key, because a typo in a budget must never fall back to a default. Relative paths are relative to
the folder of `site.toml`.
"""

import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from client.sources import (
    KINDS,
    AnyData,
    DataSection,
    Name,
    OptionalPath,
    Section,
    beside_the_file,
)
from privacy.errors import ConfigError
from privacy.masking.config import ENTITY_TYPES
from privacy.masking.ner import parse_ner
from privacy.pki.identity import Algorithm, parse_algorithm
from privacy.plan import MAX_TRACERS

__all__ = ["DataSection"]

_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_PROXY = re.compile(r"http://(?:[^\s/@]+@)?(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


def _address(address: str) -> str:
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[1]) < 65536:
        raise ValueError(f"expected host:port, got {address!r}")
    return address


def _proxy(address: str) -> str:
    match = _PROXY.fullmatch(address)
    if address not in ("", "direct") and (not match or not 0 < int(match[1]) < 65536):
        # The value is not repeated: a proxy's address may hold a password.
        raise ValueError('expected http://host:port, "direct" or an empty string')
    return address


def _algorithm(name: str) -> str:
    try:
        return parse_algorithm(name).value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _known_types(types: tuple[str, ...]) -> tuple[str, ...]:
    unknown = sorted(set(types) - set(ENTITY_TYPES))
    if unknown:
        raise ValueError(
            f"expected names from {', '.join(ENTITY_TYPES)}, got {', '.join(unknown)}"
        )
    return types


def _model_beside_the_file(value: str, info: ValidationInfo) -> str:
    kind, path = parse_ner(value)
    return value if path is None else f"{kind}:{beside_the_file(path, info)}"


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("expected a name, got an empty string")
    return text


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SiteSection(Section):
    """Who this site is and where it calls."""

    name: Name = Field(description="Name as enrolled: a-z 0-9 _ -")
    coordinator: Annotated[str, AfterValidator(_address)] = Field(
        description="host:port of the coordinator; the only address this site connects to"
    )
    proxy: Annotated[str, AfterValidator(_proxy)] = Field(
        default="",
        description='HTTP CONNECT proxy, "http://host:port"; "direct": none; empty: https_proxy',
    )
    signature_algorithm: Annotated[str, AfterValidator(_algorithm)] = Field(
        default=Algorithm.ED25519.value,
        description="How this site signs: ed25519 or ml-dsa-44; its key was made so and stays so",
    )


class BudgetSection(Section):
    """What all runs over this population together may spend."""

    epsilon: Positive = Field(description="Largest epsilon over all runs, in nats")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="Probability that the bound fails; below 1 / num_units"
    )


class ComputeSection(Section):
    """What training may use. Nothing here can change the guarantee."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda|cuda:[0-9]+)$")] = Field(
        default="cpu", description="cpu, cuda or cuda:N"
    )
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads for training")
    activations: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Type of the base's weights and activations, float32 or bfloat16; adapter, "
        "sums and noise are float32",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass: less memory, more time",
    )
    memory_limit_mb: int = Field(
        default=3000,
        ge=256,
        description="Training that takes more memory than this is stopped, in MB",
    )
    round_limit_s: Positive = Field(
        default=300.0, description="A round that takes longer than this is stopped, in seconds"
    )
    require_sandbox: bool = Field(
        default=True,
        description="Train only where the process can be kept from keys and network",
    )


class BaseSection(Section):
    """The base model on this site's disk."""

    folder: OptionalPath = Field(
        default=None,
        description="Folder of a Hugging Face MoE checkpoint; empty: embedded nano base",
    )


class PolicySection(Section):
    """Plans that this site refuses whoever asks; a person approves the others one by one."""

    max_epsilon_per_run: Positive = Field(
        default=8.0, description="Largest target_epsilon of one run"
    )
    min_noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.3, description="Least noise_multiplier"
    )
    max_rounds: int = Field(default=200, ge=1, description="Most rounds of one run")
    min_sites: int = Field(
        default=2, ge=1, description="Least min_sites: the fewest updates that may be summed"
    )
    max_update_bytes: int = Field(default=64_000_000, ge=1, description="Largest max_update_bytes")
    max_tracers: int = Field(
        default=MAX_TRACERS,
        ge=0,
        le=MAX_TRACERS,
        description="Most tracers, made-up units with secrets, that a plan may add to this site's "
        "units to look for afterwards; they take room and cost no privacy. 0: none",
    )
    allowed_bases: Annotated[
        tuple[Annotated[str, AfterValidator(_not_empty)], ...], Field(strict=False)
    ] = Field(
        default=("nano",),
        min_length=1,
        description="Base models by name or by digest (sha256:...)",
    )
    required_masking: Annotated[
        tuple[str, ...], Field(strict=False), AfterValidator(_known_types)
    ] = Field(default=ENTITY_TYPES, description="Entity types that a plan must mask")
    recall_floor: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9,
        description="Least share of planted examples of each type to find before training; the "
        "plan's counts where it is higher",
    )
    max_over_masking: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="Largest share of sentences without personal data in which something may be "
        "masked; the plan's counts where it is lower",
    )


class MaskingSection(Section):
    """What masks beside the rules of the plan. It can only add to what is masked."""

    ner: Annotated[str, AfterValidator(_model_beside_the_file)] = Field(
        default="none",
        description="Model of names and places beside the rules: none, bundled, spacy:<path>, "
        "transformers:<path>",
    )
    labelled_notes: OptionalPath = Field(
        default=None,
        description="Own notes with marked personal data, JSONL; empty: none. They count before "
        "training, and nothing of them leaves",
    )


class EvaluationSection(Section):
    """What is measured on the units that this site holds out."""

    alone: bool = Field(
        default=True,
        description="Also train on this site alone, to compare; nothing of it leaves",
    )
    every: int = Field(
        default=2,
        ge=0,
        le=10_000,
        description="Rounds between measurements of the global adapter; 0: only at the end. "
        "Nothing of it leaves",
    )
    round_records: int = Field(
        default=50,
        ge=1,
        description="Most held-out records of a measurement between rounds, the same in each",
    )


class WitnessSection(Section):
    """How this site cosigns the coordinator's log."""

    algorithm: Literal["ed25519", "ml-dsa-44"] = Field(
        default="ed25519",
        description="Of the witness's key when it is made: ed25519 or ml-dsa-44, which a quantum "
        "computer does not break",
    )


class SiteConfig(Section):
    """Everything in `site.toml`."""

    site: SiteSection
    data: AnyData
    budget: BudgetSection
    compute: ComputeSection = ComputeSection()
    base: BaseSection = BaseSection()
    policy: PolicySection = PolicySection()
    masking: MaskingSection = MaskingSection()
    evaluation: EvaluationSection = EvaluationSection()
    witness: WitnessSection = WitnessSection()

    @model_validator(mode="after")
    def _delta_fits(self) -> "SiteConfig":
        """At delta = 1 / n a mechanism may publish one whole record and still keep its promise."""
        if self.budget.delta >= 1 / self.data.num_units:
            raise ValueError(
                f"expected budget.delta < 1 / data.num_units = {1 / self.data.num_units:.3g}, "
                f"got {self.budget.delta}"
            )
        return self


def parse_config(text: str, *, folder: Path, source: str = "site.toml") -> SiteConfig:
    """The settings in `text`; relative paths are taken from `folder`.

    Raises:
      ConfigError: Not TOML, or a key is missing, unknown or impossible; the message names it.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{source}: {error}", hint="check quotes and brackets near that line"
        ) from None
    try:
        return SiteConfig.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        # A misspelt key is also a missing one: the one that stands in the file is to be corrected.
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        key = _key(first["loc"], first["type"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "there is no such key"
        elif first["type"] == "union_tag_invalid":
            message = f"expected one of {', '.join(KINDS)}"
        raise ConfigError(
            ": ".join(part for part in (source, key, message) if part),
            hint=f"correct this key in {source}" if key else f"correct {source}",
        ) from None


def _key(location: Sequence[int | str], error_type: str) -> str:
    """The key as the file has it: pydantic also names the kind of source that it tried."""
    parts = [str(part) for part in location]
    if parts[:1] == ["data"]:
        if error_type == "union_tag_invalid":
            parts = ["data", "kind"]
        elif parts[1:2] and parts[1] in KINDS:
            del parts[1]
    return ".".join(parts)


def load_config(path: Path) -> SiteConfig:
    """Read `site.toml`.

    Raises:
      ConfigError: The file cannot be read or says something impossible.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            hint="make one with `cloister-site init`, or name the site's folder with --home",
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"cannot read {path}: expected UTF-8, got other bytes", hint="save it as UTF-8"
        ) from None
    return parse_config(text, folder=path.resolve().parent, source=str(path))


def format_config(config: SiteConfig) -> str:
    """`config` as a commented `site.toml`: every key, and above each what it means."""
    lines = [
        "# Settings of one Cloister site. Of these the others learn name and num_units, and from",
        "# the log what was spent of the budget.",
    ]
    for section_name in SiteConfig.model_fields:
        section = getattr(config, section_name)
        title = (type(section).__doc__ or "").strip()
        lines += ["", f"# {title}", f"[{section_name}]"]
        fields = type(section).model_fields
        # What a kind of source says of itself comes before what it shares with the others.
        own = [key for key in type(section).__annotations__ if key in fields]
        for key in dict.fromkeys([*own, *fields]):
            lines += [f"# {fields[key].description}", f"{key} = {_toml(getattr(section, key))}"]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        entries = (f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return "{ " + ", ".join(entries) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return '"' + "".join(_escaped(character) for character in str(value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return (
        f"\\u{ord(character):04x}"
        if ord(character) < 0x20 or ord(character) == 0x7F
        else character
    )
