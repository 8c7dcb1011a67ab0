"""The ClientApp refuses settings that changed after the agent had opened its ledger."""

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from client import app
from client.home import file_digest
from privacy.errors import ConfigError
from tests.federation.world import make_plan


def test_settings_that_changed_under_a_running_agent_are_refused(tmp_path: Path) -> None:
    settings = tmp_path / "site.toml"
    settings.write_text('[data]\npopulation = "patients_2023"\n')
    digest = file_digest(settings)
    settings.write_text('[data]\npopulation = "patients_2024"\n')
    context = Context(
        run_id=1,
        node_id=1,
        node_config={
            "site_config": str(settings),
            "site_config_digest": digest,
            "plan": make_plan(["a", "b"]).canonical().decode(),
            "holdout_key": "00" * 32,
        },
        state=RecordDict(),
        run_config={},
    )
    with pytest.raises(ConfigError, match="as it was when the agent started"):
        app._node(context)
