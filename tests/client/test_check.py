"""Each fault inside a site is named, and says what to do next."""

import json
import os
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client import check
from client.check import check_data, check_device, check_key, check_memory, check_site
from client.config import SiteConfig, parse_config
from client.home import SiteHome
from client.reach import Finding
from privacy.pki.authority import load_tls_key
from privacy.pki.enrolment import Member, make_kit, make_request, read_request
from privacy.pki.identity import SigningKey
from tests.privacy.conftest import NOW, Consortium

SECRET = "Jane Roe, 4111 1111 1111 1111"  # noqa: S105  a record's text, not a password
TOML = """
[site]
name = "clinic"
coordinator = "127.0.0.1:1"
[data]
path = "records.jsonl"
num_units = 100
[budget]
epsilon = 8.0
delta = 1e-5
"""


def config(folder: Path) -> SiteConfig:
    return parse_config(TOML, folder=folder)


def record(index: int, **changes: object) -> str:
    fields = {"id": str(index), "prompt": SECRET, "completion": "c", "label": "l"}
    return json.dumps(fields | changes) + "\n"


def is_fault(finding: Finding) -> bool:
    assert SECRET not in finding.found + finding.advice
    assert finding.ok or finding.advice
    return not finding.ok


def write_base(folder: Path, *, num_values: int = 1000, num_bytes: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [num_values], "data_offsets": [0, 0]}})
    with (folder / "model.safetensors").open("wb") as opened:
        opened.write(struct.pack("<Q", len(header)) + header.encode() + bytes(num_bytes))
    return folder


def test_records_that_can_be_read_are_ok(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("".join(record(i) for i in range(30)))
    found = check_data(config(tmp_path))
    assert found.ok
    assert "first 20 records" in found.found


def test_missing_records_are_explained(tmp_path: Path) -> None:
    found = check_data(config(tmp_path))
    assert is_fault(found)
    assert "does not exist" in found.found
    assert "data.path" in found.advice


def test_records_that_this_user_cannot_read_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "records.jsonl").write_text(record(0))
    # Tests may run as root, whom no mode keeps out.
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = check_data(config(tmp_path))
    assert is_fault(found)
    assert "cannot be read by this user" in found.found


@pytest.mark.parametrize(
    "content",
    ["", record(0) + SECRET, record(0, label=3), record(0, prompt="")],
)
def test_records_that_cannot_be_used_are_explained_without_their_text(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "records.jsonl").write_text(content)
    found = check_data(config(tmp_path))
    assert is_fault(found)
    assert "records.jsonl" in found.found


def test_a_key_for_its_owner_only_is_ok(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "tls.key"
    SigningKey.generate().save(key)
    assert check_key(key).ok


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_key_that_others_can_use_is_a_fault(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "keys" / "tls.key"
    SigningKey.generate().save(key)
    key.chmod(mode)
    found = check_key(key)
    assert is_fault(found)
    assert f"chmod 600 {key}" in found.advice


def test_a_key_in_a_folder_that_others_can_write_is_a_fault(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "tls.key"
    SigningKey.generate().save(key)
    key.parent.chmod(0o770)
    found = check_key(key)
    assert is_fault(found)
    assert "chmod 700" in found.advice


def test_a_key_of_another_user_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "keys" / "tls.key"
    SigningKey.generate().save(key)
    monkeypatch.setattr(os, "geteuid", lambda: key.stat().st_uid + 1)
    assert is_fault(check_key(key))


def test_a_missing_key_is_explained(tmp_path: Path) -> None:
    found = check_key(tmp_path / "tls.key")
    assert is_fault(found)
    assert "init" in found.advice


def test_the_cpu_is_always_there() -> None:
    assert check_device("cpu", count=lambda: 0).ok


def test_a_missing_gpu_is_explained() -> None:
    found = check_device("cuda", count=lambda: 0)
    assert is_fault(found)
    assert "torch sees no GPU" in found.found
    assert 'device = "cpu"' in found.advice


def test_a_gpu_with_a_number_too_high_is_explained() -> None:
    assert check_device("cuda", count=lambda: 1).ok
    assert check_device("cuda:1", count=lambda: 2).ok
    found = check_device("cuda:2", count=lambda: 2)
    assert is_fault(found)
    assert "2 GPUs" in found.found


def test_a_base_that_fits_is_ok(tmp_path: Path) -> None:
    found = check_memory(write_base(tmp_path / "base"), memory_limit_mb=3000, available_mb=4000)
    assert found.ok
    assert "of 3000 MB" in found.found


def test_a_base_beyond_the_limit_of_the_settings_is_explained(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", num_values=10**9)
    found = check_memory(base, memory_limit_mb=3000, available_mb=64_000)
    assert is_fault(found)
    assert "memory_limit_mb" in found.advice


def test_a_base_beyond_the_machine_is_explained(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", num_values=10**9)
    found = check_memory(base, memory_limit_mb=64_000, available_mb=4000)
    assert is_fault(found)
    assert "4000 MB left" in found.found


def test_the_memory_of_a_base_counts_its_weights_in_float32_and_its_files(
    tmp_path: Path,
) -> None:
    small = check.base_memory_mb(write_base(tmp_path / "small", num_values=0))
    values = check.base_memory_mb(write_base(tmp_path / "values", num_values=10_000_000))
    file = check.base_memory_mb(write_base(tmp_path / "file", num_bytes=20_000_000))
    assert 40 <= values - small <= 50
    assert 20 <= file - small <= 25


def test_a_folder_without_a_base_is_explained(tmp_path: Path) -> None:
    found = check_memory(tmp_path, memory_limit_mb=3000)
    assert is_fault(found)
    assert "base.folder" in found.advice


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 100, struct.pack("<Q", 2) + b"[]"])
def test_a_damaged_base_is_explained(tmp_path: Path, content: bytes) -> None:
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").write_bytes(content)
    found = check_memory(base, memory_limit_mb=3000)
    assert is_fault(found)
    assert "damaged" in found.found


def test_the_memory_left_is_what_the_machine_says() -> None:
    assert 0 < check.free_memory_mb() < 100_000_000


def new_home(folder: Path) -> SiteHome:
    home = SiteHome(folder / "home")
    home.folder.mkdir()
    base = write_base(folder / "base")
    home.config_path.write_text(TOML + f'[base]\nfolder = "{base}"\n')
    (home.folder / "records.jsonl").write_text(record(0))
    home.make_keys()
    return home


def enrol(home: SiteHome, consortium: Consortium, *, at: datetime = NOW) -> None:
    request = read_request(
        make_request(
            federation="testing",
            site="clinic",
            tls_key=load_tls_key(home.tls_key_path),
            signing_key=home.signing_key(),
            num_units=100,
        )
    )
    certificate_pem = consortium.authority.issue_site_certificate(
        request.csr_pem, site="clinic", valid_for=timedelta(days=30), at=at
    )
    kit = make_kit(
        site="clinic",
        federation="testing",
        address="127.0.0.1:1",
        ca_pem=consortium.authority.ca_pem,
        certificate_pem=certificate_pem,
        roster=[Member(name="clinic", signing_key=request.signing_key)],
        signing_key=SigningKey.generate(),
        at=at,
    )
    home.kit_path.write_bytes(kit)


def faults(home: SiteHome) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_site(home.folder) if is_fault(finding)}


def test_a_site_without_settings_is_told_to_make_them(tmp_path: Path) -> None:
    (found,) = check_site(tmp_path)
    assert is_fault(found)
    assert "init" in found.advice


def test_a_site_that_is_not_enrolled_is_told_how(tmp_path: Path) -> None:
    found = faults(new_home(tmp_path))
    assert list(found) == ["enrolment"]
    assert "cloister-site enrol" in found["enrolment"].advice


@pytest.mark.enable_socket
def test_an_enrolled_site_is_looked_at_up_to_the_address(
    tmp_path: Path, consortium: Consortium
) -> None:
    home = new_home(tmp_path)
    enrol(home, consortium)
    found = faults(home)
    assert list(found) == ["address"]
    assert "nothing listens on port 1" in found["address"].found


@pytest.mark.enable_socket
def test_an_expired_kit_is_a_fault_of_the_certificate(
    tmp_path: Path, consortium: Consortium
) -> None:
    home = new_home(tmp_path)
    enrol(home, consortium, at=datetime.now(UTC).replace(microsecond=0) - timedelta(days=60))
    found = faults(home)
    assert list(found) == ["certificate", "address"]


def test_a_kit_of_another_site_is_a_fault_of_the_enrolment(
    tmp_path: Path, consortium: Consortium
) -> None:
    home = new_home(tmp_path)
    enrol(home, consortium)
    home.tls_key_path.unlink()
    home.signing_key_path.unlink()
    home.holdout_key_path.unlink()
    home.make_keys()
    assert list(faults(home)) == ["enrolment"]
