"""A site's folder: who may read what, and one agent at a time."""

import stat
from pathlib import Path

import pytest

from client.home import SiteHome
from privacy.errors import ConfigError
from tests.client import room


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome(tmp_path / "site")


def test_keys_are_their_owners_alone(home: SiteHome) -> None:
    home.make_keys()
    assert stat.S_IMODE(home.keys_folder.stat().st_mode) == 0o700
    keys = list(home.keys_folder.iterdir())
    assert {key.name for key in keys} == {
        "tls.key",
        "signing.key",
        "holdout.key",
        "surrogate-1.key",
    }
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(home.holdout_key()) == 32


def test_keys_are_never_made_twice(home: SiteHome) -> None:
    home.make_keys()
    before = {path: path.read_bytes() for path in home.keys_folder.iterdir()}
    with pytest.raises(ConfigError):
        home.make_keys()
    assert {path: path.read_bytes() for path in home.keys_folder.iterdir()} == before


def test_a_lost_holdout_key_is_never_replaced(home: SiteHome) -> None:
    home.make_keys()
    home.holdout_key_path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="expected 32 bytes"):
        home.holdout_key()
    home.holdout_key_path.unlink()
    with pytest.raises(ConfigError) as missing:
        home.holdout_key()
    assert "units held out before" in missing.value.hint


def test_a_key_of_tracers_is_made_once_and_only_when_they_are_trained(home: SiteHome) -> None:
    home.make_keys()
    with pytest.raises(ConfigError) as missing:
        home.exposure_key()
    assert "which nobody trained" in missing.value.hint
    key = home.exposure_key(make=True)
    assert len(key) == 32
    assert home.exposure_key(make=True) == home.exposure_key() == key
    assert stat.S_IMODE(home.exposure_key_path.stat().st_mode) == 0o600
    other = SiteHome(home.folder.with_name("other"))
    other.make_keys()
    assert other.exposure_key(make=True) != key
    # A part of one is never used, nor replaced.
    home.exposure_key_path.write_bytes(key[:5])
    with pytest.raises(ConfigError, match="expected 32 bytes"):
        home.exposure_key(make=True)


def test_the_newest_surrogate_key_is_used_and_the_earlier_ones_stay(home: SiteHome) -> None:
    home.make_keys()
    first = home.surrogate_key()
    made = [home.add_surrogate_key() for _ in range(10)]
    assert home.surrogate_key() == made[-1]
    assert home.surrogate_key(first.key_id) == first
    assert len(home.surrogate_key_paths()) == 11
    assert home.surrogate_key_paths()[-1].name == "surrogate-11.key"
    with pytest.raises(ConfigError, match="with id 00") as missing:
        home.surrogate_key("00")
    assert "--new-key" in missing.value.hint


def test_a_damaged_surrogate_key_is_never_used(home: SiteHome) -> None:
    home.make_keys()
    home.surrogate_key_paths()[0].write_bytes(b"short")
    with pytest.raises(ConfigError, match="32 bytes, got 5"):
        home.surrogate_key()


def test_a_site_without_a_kit_says_what_to_do(home: SiteHome) -> None:
    with pytest.raises(ConfigError) as missing:
        home.kit()
    assert "enrol" in missing.value.hint


def test_one_agent_at_a_time(home: SiteHome) -> None:
    home.folder.mkdir()
    assert home.agent_pid() is None
    with home.agent_lock():
        assert home.agent_pid() is not None
        with pytest.raises(ConfigError, match="runs on"), home.agent_lock():
            pass
    assert home.agent_pid() is None
    with home.agent_lock():
        pass


def test_a_file_is_replaced_whole_and_is_its_owners_alone(home: SiteHome) -> None:
    home.folder.mkdir()
    home.write_json(home.status_path, {"state": "a" * 1000})
    home.write_json(home.status_path, {"state": "b"})
    assert home.status_path.read_text() == '{\n "state": "b"\n}\n'
    assert stat.S_IMODE(home.status_path.stat().st_mode) == 0o600
    assert [path.name for path in home.folder.iterdir()] == ["status.json"]


def test_a_source_among_the_keys_is_refused_before_a_round_is_lost_by_it(home: SiteHome) -> None:
    home.make_keys()
    home.config_path.write_text(room.SETTINGS.format(path=home.keys_folder / "notes.jsonl"))
    with pytest.raises(ConfigError, match=r"expected data\.path outside"):
        home.config()
    home.config_path.write_text(room.SETTINGS.format(path=home.folder / "notes.jsonl"))
    assert home.config().data.place.endswith("site/notes.jsonl")
