"""`site.toml` says exactly what it means, or an error names the key."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.config import SiteConfig, format_config, load_config, parse_config
from privacy.dp.config import Unit
from privacy.errors import ConfigError

MINIMAL = """
[site]
name = "hospital_a"
coordinator = "coordinator.example.org:9092"
[data]
path = "data/records.jsonl.gz"
num_units = 1000
[budget]
epsilon = 8
delta = 1e-5
"""
FOLDER = Path("/srv/site")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, folder=FOLDER)
    return str(caught.value)


def test_what_is_not_said_has_a_default_and_paths_are_beside_the_file() -> None:
    config = parse_config(MINIMAL, folder=FOLDER)
    assert config.data.place == str(FOLDER / "data/records.jsonl.gz")
    assert config.data.unit is Unit.RECORD
    assert config.base.folder is None
    assert config.compute.threads == 1
    assert config.evaluation.alone


def test_a_written_file_reads_the_same() -> None:
    config = parse_config(
        MINIMAL.replace('path = "data/records.jsonl.gz"', 'path = "/data/r \\"1\\" \\\\ é.jsonl"')
        + '[base]\nfolder = "/models/olmoe"\n[policy]\nallowed_bases = ["nano", "olmoe"]\n',
        folder=FOLDER,
    )
    assert parse_config(format_config(config), folder=Path("/elsewhere")) == config


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_path_survives_the_file(name: str) -> None:
    config = parse_config(MINIMAL, folder=FOLDER)
    data = config.data.model_copy(update={"path": Path("/") / name.lstrip("/")})
    written = format_config(config.model_copy(update={"data": data}))
    assert parse_config(written, folder=FOLDER).data == data


def test_every_key_is_explained_in_a_written_file() -> None:
    text = format_config(parse_config(MINIMAL, folder=FOLDER))
    for section in SiteConfig.model_fields:
        assert f"[{section}]" in text
    lines = text.splitlines()
    for above, line in pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert above.startswith("# ")
            assert "None" not in above


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "hospital_a"', 'nmae = "hospital_a"', "site.nmae"),
        ('name = "hospital_a"', 'name = "Hospital A"', "site.name"),
        ("[budget]", "[bugdet]", "bugdet"),
        ("epsilon = 8", "", "budget.epsilon"),
        ("epsilon = 8", "epsilon = 0", "budget.epsilon"),
        ("epsilon = 8", "epsilon = inf", "budget.epsilon"),
        ("epsilon = 8", "epsilon = nan", "budget.epsilon"),
        ("epsilon = 8", 'epsilon = "8"', "budget.epsilon"),
        ("epsilon = 8", "epsilon = true", "budget.epsilon"),
        ("epsilon = 8", "epsilon = 8\nepsilom = 9", "budget.epsilom"),
        ("delta = 1e-5", "delta = 1", "budget.delta"),
        ("delta = 1e-5", "delta = 0.001", "budget.delta"),
        ("num_units = 1000", "num_units = 1000.5", "data.num_units"),
        ("num_units = 1000", "num_units = 0", "data.num_units"),
        ("num_units = 1000", 'num_units = 1000\nunit = "family"', "data.unit"),
        ("num_units = 1000", 'num_units = 1000\nkind = "xlsx"', "data.kind"),
        ("num_units = 1000", 'num_units = 1000\nkind = "csv"', "data.prompt"),
        ("num_units = 1000", 'num_units = 1000\ndelimiter = ";"', "data.delimiter"),
        ("num_units = 1000", 'num_units = 1000\nprompt = "{a"', "data.prompt"),
        ("num_units = 1000", 'num_units = 1000\nlabel = "{*}"', "data: expected the label"),
        ("num_units = 1000", "num_units = 1000\nmin_cell = 2", "data.min_cell"),
        ('path = "data/records.jsonl.gz"', 'path = ""', "data.path"),
        (":9092", "", "site.coordinator"),
        (":9092", ":99999", "site.coordinator"),
        ("coordinator.example.org", "https://coordinator", "site.coordinator"),
        ("[data]", 'proxy = "socks5://h:1"\n[data]', "site.proxy"),
        ("[budget]", '[compute]\ndevice = "gpu"\n[budget]', "compute.device"),
        ("[budget]", '[compute]\nthreads = "2"\n[budget]', "compute.threads"),
        ("[budget]", "[policy]\nallowed_bases = []\n[budget]", "policy.allowed_bases"),
        (
            "[budget]",
            '[policy]\nrequired_masking = ["NAME"]\n[budget]',
            "policy.required_masking",
        ),
        ("[site]", "[site", "line"),
    ],
)
def test_an_impossible_file_is_refused_by_the_name_of_its_key(
    old: str, new: str, key: str
) -> None:
    assert old in MINIMAL
    assert key in refused(MINIMAL.replace(old, new))


def test_a_proxys_password_stands_in_no_error() -> None:
    text = MINIMAL.replace("[data]", 'proxy = "http://me:hunter2@proxy"\n[data]')
    assert "hunter2" not in refused(text)


def test_a_file_that_cannot_be_read_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "site.toml")
    assert "No such file or directory" in str(caught.value)
    assert "cloister-site init" in caught.value.hint
    (tmp_path / "site.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        load_config(tmp_path / "site.toml")


def test_a_file_on_disk_is_read_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(MINIMAL)
    assert load_config(tmp_path / "site.toml").data.place == str(
        tmp_path.resolve() / "data/records.jsonl.gz"
    )


def test_settings_are_read_without_torch() -> None:
    program = "import sys, client.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
