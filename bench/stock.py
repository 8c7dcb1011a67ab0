"""Stock Flower on this machine: a SuperLink, SuperNodes and `flwr run`, each a process.

Flower's favour is kept: no TLS, state in memory, no installation of dependencies at run time. The
clock runs in the ServerApp, from the end of one round to the end of the next, so that starting the
processes is not counted.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

APP = Path(__file__).parent / "stock_flower"
START_LIMIT_S = 60.0
ROUND_LIMIT_S = 60.0


def rounds(num_clients: int, num_rounds: int, *, num_values: int = 1) -> list[float]:
    """Seconds of each round, with clients that return the one array they get unchanged.

    Raises:
      RuntimeError: Flower did not come up or the run did not finish; the message holds the end of
        its log.
    """
    with tempfile.TemporaryDirectory(prefix="bench-flower-") as name, ExitStack() as stack:
        folder = Path(name)
        environment = _environment(folder)
        port, *node_ports = _free_ports(1 + num_clients)
        link = f"127.0.0.1:{port}"
        (folder / "config.toml").write_text(
            '[superlink]\ndefault = "bench"\n\n'
            f'[superlink.bench]\naddress = "{link}"\ninsecure = true\n',
            encoding="utf-8",
        )
        arguments = [
            "--insecure",
            "--disable-runtime-dependency-installation",
            "--port",
            str(port),
        ]
        stack.enter_context(_process("flower-superlink", arguments, folder, environment))
        _wait_for_port(port)
        for node_port in node_ports:
            arguments = ["--insecure", "--superlink", link, "--port", str(node_port)]
            stack.enter_context(_process("flower-supernode", arguments, folder, environment))
        times = folder / "times.json"
        overrides = (
            f"num-clients={num_clients} num-rounds={num_rounds} num-values={num_values} "
            f'times="{times}"'
        )
        _run_app(
            ["run", str(APP), "bench", "--stream", "--run-config", overrides],
            environment,
            limit_s=START_LIMIT_S + ROUND_LIMIT_S * num_rounds,
        )
        if not times.exists():
            raise RuntimeError(
                f"the run wrote no times; {_log_end(folder / 'flower-superlink.log')}"
            )
        stamps = json.loads(times.read_text(encoding="utf-8"))
    return [after - before for before, after in pairwise(stamps)]


def _environment(home: Path) -> Mapping[str, str]:
    scripts = str(Path(sys.executable).parent)
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]


@contextmanager
def _process(
    command: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a Flower command in a process group of its own; the whole group ends with the block."""
    with (folder / f"{command}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command), *arguments],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the SuperLink did not listen on port {port} within {START_LIMIT_S:.0f} s")


def _run_app(arguments: Sequence[str], environment: Mapping[str, str], *, limit_s: float) -> None:
    flwr = str(Path(sys.executable).parent / "flwr")
    try:
        done = subprocess.run(
            [flwr, *arguments],
            env=environment,
            timeout=limit_s,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"`flwr run` did not end within {limit_s:.0f} s") from None
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"`flwr run` ended with status {done.returncode}: {said}")


def _log_end(path: Path) -> str:
    return (
        path.read_text(encoding="utf-8", errors="replace")[-2000:] if path.exists() else "no log"
    )
