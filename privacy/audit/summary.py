"""What a verified log tells in a few lines, gathered while its entries pass by."""

from dataclasses import dataclass, field
from typing import Any

from privacy.audit.entry import Entry, Event
from privacy.audit.rules import COUNTED
from privacy.audit.verify import CheckedLog


@dataclass(kw_only=True, slots=True)
class _Run:
    plan: str
    released: set[int] = field(default_factory=set)
    is_finished: bool = False


@dataclass(kw_only=True, slots=True)
class _Site:
    num_updates: int = 0
    num_bytes: int = 0
    rounds: set[tuple[str, int, int]] = field(default_factory=set)
    num_tests: int = 0
    ranked: set[str] = field(default_factory=set)
    epsilon: float = 0.0
    delta: float | None = None
    budget: float = 0.0


class Summary:
    """Takes each entry with `add`, in order."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._sites: dict[str, _Site] = {}
        self._aside: list[dict[str, Any]] = []
        self._num_entries = 0

    def add(self, index: int, entry: Entry) -> None:
        """Count one entry."""
        said = entry.predicate
        self._num_entries += 1
        match entry.event:
            case Event.SITE_ENROLLED:
                self._sites.setdefault(said["site"], _Site())
            case Event.RUN_STARTED:
                self._runs.setdefault(said["run_id"], _Run(plan=entry.subjects["plan"]))
            case Event.ADAPTER_RELEASED:
                self._runs[said["run_id"]].released.add(said["server_round"])
            case Event.RUN_FINISHED:
                self._runs[said["run_id"]].is_finished = True
            case Event.UPDATE_SENT:
                site = self._sites[entry.party]
                site.num_updates += 1
                site.num_bytes += said["update_bytes"]
            case Event.BUDGET_COMMITTED | Event.TEST_COMMITTED:
                self._spend(self._sites[entry.party], entry)
            case Event.ADAPTER_TESTED:
                self._sites[entry.party].num_tests += 1
            case Event.EXPOSURE_MEASURED:
                self._sites[entry.party].ranked.add(said["run_id"])
            case Event.ENTRY_SET_ASIDE:
                self._aside.append(
                    {
                        "entry": index,
                        "site": entry.party,
                        "event": said["refused_event"],
                        "digest": entry.subjects["entry"],
                        "counted": said["refused_event"] in COUNTED,
                    }
                )
            case _:
                pass

    def _spend(self, site: _Site, entry: Entry) -> None:
        said = entry.predicate
        place = (said["run_id"], said.get("server_round", 0), said.get("test_number", 0))
        # A commit that a crash made a site say twice is one spend.
        if place not in site.rounds:
            site.rounds.add(place)
            site.epsilon, site.delta = said["epsilon_total"], said["delta"]
            site.budget = said["budget_epsilon"]

    def result(self, log: CheckedLog) -> dict[str, Any]:
        """What was verified, for a program."""
        found: dict[str, Any] = {
            "verified": True,
            "origin": log.checkpoint.origin,
            "entries": self._num_entries,
            "root": log.checkpoint.root.hex(),
            "checkpoints": log.num_checkpoints,
            "keys": "with the log" if log.keys_from_log else "given",
            "fingerprints": {key.party: key.fingerprint for key in log.keys},
            "runs": {},
            "sites": {},
            "set_aside": self._aside,
        }
        if log.cosigned is not None:
            found["cosigned"] = {
                name: at.isoformat() for name, at in sorted(log.cosigned.witnesses.items())
            }
        for run_id, run in self._runs.items():
            plan = log.plans[run.plan]
            # By number: two plans may share a name.
            found["runs"][run_id] = {
                "run": plan.run,
                "plan": run.plan,
                "rounds": plan.rounds.num_rounds,
                "released": len(run.released),
                "finished": run.is_finished,
            }
        for name, site in self._sites.items():
            found["sites"][name] = {
                "updates": site.num_updates,
                "bytes": site.num_bytes,
                "privacy_tests": site.num_tests,
                "exposures": len(site.ranked),
                "epsilon": site.epsilon,
                "delta": site.delta,
                "budget": site.budget,
            }
        return found
