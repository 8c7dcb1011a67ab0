"""The coordinator's log takes nothing at which an auditor would stop."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privacy.audit.entry import Event, make_entry
from privacy.audit.keys import PartyKey, Role
from privacy.audit.verify import verify_log
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import SigningKey
from server.config import load, template
from server.control import control, control_path
from server.evidence import Evidence
from server.roster import Enrolment
from tests.federation.world import quiet_plan
from tests.privacy.evidence import runs_on

PLAN = quiet_plan("evidence")
UPDATE = "sha256:" + "5" * 64


class Site:
    """A site's pen."""

    def __init__(self) -> None:
        self.key = SigningKey.generate()
        self.sequence = 0

    def write(
        self, event: Event, subjects: dict[str, str] | None = None, **fields: object
    ) -> bytes:
        """The site's next entry."""
        line = make_entry(
            self.key,
            "a",
            event,
            sequence=self.sequence,
            at=datetime.now(UTC),
            subjects=subjects,
            predicate=fields,
        )
        self.sequence += 1
        return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    address = "127.0.0.1:9092"
    (tmp_path / "federation.toml").write_text(template(name="regio", address=address))
    return tmp_path


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def evidence(folder: Path, key: SigningKey) -> Iterator[Evidence]:
    opened = Evidence(load(folder), key)
    opened.record(Event.FEDERATION_CREATED, federation="regio")
    yield opened
    opened.log.close()


@pytest.fixture
def site(evidence: Evidence) -> Site:
    made = Site()
    evidence.enrolled(
        Enrolment(
            site="a",
            node_key=b"k",
            signing_key=made.key.public_key,
            certificate_serial="1",
            num_units=100,
            enrolled_at=datetime.now(UTC),
            revoked_at=None,
        )
    )
    return made


def test_an_entry_that_does_not_follow_is_refused_and_the_log_still_verifies(
    evidence: Evidence, site: Site, folder: Path
) -> None:
    with pytest.raises(VerificationError, match="expected a plan that was offered"):
        evidence.extend([site.write(Event.PLAN_APPROVED, {"plan": PLAN.digest})])
    assert evidence.log.size == 2
    verify_log(folder / "log")


def test_what_came_before_a_refused_entry_is_kept_and_its_repetition_gets_the_receipt(
    evidence: Evidence, site: Site, folder: Path
) -> None:
    good = site.write(Event.AGENT_STARTED, **runs_on("1"))
    bad = site.write(Event.PLAN_APPROVED, {"plan": PLAN.digest})
    with pytest.raises(VerificationError):
        evidence.extend([good, bad])
    assert evidence.log.size == 3
    (receipt,) = evidence.extend([good])
    assert receipt.index == 2
    assert evidence.log.size == 3
    verify_log(folder / "log")


def test_an_update_that_the_log_refused_was_never_sent(evidence: Evidence, site: Site) -> None:
    sent = site.write(
        Event.UPDATE_SENT,
        {"plan": PLAN.digest, "update": UPDATE},
        run_id=PLAN.run_id,
        server_round=1,
        update_bytes=1,
    )
    with pytest.raises(VerificationError):
        evidence.extend([sent])
    assert evidence.sent_update(PLAN.digest, 1, "a") is None


def test_an_entry_by_an_unknown_key_is_refused(evidence: Evidence) -> None:
    with pytest.raises(VerificationError, match="unknown key"):
        evidence.extend([Site().write(Event.AGENT_STARTED, **runs_on("1"))])


def test_a_gap_in_a_sites_numbers_is_refused(evidence: Evidence, site: Site) -> None:
    site.sequence = 5
    with pytest.raises(VerificationError, match="missing before it"):
        evidence.extend([site.write(Event.AGENT_STARTED, **runs_on("1"))])


def test_what_was_learnt_from_the_log_is_known_after_a_restart(
    evidence: Evidence, site: Site, folder: Path, key: SigningKey
) -> None:
    evidence.extend([site.write(Event.AGENT_STARTED, **runs_on("1"))])
    evidence.log.close()
    again = Evidence(load(folder), key)
    again.extend([site.write(Event.AGENT_STARTED, **runs_on("1"))])
    with pytest.raises(VerificationError):
        again.record(Event.FEDERATION_CREATED, federation="regio")
    again.log.close()


def test_two_coordinators_on_one_folder_are_refused(
    evidence: Evidence, folder: Path, key: SigningKey
) -> None:
    with pytest.raises(ConfigError, match="another process"):
        Evidence(load(folder), key)


def test_a_coordinator_that_does_not_run_answers_nothing(folder: Path) -> None:
    config = load(folder)
    assert control(config, "Status") is None
    control_path(config).parent.mkdir(parents=True, exist_ok=True)
    control_path(config).write_text('{"address": "unix:/nonexistent/control"}')
    assert control(config, "Status") is None
    control_path(config).write_text("no JSON")
    assert control(config, "Status") is None


def test_a_key_of_another_role_is_refused(evidence: Evidence) -> None:
    other = SigningKey.generate()
    evidence.log.add_party(PartyKey(party="b", role=Role.SITE, public_key=other.public_key))
    line = make_entry(
        other,
        "b",
        Event.SITE_REVOKED,
        sequence=0,
        at=datetime.now(UTC),
        predicate={"site": "a"},
    )
    with pytest.raises(VerificationError, match="not a site's to say"):
        evidence.extend([line])
