"""Sites and coordinator that sign differently train together over real TLS."""

import hashlib
from pathlib import Path

import pytest

from privacy.audit.entry import Event
from privacy.audit.verify import verify_log
from privacy.errors import ConfigError
from privacy.pki.identity import Algorithm, SigningKey
from tests.federation.world import Federation, make_plan


@pytest.mark.parametrize("of_coordinator", Algorithm)
def test_a_mixed_federation_trains_and_its_log_verifies(
    tmp_path: Path, of_coordinator: Algorithm
) -> None:
    with Federation(tmp_path, of_coordinator).serving() as federation:
        sites = [
            federation.enrol("hospital_a", 1.0, Algorithm.ML_DSA_44),
            federation.enrol("hospital_b", 3.0, Algorithm.ED25519),
        ]
        plan = make_plan([site.name for site in sites])
        federation.offer(plan)
        for site in sites:
            site.start()
            site.decide(plan)
        assert federation.wait(plan) == "finished"
        events = [event for _, event in federation.events()]
        assert events.count(Event.UPDATE_ACCEPTED) == 4
        assert Event.DOOR_REFUSED not in events
    log = verify_log(federation.config.log_folder)
    assert {key.party: key.algorithm for key in log.keys} == {
        "coordinator": of_coordinator,
        "hospital_a": Algorithm.ML_DSA_44,
        "hospital_b": Algorithm.ED25519,
    }


def test_a_site_that_comes_back_with_a_weaker_key_is_not_let_in(tmp_path: Path) -> None:
    with Federation(tmp_path).serving() as federation:
        assert federation.coordinator is not None
        site = federation.enrol("hospital_a", 1.0, Algorithm.ML_DSA_44)
        roster = federation.coordinator.roster
        enrolled = roster.active_site("hospital_a")
        assert enrolled is not None
        roster.revoke("hospital_a", at=enrolled.enrolled_at)
        with pytest.raises(ConfigError, match="go on signing with ml-dsa-44"):
            roster.add(
                "hospital_a",
                node_key=hashlib.sha256(enrolled.node_key).digest(),
                signing_key=SigningKey.generate().public_key,
                certificate_serial="2",
                num_units=1,
                at=enrolled.enrolled_at,
            )
        # A key that the settings do not name signs nothing at the site either.
        path = site.home.config_path
        path.write_text(path.read_text().replace("ml-dsa-44", "ed25519"))
        with pytest.raises(ConfigError, match="expected a key of ed25519"):
            site.home.signing_key()


def test_an_unknown_algorithm_in_the_settings_is_one_error(tmp_path: Path) -> None:
    with Federation(tmp_path).serving() as federation:
        site = federation.enrol("hospital_a")
    path = site.home.config_path
    path.write_text(path.read_text().replace('"ed25519"', '"rsa"'))
    with pytest.raises(ConfigError, match=r"site\.signature_algorithm.*ml-dsa-44, got 'rsa'"):
        site.home.config()
