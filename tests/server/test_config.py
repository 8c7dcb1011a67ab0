"""The coordinator's settings: what the template says is what is read, and a typo is named."""

from pathlib import Path

import pytest

from privacy.errors import ConfigError
from server import config

MINIMAL = 'name = "testing"\naddress = "coordinator.example.org:9092"\n'


def written(folder: Path, content: str) -> Path:
    path = folder / config.FILE_NAME
    path.write_text(content, encoding="utf-8")
    return path


def test_the_template_is_read_back_with_every_setting_at_its_default(tmp_path: Path) -> None:
    text = config.template(name="testing", address="coordinator.example.org:9092")
    path = written(tmp_path, text)
    assert config.load(path) == config.load(tmp_path)
    assert (
        config.load(path).model_dump()
        == config.FederationConfig(
            name="testing", address="coordinator.example.org:9092"
        ).model_dump()
    )


def test_the_template_shows_every_setting() -> None:
    text = config.template(name="testing", address="a:1")
    for key in config.FederationConfig.model_fields:
        assert f"\n{key} = " in text


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + f'log = "evidence"\nadapters = "{tmp_path}/elsewhere"\n')
    loaded = config.load(path)
    assert loaded.log_folder == tmp_path / "evidence"
    assert loaded.adapters_folder == tmp_path / "elsewhere"
    assert loaded.roster_path == tmp_path / "state" / "roster.sqlite"
    assert loaded.authority_folder == tmp_path / "authority"
    assert loaded.keys_folder == tmp_path / "keys"


def test_the_certificate_names_the_public_host_and_the_others_once(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + 'hosts = ["10.0.0.1", "coordinator.example.org"]\n')
    assert config.load(path).certificate_hosts == ["coordinator.example.org", "10.0.0.1"]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (MINIMAL + "lisen = 'a:1'", "lisen"),
        (MINIMAL + "_base = '/'", "_base"),
        (MINIMAL + "listen = 9092", "listen"),
        (MINIMAL + "listen = '9092'", "listen"),
        (MINIMAL + "site_certificate_days = '30'", "site_certificate_days"),
        (MINIMAL + "site_certificate_days = 398", "site_certificate_days"),
        (MINIMAL + "num_threads = 0", "num_threads"),
        (MINIMAL + "log = ''", "log"),
        ("name = 'Not A Name'\naddress = 'a:1'", "name"),
        ("name = 'testing'\naddress = 'https://a'", "address"),
        ("name = 'testing'", "address"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(tmp_path: Path, content: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"federation\.toml: {key}: "):
        config.load(written(tmp_path, content))


def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        config.load(written(tmp_path, "name = x\n"))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path)
    assert "init" in caught.value.hint


def test_a_template_for_an_impossible_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="address: "):
        config.template(name="testing", address="nowhere")
