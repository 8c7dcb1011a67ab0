"""Sites and runs as JSON can carry them, whether or not a coordinator runs."""

from privacy.audit.entry import format_time
from server.config import FederationConfig
from server.roster import Roster
from server.runs import RunStore


def status(
    config: FederationConfig, roster: Roster, runs: RunStore, log_entries: int
) -> dict[str, object]:
    """Sites and runs as JSON can carry them."""
    return {
        "federation": config.name,
        "address": config.address,
        "log_entries": log_entries,
        "sites": [
            {
                "site": e.site,
                "active": e.active,
                "num_units": e.num_units,
                "enrolled_at": format_time(e.enrolled_at),
            }
            for e in roster.list()
        ],
        "runs": [
            {
                "run": run.plan.run,
                "plan": run.plan.digest,
                "state": run.state,
                "reason": run.reason,
                "num_rounds": run.plan.rounds.num_rounds,
                "min_sites": run.plan.rounds.min_sites,
                "sites": [share.name for share in run.plan.sites],
                "approved": list(run.approved),
                "refused": list(run.refused),
                "rounds": [
                    {
                        "server_round": r.server_round,
                        "adapter": r.adapter,
                        "num_updates": r.num_updates,
                        "seconds": round(r.seconds, 3),
                    }
                    for r in run.rounds
                ],
                "adapter": run.adapter,
            }
            for run in runs.list()
        ],
    }
