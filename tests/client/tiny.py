"""A tiny base in a folder, a plan for it, and a site whose records do not exist."""

from pathlib import Path

from model.adapter import adapter_specs, initial_adapter
from model.base import base_digest, read_config
from model.config import AdapterConfig, BaseRef, Target, Train
from privacy.dp.calibrate import calibrate_noise
from privacy.dp.config import MechanismConfig, Unit
from privacy.masking.config import MaskingConfig
from privacy.plan import ExitConfig, OptimizerConfig, RoundsConfig, RunPlan, SiteShare, TextConfig
from tests.model.conftest import FAMILIES, save_base


def tiny_base(folder: Path, family: str = "deepseek_v3") -> Path:
    return save_base(folder, FAMILIES[family]())


def plan_for(
    folder: Path,
    *,
    train: Train = "B",
    targets: tuple[Target, ...] = ("attention", "experts"),
    lora_rank: int = 8,
    num_rounds: int = 4,
) -> RunPlan:
    adapter = AdapterConfig(lora_rank=lora_rank, lora_alpha=8.0, targets=targets, train=train)
    config = read_config(folder)
    return RunPlan(
        federation="care",
        run="first",
        base=BaseRef(name="tiny", digest=base_digest(folder)),
        adapter=adapter,
        tensors=adapter_specs(config, adapter),
        initial_adapter=initial_adapter(config, adapter, seed=0).digest,
        text=TextConfig(),
        masking=MaskingConfig(),
        mechanism=MechanismConfig(
            unit=Unit.RECORD,
            target_epsilon=2.0,
            delta=1e-4,
            noise_multiplier=calibrate_noise(2.0, 1e-4, 0.5, num_rounds),
            clip_norm=0.3,
            sample_rate=0.5,
            steps_per_round=1,
        ),
        optimizer=OptimizerConfig(),
        rounds=RoundsConfig(num_rounds=num_rounds, min_sites=1),
        exits=ExitConfig(max_update_norm=1e6, max_update_bytes=10**7),
        sites=(SiteShare(name="clinic", num_units=100),),
    )


def site_home(folder: Path, base: Path) -> Path:
    """Settings only: no keys, and no file of records."""
    folder.mkdir()
    (folder / "site.toml").write_text(
        '[site]\nname = "clinic"\ncoordinator = "127.0.0.1:1"\n'
        '[data]\npath = "no-records.jsonl"\nnum_units = 100\n'
        "[budget]\nepsilon = 8.0\ndelta = 1e-5\n"
        f'[base]\nfolder = "{base}"\n'
    )
    return folder
