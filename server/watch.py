"""What a person sees of runs: lines as they happen, and a table on request."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from privacy import console
from privacy.audit.checkpoint import parse_checkpoint
from privacy.audit.log import COSIGNED, ENTRIES
from privacy.audit.note import Note
from privacy.errors import ConfigError, VerificationError
from server.config import FederationConfig
from server.control import control
from server.roster import Roster
from server.runs import RunStore
from server.status import status

PAUSE_S = 0.25
ENDED = ("finished", "failed", "stopped")
# A quorum that is missing for longer than this is told as something to be looked after.
LATE_S = 60.0


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
        news = _news(run, found["evaluated"])
        if found["awaiting_witnesses"] == plan_digest:
            news.append(_awaited(found["witnesses"]))
        for line in news:
            if line not in told:
                told.add(line)
                console.say(line)
        if run["state"] in ENDED:
            if as_json:
                console.result_json(run)
            else:
                console.result(run["adapter"])
            return console.OK if run["state"] == "finished" else console.FAILED


def _awaited(witnesses: Mapping[str, Any]) -> str:
    return (
        f"all rounds are done; the run is over once {witnesses['needed']} of"
        f" {witnesses['operators']} witnesses have cosigned them"
    )


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
    cosigned = config.log_folder / COSIGNED
    num_cosigned = 0
    if cosigned.exists():
        # Spoilt, it counts for nothing: the running coordinator has it signed again.
        with contextlib.suppress(VerificationError, UnicodeDecodeError):
            note = Note.parse(cosigned.read_text(encoding="utf-8"))
            num_cosigned = parse_checkpoint(note.text).size
    runs = RunStore(config.state_folder / "runs.sqlite")
    try:
        with Roster(config.roster_path) as roster:
            found = status(config, roster, runs, num_entries)
            return found | {"witnesses": {"cosigned_entries": num_cosigned}}
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
    lines += ["", *_witness_lines(found["witnesses"], found["log_entries"])]
    return "\n".join(lines)


def _witness_lines(witnesses: Mapping[str, Any], num_entries: int) -> list[str]:
    """How far the log is cosigned, and what keeps it from being so."""
    lines = [f"cosigned {witnesses['cosigned_entries']} of {num_entries} log entries"]
    if "needed" not in witnesses:
        return lines
    lines[0] += f" by {', '.join(witnesses['by']) or 'nobody'}"
    lines[0] += f"; quorum {witnesses['needed']} of {witnesses['operators']} operators"
    if unknown := witnesses.get("unknown"):
        lines.append(
            f"UNKNOWN SITE in witness_operators: {', '.join(unknown)}; misspelt, it counts as an"
            " operator of its own"
        )
    if witnesses["waiting_s"] > LATE_S and witnesses["needed"]:
        lines.append(
            f"NO QUORUM for {witnesses['waiting_s']:.0f} s, waiting for"
            f" {', '.join(witnesses['missing'])}: no run ends and no verifier with the policy"
            " believes the log until they cosign"
        )
    if witnesses["without_key"]:
        lines.append(
            f"no witness's key yet of {', '.join(witnesses['without_key'])}: bring cloister-site"
            " up to date there and start its agent"
        )
    if witnesses["problem"]:
        lines.append(f"no policy can be written: {witnesses['problem']}")
    return lines
