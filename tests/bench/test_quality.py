"""The measurement of quality on two small made-up parties."""

import gzip
import json
import math
from pathlib import Path

import pytest

from bench import fine_tune
from bench.quality import Recipe, Row, Study
from model.config import AdapterConfig, ServerOptimizerConfig
from privacy.plan import OptimizerConfig, TextConfig

# The measurement of all settings is one fixture: 15 s on a quiet core, minutes on a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LABELS = {"ward": ("rest", "walk"), "desk": ("loan", "card")}


def write(folder: Path, num_rows: int) -> Path:
    folder.mkdir()
    for name, labels in LABELS.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as rows:
            for number in range(num_rows):
                label = labels[number % 2]
                row = {"id": str(number), "prompt": f"about {label} please", "label": label}
                rows.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("parties")
    recipe = Recipe(
        adapter=AdapterConfig(lora_rank=2, lora_alpha=8.0),
        text=TextConfig(max_tokens=16),
        optimizer=OptimizerConfig(learning_rate=0.05),
        server_optimizer=ServerOptimizerConfig(),
        clip_norm=0.5,
        sample_rate=0.5,
        steps_per_round=2,
        num_rounds=2,
    )
    return Study(write(root / "train", 20), write(root / "test", 6), recipe)


@pytest.fixture(scope="module")
def rows(study: Study) -> list[Row]:
    return list(study.rows(["8", "inf"], 2))


def test_every_setting_is_measured_at_every_epsilon(rows: list[Row]) -> None:
    assert [(row.setting, row.epsilon) for row in rows] == [
        ("base", "inf"),
        *((setting, e) for e in ("8", "inf") for setting in ("alone", "pooled", "federated")),
    ]
    for row in rows:
        assert set(row.sites) == set(LABELS)
        assert all(math.isfinite(own["loss"]) for own in row.sites.values())
        assert 0 <= row.accuracy <= 1
        assert row.accuracy_sd >= 0


def test_training_without_noise_learns_what_the_base_did_not_know(rows: list[Row]) -> None:
    base, *trained = rows
    for row in trained:
        if row.epsilon == "inf":
            assert row.loss < base.loss


def test_fine_tuning_is_measured_for_each_party_and_number_of_records(study: Study) -> None:
    tuned = list(fine_tune.rows(study, (6, 12), "inf"))
    assert [(row.case, row.records) for row in tuned] == [
        (name, count) for name in ("desk", "ward") for count in (6, 12)
    ]
    for row in tuned:
        assert 0 < row.adapter_mb < 8
        assert row.minutes > 0
        assert row.loss < row.loss_before


def test_more_records_than_any_party_has_are_refused(study: Study) -> None:
    with pytest.raises(RuntimeError, match="at least 1000 units"):
        list(fine_tune.rows(study, (1000,), "inf"))


def test_folders_without_a_common_party_are_refused(tmp_path: Path) -> None:
    recipe = Recipe(
        adapter=AdapterConfig(lora_rank=2, lora_alpha=8.0),
        text=TextConfig(max_tokens=16),
        optimizer=OptimizerConfig(),
        server_optimizer=ServerOptimizerConfig(),
        clip_norm=0.5,
        sample_rate=0.5,
        steps_per_round=1,
        num_rounds=1,
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError, match="same name"):
        Study(write(tmp_path / "train", 2), tmp_path / "empty", recipe)
