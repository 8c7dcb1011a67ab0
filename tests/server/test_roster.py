"""The roster: who is in, who is out, and that a revoked key stays out."""

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import server
from privacy.errors import ConfigError
from server.roster import Enrolment, Roster

AT = datetime(2030, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 2, 1, tzinfo=UTC)


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    with Roster(tmp_path / "state" / "roster.sqlite") as opened:
        yield opened


def add(roster: Roster, site: str, key: str = "", *, serial: str = "1f") -> Enrolment:
    node_key = (key or site).encode()
    return roster.add(
        site,
        node_key=node_key,
        signing_key=node_key.ljust(32, b"."),
        certificate_serial=serial,
        num_units=100,
        at=AT,
    )


def test_an_enrolled_site_is_found_by_its_key(roster: Roster) -> None:
    added = add(roster, "clinic")
    assert roster.by_node_key(b"clinic") == added
    assert roster.active_site("clinic") == added
    assert roster.is_active(b"clinic")
    assert added.enrolled_at == AT
    assert added.active


def test_a_stranger_is_not_active(roster: Roster) -> None:
    assert not roster.is_active(b"stranger")
    assert roster.by_node_key(b"stranger") is None
    assert roster.active_site("stranger") is None
    assert roster.list() == ()


def test_a_revoked_site_stays_known_and_out(roster: Roster) -> None:
    add(roster, "clinic")
    revoked = roster.revoke("clinic", at=LATER)
    assert revoked.revoked_at == LATER
    assert not roster.is_active(b"clinic")
    assert roster.by_node_key(b"clinic") == revoked
    assert roster.active_site("clinic") is None
    assert roster.list() == (revoked,)
    with pytest.raises(ConfigError, match="expected the name of an active site"):
        roster.revoke("clinic", at=LATER)


def test_a_revocation_by_another_process_acts_on_the_next_question(roster: Roster) -> None:
    add(roster, "clinic")
    add(roster, "bank")
    assert roster.is_active(b"clinic")
    program = (
        "import sys, pathlib, datetime\n"
        "from server.roster import Roster\n"
        "with Roster(pathlib.Path(sys.argv[1])) as roster:\n"
        "    roster.revoke('clinic', at=datetime.datetime.now(datetime.UTC))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(roster.path)],
        cwd=Path(server.__file__).parents[1],
        check=True,
        timeout=20,
    )
    assert not roster.is_active(b"clinic")
    assert roster.is_active(b"bank")


def test_a_revoked_key_never_comes_back(roster: Roster) -> None:
    add(roster, "clinic")
    roster.revoke("clinic", at=LATER)
    for site in ("clinic", "other"):
        with pytest.raises(ConfigError, match="was revoked with site 'clinic'"):
            add(roster, site, "clinic")
    # The signing key alone is enough.
    with pytest.raises(ConfigError, match="was revoked"):
        roster.add(
            "clinic",
            node_key=b"new",
            signing_key=b"clinic".ljust(32, b"."),
            certificate_serial="1",
            num_units=1,
            at=LATER,
        )
    assert add(roster, "clinic", "new").active
    assert [enrolment.active for enrolment in roster.list()] == [False, True]


def test_a_renewed_certificate_keeps_the_site_and_its_keys(roster: Roster) -> None:
    first = add(roster, "clinic", serial="1")
    second = add(roster, "clinic", serial="2")
    assert second.certificate_serial == "2"
    assert second.enrolled_at == first.enrolled_at
    assert len(roster.list()) == 1


def test_an_active_site_cannot_be_replaced_by_other_keys(roster: Roster) -> None:
    add(roster, "clinic")
    with pytest.raises(ConfigError, match="enrolled with other keys") as caught:
        add(roster, "clinic", "imposter")
    assert "revoke clinic" in caught.value.hint
    assert roster.is_active(b"clinic")
    assert not roster.is_active(b"imposter")


def test_a_key_belongs_to_one_site_only(roster: Roster) -> None:
    add(roster, "clinic")
    with pytest.raises(ConfigError, match="belongs to site 'clinic'"):
        add(roster, "bank", "clinic")


@pytest.mark.parametrize(
    "change",
    [
        {"num_units": 0},
        {"signing_key": b"short"},
        {"node_key": b""},
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001  the point of the test
    ],
)
def test_a_malformed_enrolment_is_refused(roster: Roster, change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "node_key": b"k",
        "signing_key": bytes(32),
        "certificate_serial": "1",
        "num_units": 1,
        "at": AT,
    }
    with pytest.raises(ValueError, match="expected"):
        roster.add("clinic", **(fields | change))  # type: ignore[arg-type]
    assert roster.list() == ()


def test_only_the_owner_can_read_it_and_its_journal(roster: Roster) -> None:
    add(roster, "clinic")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in roster.path.parent.iterdir()}
    assert "roster.sqlite-wal" in modes
    assert set(modes.values()) == {0o600}


def test_threads_ask_at_the_same_time_as_one_revokes(roster: Roster) -> None:
    for number in range(10):
        add(roster, f"site{number}")
    answers: list[bool] = []

    def ask() -> None:
        answers.extend(roster.is_active(b"site9") for _ in range(200))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(9):
        roster.revoke(f"site{number}", at=LATER)
    for thread in threads:
        thread.join()
    assert answers == [True] * 800


def test_it_is_read_back_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "roster.sqlite"
    with Roster(path) as first:
        added = add(first, "clinic")
    with Roster(path) as second:
        assert second.list() == (added,)


def test_a_damaged_roster_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "roster.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="cannot use the roster"):
        Roster(path)


def test_a_roster_that_cannot_be_read_is_an_error_and_not_a_no(roster: Roster) -> None:
    add(roster, "clinic")
    with sqlite3.connect(roster.path) as other:
        other.execute("DROP TABLE enrolment")
    other.close()
    with pytest.raises(ConfigError, match="cannot use the roster"):
        roster.is_active(b"clinic")
