"""The same apps in Flower's simulation, for studies on public data: `python -m deploy.simulate`.

No institution's agent guards a simulation: no ledger, no door, no signatures. What it trains is as
private as its plan, and nothing accounts for a second run. It needs the extra `simulation` (Ray).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Read by Flower and Ray when they are imported.
os.environ.update(
    {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
)

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

import privacy  # noqa: F401  before gRPC: privacy/__init__.py says why
from client import app as client_app
from privacy.plan import RunPlan
from server import app as server_app


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate one plan; adapters land in `--out`."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.simulate",
        description="Run a plan in Flower's simulation, on public data.",
        epilog="example: python -m deploy.simulate --plan plan.json --initial adapters/3a76... "
        "--sites a.toml,b.toml --out simulated",
    )
    parser.add_argument("--plan", type=Path, required=True, help="canonical plan, JSON")
    parser.add_argument("--initial", type=Path, required=True, help="folder of its first adapter")
    parser.add_argument("--sites", required=True, help="site.toml of each site, comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="folder for released adapters")
    parser.add_argument("--cpus", type=float, default=1.0, help="cores a site (default: 1)")
    args = parser.parse_args(argv)
    plan = RunPlan.parse(args.plan.read_bytes())
    sites = [str(Path(path).resolve()) for path in args.sites.split(",")]
    if len(sites) != len(plan.sites):
        parser.error(f"expected {len(plan.sites)} files for the plan's sites, got {len(sites)}")
    settings = {
        "plan": plan.canonical().decode(),
        "initial": str(args.initial.resolve()),
        "out": str(args.out.resolve()),
        "site_config": ",".join(sites),
        # The split is the same in every simulation; a site's own key decides in earnest.
        "holdout_key": "00" * 32,
        "exposure_key": "00" * 32,
    }
    run_simulation(
        _server(settings),
        _clients(settings),
        num_supernodes=len(sites),
        backend_config={"client_resources": {"num_cpus": args.cpus, "num_gpus": 0.0}},
    )
    return 0


def _with(context: Context, settings: dict[str, str]) -> Context:
    """The same context with our settings; Flower lets an app change its state only."""
    return Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=context.state,
        run_config={**context.run_config, **settings},
    )


def _server(settings: dict[str, str]) -> ServerApp:
    wrapped = ServerApp()

    @wrapped.main()
    def run(grid: Grid, context: Context) -> None:
        server_app.simulate(grid, _with(context, settings))

    return wrapped


def _clients(settings: dict[str, str]) -> ClientApp:
    wrapped = ClientApp()

    @wrapped.train()
    def train(message: Message, context: Context) -> Message:
        return client_app.train(message, _with(context, settings))

    @wrapped.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client_app.evaluate(message, _with(context, settings))

    return wrapped


if __name__ == "__main__":
    sys.exit(main())
