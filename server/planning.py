"""From a person's PLAN.toml to the frozen plan that sites approve.

A person writes what matters; what follows from it is computed and then fixed in the plan: the
noise multiplier from the target epsilon, the tensors from the base, the initial adapter from its
seed, each site's declared units from the roster. The plan is complete: nothing is filled in later.
"""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.config import AdapterConfig, BaseRef, ServerOptimizerConfig, Target, Train
from model.factors import round_specs
from model.tensors import Packed, packed_size
from privacy.dp.calibrate import calibrate_noise
from privacy.dp.config import MechanismConfig, Unit
from privacy.errors import ConfigError
from privacy.masking.config import ENTITY_TYPES, MaskingConfig
from privacy.plan import (
    ExitConfig,
    ExposureConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)
from server.config import FederationConfig
from server.roster import Roster

if TYPE_CHECKING:
    from model.adapter import AdapterState

# A reply's records beside its values: names, shapes, digests, signature.
_REPLY_OVERHEAD_BYTES = 64 * 1024

# What other systems offer and would void the guarantee here. Nothing of it can be asked for, and
# who tries learns why.
_UNSOUND = {
    "adapter.capacity_factor": "experts have no capacity limit: a dropped token is another's loss",
    "adapter.router_aux_loss_coef": "routers are frozen: a balance loss couples all examples",
    "adapter.router_bias_update_rate": "routers are frozen: a bias that follows the batch leaks",
    "adapter.train_router": "routers are frozen: only what `targets` names is trained and clipped",
    "privacy.accountant": "the accountant is PLD; others under-report (GDP) or waste noise (RDP)",
    "privacy.batch_size": "a step has no fixed size: each unit is drawn with `sample_rate`",
    "privacy.noise_dtype": "noise is added in float64: in bfloat16 it has a few thousand values",
    "privacy.sampling": "units are drawn by Poisson sampling, which the accountant assumes",
    "privacy.shuffle": "units are drawn by Poisson sampling, which the accountant assumes",
    "text.packing": "two units never share a sequence: one would change the other's gradient",
}


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _where(written: object, key: str, values: tuple[str, ...], **defaults: object) -> object:
    """What a person wrote, with other defaults where `key` has one of `values`."""
    if isinstance(written, dict) and written.get(key) in values:
        return {**defaults, **written}
    return written


class _Adapter(_Section):
    lora_rank: int = 32
    lora_alpha: float = 64.0
    lora_dropout: float = 0.0
    targets: list[Target] | None = None
    train: Train = "B"
    site_ranks: dict[str, int] = {}


class _Text(_Section):
    prompt_template: str = "{prompt}\nLabel:"
    answer: Literal["label", "completion"] = "label"
    max_tokens: int = 64


class _Masking(_Section):
    languages: list[str] = ["en"]
    entity_types: list[str] = list(ENTITY_TYPES)
    mode: str = "placeholder"
    recall_floor: float = 0.9
    max_over_masking: float = 0.1


class _Privacy(_Section):
    unit: Annotated[Unit, Field(strict=False)] = Unit.RECORD
    target_epsilon: float
    delta: float
    noise_multiplier: float | None = None
    clip_norm: float = 0.3
    sample_rate: float
    steps_per_round: int = 1


class _Optimizer(_Section):
    name: Literal["adam", "sgd"] = "sgd"
    learning_rate: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, written: object) -> object:
        return _where(written, "name", ("adam",), learning_rate=0.01)


class _ServerOptimizer(_Section):
    name: Literal["mean", "adam"] = "adam"
    learning_rate: float = 0.06
    beta_1: float = 0.5
    beta_2: float = 0.999
    decay: Literal["none", "cosine"] = "cosine"
    max_noise_gain: float = 2.5

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, written: object) -> object:
        return _where(
            written, "name", ("mean",), learning_rate=1.0, decay="none", max_noise_gain=1.0
        )


class _Rounds(_Section):
    num_rounds: int
    min_sites: int
    deadline_s: float = 600.0


class _Exits(_Section):
    max_update_norm: float = 1000.0
    max_update_bytes: int | None = None
    metrics: list[str] = []


class _Exposure(_Section):
    tracers: int = 0


class PlanFile(_Section):
    """What a person writes; every section but `privacy` and `rounds` has defaults."""

    run: str
    base: str = "nano"
    sites: list[str] = []
    adapter: _Adapter = _Adapter()
    text: _Text = _Text()
    masking: _Masking = _Masking()
    privacy: _Privacy
    optimizer: _Optimizer = _Optimizer()
    server_optimizer: _ServerOptimizer = _ServerOptimizer()
    rounds: _Rounds
    exits: _Exits = _Exits()
    exposure: _Exposure = _Exposure()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, written: object) -> object:
        if not isinstance(written, dict) or not isinstance(written.get("adapter"), dict):
            return written
        # Where factors change or take turns, the coordinator keeps no moments.
        plain = {"optimizer": {"name": "adam"}, "server_optimizer": {"name": "mean"}}
        turning = written["adapter"].get("train") in ("AB", "B-svd")
        return {**plain, **written} if turning else written


def read_plan_file(path: Path) -> PlanFile:
    """Read PLAN.toml.

    Raises:
      ConfigError: Not TOML, or a key is missing, unknown or of the wrong type; names the key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the plan {path}: {type(error).__name__}",
            hint="docs/operate/coordinator.md shows a plan to begin with",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return PlanFile.model_validate(tables)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        # A misspelt key is also a missing one: the one that stands in the file is to be corrected.
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = _UNSOUND.get(key, "there is no such key")
        raise ConfigError(
            f"{path}: {key}: {message}",
            hint="docs/operate/coordinator.md shows a plan to begin with",
        ) from None


def make_plan(path: Path, config: FederationConfig, roster: Roster) -> tuple[RunPlan, Packed]:
    """The plan that PLAN.toml describes, and the adapter that round 1 starts from.

    Raises:
      ConfigError: A field says something impossible, a site is not enrolled, or the base cannot be
        used.
    """
    written = read_plan_file(path)
    shares = _shares(written, roster)
    privacy = written.privacy
    base, adapter, initial = _adapter(written, path.resolve().parent)
    # The longest update: with `AB` it is of one factor or the other.
    num_trained = max(
        packed_size([spec for spec in round_specs(initial.specs, adapter, number) if spec.trained])
        for number in (1, 2)
    )
    noise_multiplier = privacy.noise_multiplier
    try:
        # First, because the noise below is looked for over as many rounds as stand here.
        rounds = RoundsConfig(**written.rounds.model_dump())
        if noise_multiplier is None:
            noise_multiplier = calibrate_noise(
                privacy.target_epsilon,
                privacy.delta,
                privacy.sample_rate,
                privacy.steps_per_round * written.rounds.num_rounds,
            )
        plan = RunPlan(
            federation=config.name,
            run=written.run,
            base=base,
            adapter=adapter,
            tensors=initial.specs,
            initial_adapter=initial.digest,
            text=TextConfig(**written.text.model_dump()),
            masking=MaskingConfig(
                languages=tuple(sorted(written.masking.languages)),
                entity_types=tuple(sorted(written.masking.entity_types)),
                mode=written.masking.mode,
                recall_floor=written.masking.recall_floor,
                max_over_masking=written.masking.max_over_masking,
            ),
            mechanism=MechanismConfig(
                **privacy.model_dump(exclude={"noise_multiplier"}),
                noise_multiplier=noise_multiplier,
            ),
            optimizer=OptimizerConfig(**written.optimizer.model_dump()),
            server_optimizer=ServerOptimizerConfig(**written.server_optimizer.model_dump()),
            rounds=rounds,
            exits=ExitConfig(
                max_update_norm=written.exits.max_update_norm,
                max_update_bytes=written.exits.max_update_bytes
                or 4 * num_trained + _REPLY_OVERHEAD_BYTES,
                metrics=tuple(written.exits.metrics),
            ),
            exposure=ExposureConfig(**written.exposure.model_dump()),
            sites=shares,
        )
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    # Reading it back is what a site will do: a plan that cannot be read is never offered.
    return RunPlan.parse(plan.canonical()), initial.pack(trained_only=False)


def _shares(written: PlanFile, roster: Roster) -> tuple[SiteShare, ...]:
    active = {e.site: e.num_units for e in roster.list() if e.active}
    names = written.sites or list(active)
    missing = sorted(set(names) - set(active))
    if missing or not names:
        raise ConfigError(
            f"expected enrolled sites, got {', '.join(missing) or 'none'}",
            hint="cloister-coordinator approve REQUEST enrols a site",
        )
    ranks = written.adapter.site_ranks
    unknown = sorted(set(ranks) - set(names))
    if unknown:
        raise ConfigError(
            f"adapter.site_ranks: expected sites of the plan, got {', '.join(unknown)}",
            hint="a site that is not named has the adapter's lora_rank",
        )
    wrong = sorted(
        name for name, rank in ranks.items() if not 1 <= rank <= written.adapter.lora_rank
    )
    if wrong:
        raise ConfigError(
            f"adapter.site_ranks: expected 1 to lora_rank = {written.adapter.lora_rank} for "
            f"{wrong[0]}, got {ranks[wrong[0]]}"
        )
    # The adapter's own rank is written as none, so that two ways to write a plan are one plan.
    lower = {name: rank for name, rank in ranks.items() if rank < written.adapter.lora_rank}
    return tuple(
        SiteShare(name=name, num_units=active[name], lora_rank=lower.get(name))
        for name in sorted(set(names))
    )


def _adapter(written: PlanFile, folder: Path) -> tuple[BaseRef, AdapterConfig, "AdapterState"]:
    """The base by digest, the adapter's numbers, and its initial tensors."""
    # Imported here: torch takes seconds, and the other commands never get here.
    from model.adapter import INITIAL_SEED, has_target, initial_adapter
    from model.base import UnusableBaseError, base_digest, nano_folder, read_config

    base_folder = nano_folder() if written.base == "nano" else folder / written.base
    try:
        ref = BaseRef(name=base_folder.name, digest=base_digest(base_folder))
        numbers = written.adapter.model_dump(exclude={"targets", "site_ranks"})
        base = read_config(base_folder)
        targets = written.adapter.targets
        if targets is None:
            # Drop-out is offered for attention alone.
            fits = has_target(base, "shared") and numbers["lora_dropout"] == 0
            targets = ["shared"] if fits else ["attention"]
        # Sorted, so that two ways to write a plan are one plan.
        adapter = AdapterConfig(**numbers, targets=tuple(sorted(targets)))
        return ref, adapter, initial_adapter(base, adapter, seed=INITIAL_SEED)
    except UnusableBaseError as error:
        raise ConfigError(f"base {written.base}: {error}", hint=error.hint) from None
    except ValueError as error:
        raise ConfigError(f"base {written.base}: {error}") from None
