"""Our federation on this machine: the coordinator and every agent a process, as they are run.

Everything is real but the training: mutual TLS 1.3, enrolment, approval, ledger, evidence,
Flower's state in SQLite. The training process is replaced by a function that returns an update of
ones. Round seconds are the coordinator's own, from sending the instructions to releasing the
adapter.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from client.agent import Agent
from client.framing import frame, unframe
from client.home import SiteHome
from client.link import Link, read_message, write_message
from model.config import AdapterConfig, BaseRef, TensorSpec
from model.tensors import packed_digest, packed_size
from privacy import wire
from privacy.audit.entry import Event
from privacy.dp.calibrate import calibrate_noise
from privacy.dp.config import MechanismConfig, Unit
from privacy.masking.canaries import num_clean, num_planted
from privacy.masking.config import MaskingConfig
from privacy.plan import (
    ExitConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)

NUM_UNITS = 1000
READY_S = 60.0
ROUND_LIMIT_S = 60.0


def rounds(num_clients: int, num_rounds: int, *, num_values: int = 24_576) -> list[float]:
    """Seconds of each round, with clients that train nothing.

    Raises:
      RuntimeError: A process did not come up or the run did not finish.
    """
    with tempfile.TemporaryDirectory(prefix="bench-cloister-") as name:
        folder = Path(name)
        names = [f"site_{number}" for number in range(num_clients)]
        coordinator = folder / "coordinator"
        _enrol(folder, coordinator, names)
        processes = []
        try:
            processes.append(_spawn("-m", "server.cli", "start", "--home", str(coordinator)))
            processes += [_spawn("-m", "bench.ours", str(folder / site)) for site in names]
            return _run(folder, coordinator, names, num_rounds, num_values)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=30)


def _enrol(folder: Path, coordinator: Path, names: list[str]) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    data = folder / "data.jsonl"
    data.touch()
    _call("server.cli", "init", "--home", str(coordinator), "--name", "bench",
          "--address", address, "--listen", address, "--plain-key")  # fmt: skip
    for site in names:
        home = str(folder / site)
        made = _call("client.cli", "init", "--home", home, "--name", site, "--federation", "bench",
                     "--coordinator", address, "--data", str(data), "--units", str(NUM_UNITS),
                     "--delta", "1e-4")  # fmt: skip
        kit = _call("server.cli", "approve", "--home", str(coordinator), made["request"], "--yes")
        _call("client.cli", "enrol", "--home", home, kit["kit"], "--yes")
        # Stock Flower measures nothing either.
        settings = folder / site / "site.toml"
        text = settings.read_text(encoding="utf-8")
        settings.write_text(text.replace("\nevery = 2\n", "\nevery = 0\n"), encoding="utf-8")


def _call(module: str, *arguments: str) -> Any:  # noqa: ANN401  JSON
    done = subprocess.run(  # our own modules, no shell
        [sys.executable, "-m", module, *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} {arguments[0]} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def _spawn(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # our own modules, no shell
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _run(
    folder: Path, coordinator: Path, names: list[str], num_rounds: int, num_values: int
) -> list[float]:
    from server.config import load
    from server.control import control
    from server.registry import Registry
    from server.watch import PAUSE_S

    config = load(coordinator)
    plan, initial = _plan(names, num_rounds, num_values)
    Registry(config.adapters_folder).release(plan.tensors, initial, plan.adapter, "none")
    pause = threading.Event()
    waited = 0.0
    while len((control(config, "Status") or {"online": []})["online"]) < len(names):
        pause.wait(0.2)
        waited += 0.2
        if waited > READY_S:
            raise RuntimeError(f"expected {len(names)} sites online within {READY_S} s")
    control(config, "Offer", plan=plan.canonical().decode(), wait_s=READY_S)
    for site in names:
        _approve(SiteHome(folder / site), plan)
    since = None
    deadline = time.monotonic() + ROUND_LIMIT_S * num_rounds
    while time.monotonic() < deadline:
        pause.wait(PAUSE_S)
        found = control(config, "Status", since=since, wait_s=1.0)
        since = found["version"]
        run = found["runs"][0]
        if run["state"] in ("failed", "stopped"):
            raise RuntimeError(f"expected the run to finish, got {run['state']}: {run['reason']}")
        if run["state"] == "finished":
            return [result["seconds"] for result in run["rounds"]]
    raise RuntimeError("expected the run to finish in time")


def _plan(names: list[str], num_rounds: int, num_values: int) -> tuple[RunPlan, np.ndarray]:
    tensors = (TensorSpec(name="packed", shape=(num_values,), trained=True),)
    initial = np.zeros(packed_size(tensors), dtype=np.float32)
    rate, delta = 0.01, 1e-4
    plan = RunPlan(
        federation="bench",
        run="bench",
        base=BaseRef(name="nano", digest="sha256:" + "0" * 64),
        adapter=AdapterConfig(lora_rank=1, lora_alpha=1),
        tensors=tensors,
        initial_adapter=packed_digest(tensors, initial),
        text=TextConfig(),
        masking=MaskingConfig(),
        mechanism=MechanismConfig(
            unit=Unit.RECORD,
            target_epsilon=8.0,
            delta=delta,
            noise_multiplier=calibrate_noise(8.0, delta, rate, num_rounds),
            clip_norm=1.0,
            sample_rate=rate,
            steps_per_round=1,
        ),
        optimizer=OptimizerConfig(),
        rounds=RoundsConfig(num_rounds=num_rounds, min_sites=len(names), deadline_s=ROUND_LIMIT_S),
        exits=ExitConfig(max_update_norm=1e6, max_update_bytes=4 * num_values + 65536),
        sites=tuple(SiteShare(name=name, num_units=NUM_UNITS) for name in sorted(names)),
    )
    return plan, initial


def _approve(home: SiteHome, plan: RunPlan) -> None:
    journal, link = home.journal(), Link(home.channel())
    journal.decide(plan, approved=True)
    journal.record(Event.PLAN_APPROVED, {"plan": plan.digest})
    journal.flush(link.append)
    journal.close()
    link.close()


def _masked(plan: RunPlan) -> dict[str, object]:
    """What a site says that masked well: without it, the log takes no update of it."""
    planted = num_planted(plan.masking.languages, plan.masking.entity_types)
    return {
        "masking": {"num_records": 0, "num_masked": {}},
        "canaries": [[*kind, count, count, count] for kind, count in sorted(planted.items())],
        "over_masking": [
            [language, count, 0] for language, count in num_clean(plan.masking.languages).items()
        ],
    }


class TrivialWorker:
    """In place of the training process: answers at once with an update of ones."""

    pid = 1
    sandbox = None

    def __init__(self, site: str) -> None:
        self._site = site

    def call(
        self,
        request: bytes,
        *,
        timeout_s: float,
        on_progress: Callable[[Mapping[str, object]], None],
    ) -> bytes:
        """The reply to one request, in the form of the closed room's program."""
        header, sent = unframe(request)
        plan = RunPlan.parse(header["plan"].encode())
        message = read_message(sent)
        train = message.metadata.message_type == "train"
        update = np.ones(packed_size(plan.trained_tensors), dtype=np.float32) if train else None
        digest = wire.NO_UPDATE
        if update is not None:
            digest = packed_digest(plan.trained_tensors, update)
        reply = wire.Reply(
            kind="train" if train else "evaluate",
            plan=plan.digest,
            server_round=int(str(message.content["instruction"]["server_round"])),
            site=self._site,
            update=update,
            update_digest=digest,
            metrics={},
        )
        answer = Message(wire.write_reply(reply, plan), reply_to=message)
        return frame({"results": {}, **_masked(plan)}, write_message(answer))

    def start(self) -> None:
        """Nothing is to be started."""

    def stop(self) -> None:
        """Nothing runs."""


def main() -> None:
    """Be the agent of one site, until terminated."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    home = SiteHome(Path(sys.argv[1]))
    worker = TrivialWorker(home.config().site.name)
    Agent(home, lambda news: None, worker).run()  # type: ignore[arg-type]  # the same two methods


if __name__ == "__main__":
    main()
