"""What a person sees of runs: lines as they happen, and a table on request."""

import time
from collections.abc import Mapping
from typing import Any

from privacy import console
from privacy.audit.log import ENTRIES
from privacy.errors import ConfigError
from server.config import FederationConfig
from server.control import control
from server.roster import Roster
from server.runs import RunStore
from server.status import status

PAUSE_S = 0.25
ENDED = ("finished", "failed", "stopped")


def watch(config: FederationConfig, plan_digest: str, *, as_json: bool) -> int:
    """Follow a run to its end; returns the exit status.

    Raises:
      ConfigError: The coordinator stopped.
    """
    since: object = None
    told: set[str] = set()
    while True:
        # Every answer costs the coordinator time that the sites wait for.
        time.sleep(PAUSE_S)
        found = control(config, "Status", since=since, wait_s=20.0)
        if found is None:
            raise ConfigError(
                "the coordinator stopped",
                hint="start it again: the run goes on; `status` shows where it stands",
            )
        since = found["version"]
        run = next(run for run in found["runs"] if run["plan"] == plan_digest)
        for line in _news(run, found["evaluated"]):
            if line not in told:
                told.add(line)
                console.say(line)
        if run["state"] in ENDED:
            if as_json:
                console.result_json(run)
            else:
                console.result(run["adapter"])
            return console.OK if run["state"] == "finished" else console.FAILED


def _news(run: Mapping[str, Any], evaluated: list[str]) -> list[str]:
    lines = [f"approved by {site}" for site in run["approved"]]
    lines += [f"refused by {site}" for site in run["refused"]]
    for result in run["rounds"]:
        outcome = (
            f"{result['num_updates']} updates, {result['seconds']:.1f} s"
            if result["adapter"]
            else f"failed: {result['num_updates']} of {run['min_sites']} updates"
        )
        lines.append(f"round {result['server_round']}/{run['num_rounds']}  {outcome}")
    lines += [f"evaluated at {site}" for site in evaluated]
    if run["state"] in ENDED:
        reason = f": {run['reason']}" if run["reason"] else ""
        lines.append(f"run {run['run']} {run['state']}{reason}")
    return lines


def offline_status(config: FederationConfig) -> dict[str, object]:
    """The status from disk, while no coordinator runs."""
    entries = config.log_folder / ENTRIES
    num_entries = entries.read_bytes().count(b"\n") if entries.exists() else 0
    runs = RunStore(config.state_folder / "runs.sqlite")
    try:
        with Roster(config.roster_path) as roster:
            return status(config, roster, runs, num_entries)
    finally:
        runs.close()


def status_lines(found: Mapping[str, Any], *, running: bool) -> str:
    """The status for a person."""
    online = set(found.get("online", []))
    lines = [
        f"federation {found['federation']}, {found['address']}, "
        + ("serving" if running else "not serving")
        + f", {found['log_entries']} log entries",
        "",
        f"{'site':24} {'state':10} {'units':>8}",
    ]
    for site in found["sites"]:
        state = "revoked" if not site["active"] else "online" if site["site"] in online else "away"
        lines.append(f"{site['site']:24} {state:10} {site['num_units']:>8}")
    lines += ["", f"{'run':24} {'state':10} {'rounds':>8}  approved"]
    for run in found["runs"]:
        done = f"{len(run['rounds'])}/{run['num_rounds']}"
        lines.append(
            f"{run['run']:24} {run['state']:10} {done:>8}  {', '.join(run['approved']) or '-'}"
        )
    return "\n".join(lines)
