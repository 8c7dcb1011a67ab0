"""Flower ServerApp: a plan becomes rounds, rounds become released adapters.

The coordinator builds one for each run (`build_app`). `app` is the same one for Flower's
simulation, where no institution, no door and no ledger takes part: it is for studies on public
data.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from model.tensors import Packed, read_adapter_folder
from privacy.plan import RunPlan
from server.registry import Registry
from server.strategy import PlanStrategy, RoundLog, check_initial


def build_app(
    *,
    plan: RunPlan,
    initial: Packed,
    participants: Callable[[], Mapping[int, str]],
    keys: Mapping[str, bytes] | None,
    rounds: RoundLog,
    registry: Registry,
) -> ServerApp:
    """The ServerApp of one run; the arguments are those of `PlanStrategy`."""
    run_app = ServerApp()

    @run_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = PlanStrategy(plan, participants, keys, rounds, registry)
        strategy.start(
            grid,
            check_initial(plan, initial),
            num_rounds=plan.rounds.num_rounds,
            timeout=plan.rounds.deadline_s,
        )

    return run_app


class FolderRounds:
    """Rounds of a simulation: adapters in a folder, nothing signed."""

    def __init__(self, plan: RunPlan, registry: Registry) -> None:
        self._plan = plan
        self._registry = registry
        self.released_adapters: list[str] = []

    def finished_round(self, server_round: int) -> tuple[bool, Packed | None]:
        """A simulation begins anew each time."""
        return False, None

    def accepted(self, server_round: int, site: str, reply: object, num_bytes: int) -> None:
        """Nothing to sign."""

    def rejected(self, server_round: int, site: str, rule: str) -> None:
        """Nothing to sign."""

    def released(
        self, server_round: int, adapter: Packed, sites: list[str], seconds: float
    ) -> None:
        """Write the adapter to the folder."""
        plan = self._plan
        self.released_adapters.append(
            self._registry.release(plan.tensors, adapter, plan.adapter, plan.base.name)
        )

    def failed(self, server_round: int, num_updates: int, seconds: float) -> None:
        """Nothing to sign."""

    def evaluated(self, server_round: int, site: str) -> None:
        """Nothing to sign."""


app = ServerApp()


@app.main()
def simulate(grid: Grid, context: Context) -> None:
    """Run a plan in Flower's simulation.

    Run config: `plan` (canonical text), `initial` (folder of the initial adapter), `out` (folder
    for released adapters). There is one node for each of the plan's sites.
    """
    config = context.run_config
    plan = RunPlan.parse(str(config["plan"]).encode())
    initial = read_adapter_folder(Path(str(config["initial"])), plan.tensors)
    registry = Registry(Path(str(config["out"])))
    rounds = FolderRounds(plan, registry)

    def participants() -> Mapping[int, str]:
        names = [share.name for share in plan.sites]
        return dict(zip(sorted(grid.get_node_ids()), names, strict=False))

    PlanStrategy(plan, participants, None, rounds, registry).start(
        grid,
        check_initial(plan, initial),
        num_rounds=plan.rounds.num_rounds,
        timeout=plan.rounds.deadline_s,
    )
