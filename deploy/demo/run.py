"""The whole federation on one machine: `python -m deploy.demo.run --out DIR`.

A thin script over the three commands: what it does, a person can do by hand, line by line, with
docs/operate/. Each party is its own processes with its own folder, keys and data; they meet on one
TLS port of 127.0.0.1.
"""

import argparse
import contextlib
import ctypes
import gzip
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo import generate

Json = Any
MARKER = ".cloister-demo"
SUFFIX = ".jsonl.gz"
# Names in the folder that are no site's.
OWN_NAMES = frozenset({"coordinator", "data", "log"})
FEDERATION = "demo"
RUN_LIMIT_S = 1800.0
READY_S = 120.0
HELD_OUT_SHARE = 0.2
BIN = Path(sys.executable).parent
DEFAULT_PLAN = Path(__file__).with_name("PLAN.toml")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class DemoError(Exception):
    """The demo cannot go on; the message says why, and what to do."""


@dataclass
class Party:
    """A site of the demo: its data, and what is known of it while it runs."""

    name: str
    data: Path
    unit: str
    num_units: int
    home: Path
    news: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def hear(self, line: str) -> None:
        """Take one line of what the site's agent tells."""
        self.news.update(json.loads(line))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.run",
        description="A coordinator and several institutions train one adapter on this machine.",
        epilog="example: python -m deploy.demo.run --out demo-out --data parties --sites a,b",
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="default: demo-out")
    parser.add_argument("--data", type=Path, help="folder with one .jsonl.gz a site")
    parser.add_argument("--sites", default="", help="names of the files to use, a,b,c")
    parser.add_argument(
        "--plan", type=Path, default=DEFAULT_PLAN, help="plan to run (default: the demo's own)"
    )
    args = parser.parse_args(argv)
    for number in _STOPS:
        signal.signal(number, _stop.take)
    processes: list[subprocess.Popen[str]] = []
    try:
        return _demo(args.out.resolve(), args.data, args.sites, args.plan, processes)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    finally:
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)
        _end(processes)


class _Stop:
    """Ctrl-C and SIGTERM as KeyboardInterrupt, put off while a process is being started.

    In the middle of a start the exception would lose the process, or be lost itself: Python drops
    what is raised in the hooks that it runs around a fork.
    """

    def __init__(self) -> None:
        self._is_put_off = False
        self._is_asked = False

    def take(self, _number: int, _frame: object) -> None:
        """Handle the signal."""
        self._is_asked = True
        if not self._is_put_off:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Let a stop wait until the block is over."""
        self._is_put_off = True
        try:
            yield
        finally:
            self._is_put_off = False
        if self._is_asked:
            raise KeyboardInterrupt


_STOPS = (signal.SIGINT, signal.SIGTERM)
_stop = _Stop()


def _demo(
    out: Path,
    data: Path | None,
    sites: str,
    plan: Path,
    processes: list[subprocess.Popen[str]],
) -> int:
    begun = time.monotonic()
    # Everything that can be wrong with the call is found before an earlier demo is cleaned away.
    if data is None:
        _check_generated(sites)
    sources = [] if data is None else _sources(data.resolve(), sites, out)
    plan_text = plan.read_text(encoding="utf-8")
    _clean(out)
    if data is None:
        generate.generate(out / "data")
        sources = _sources(out / "data", sites)
    parties = _parties(out, sources)
    coordinator = out / "coordinator"
    _say(f"{len(parties)} sites: {', '.join(p.name for p in parties)}")
    address = f"127.0.0.1:{_free_port()}"
    _enrol(coordinator, address, parties, processes)
    _say("enrolled; each site has its own folder, keys and data")
    _start(parties, processes)
    plan_file = out / "PLAN.toml"
    plan_file.write_text(_plan_text(plan_text, parties))
    _say("connected; the plan is offered; each site masks planted examples and decides")
    rounds = _run(coordinator, plan_file, parties, processes)
    _end(processes)
    report = conclude(out, coordinator, parties, rounds)
    _say(f"\nreport: {report}   ({time.monotonic() - begun:.0f} s)")
    return 0


def _clean(out: Path) -> None:
    """Empty the folder of an earlier demo; never one that holds anything else."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise DemoError(f"expected an empty folder or an earlier demo, got {out}; choose another")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def _check_generated(sites: str) -> None:
    """Without data of one's own, the sites are those whose records are generated."""
    names = [site.name for site in generate.SITES]
    for name in filter(None, sites.split(",")):
        if name not in names:
            raise DemoError(
                f"expected sites from {', '.join(names)}, got {name!r}; for others, name the "
                "folder of their records with --data (make demo DATA=...)"
            )


def _sources(data: Path, sites: str, out: Path | None = None) -> list[Path]:
    """The files of the sites; in `out`, which is about to be cleaned, there may be none."""
    if out is not None and data.is_relative_to(out):
        raise DemoError(f"expected records outside {out}, which is cleaned, got {data}")
    if not data.is_dir():
        raise DemoError(f"expected a folder with one {SUFFIX} file a site, got no folder {data}")
    names = [name for name in sites.split(",") if name] or [
        path.name.removesuffix(SUFFIX) for path in data.glob(f"*{SUFFIX}")
    ]
    sources = [data / f"{name}{SUFFIX}" for name in sorted(set(names))]
    for source in sources:
        if not source.is_file():
            raise DemoError(f"expected {source}, got no such file")
        if source.name.removesuffix(SUFFIX) in OWN_NAMES:
            raise DemoError(f"expected another name than that of {source}: the demo uses it")
    if len(sources) < 2:
        raise DemoError(f"expected at least two sites in {data}, got {len(sources)}")
    return sources


def _parties(out: Path, sources: Sequence[Path]) -> list[Party]:
    parties = []
    for source in sources:
        name = source.name.removesuffix(SUFFIX)
        home = out / name
        own = home / "data" / source.name
        own.parent.mkdir(parents=True)
        shutil.copyfile(source, own)
        num_units, has_units = _count(own)
        parties.append(
            Party(
                name=name,
                data=own,
                unit="person" if has_units else "record",
                num_units=_rounded(num_units * (1 - HELD_OUT_SHARE)),
                home=home,
            )
        )
    units = {party.unit for party in parties}
    if len(units) > 1:
        raise DemoError("expected unit_id in the files of all sites or of none, got a mixture")
    return parties


def _count(path: Path) -> tuple[int, bool]:
    """Units in a file, and whether its rows name them; a person would know this of their data."""
    ids, has_units = set(), False
    try:
        with gzip.open(path, "rt", encoding="utf-8") as rows:
            for row in rows:
                values = json.loads(row)
                has_units = has_units or "unit_id" in values
                ids.add(values.get("unit_id") or (values.get("source"), values["id"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        # `from None`: these exceptions carry what they failed on.
        raise DemoError(
            f"expected records in {path.name}: gzip, one JSON object with an id a line"
        ) from None
    return len(ids), has_units


def _rounded(number: float) -> int:
    """Two significant digits: near the true number, and not it."""
    digits = int("1" + "0" * max(0, len(str(int(number))) - 2))
    return max(1, int(number) // digits * digits)


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the commands ------------------------------------------------------------------------------


def _command(name: str, *arguments: str) -> list[str]:
    return [str(BIN / name), *arguments]


def _call(name: str, *arguments: str, secret: str = "") -> Json:
    """Run a command to its end and return its JSON."""
    environment = {**os.environ, **({"CLOISTER_CA_PASSPHRASE": secret} if secret else {})}
    done = subprocess.run(
        _command(name, *arguments, "--json"),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        raise DemoError(f"{name} {arguments[0]} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def _enrol(
    coordinator: Path,
    address: str,
    parties: list[Party],
    processes: list[subprocess.Popen[str]],
) -> None:
    """The coordinator's init and start; each site's init, approval, enrolment.

    Each command takes a second of a core: two run at a time, and a site is approved while the one
    before it enrols.
    """
    passphrase = secrets.token_urlsafe(18)
    home = ("--home", str(coordinator))
    delta = _delta(parties)

    def init(party: Party) -> Json:
        return _call(
            "cloister-site", "init", "--home", str(party.home), "--name", party.name,
            "--federation", FEDERATION, "--coordinator", address, "--data", str(party.data),
            "--unit", party.unit, "--population", "records", "--units", str(party.num_units),
            "--epsilon", "8", "--delta", str(delta),
        )  # fmt: skip

    def enrol(party: Party, kit: str, fingerprint: str) -> None:
        _call(
            "cloister-site", "enrol", "--home", str(party.home), kit,
            "--fingerprint", fingerprint,
        )  # fmt: skip

    with ThreadPoolExecutor(max_workers=2) as pool:
        made = pool.submit(
            _call, "cloister-coordinator", "init", *home, "--name", FEDERATION,
            "--address", address, "--listen", address, secret=passphrase,
        )  # fmt: skip
        requests = [pool.submit(init, party) for party in parties]
        fingerprint = made.result()["fingerprint"]
        _serve(coordinator, processes)
        enrolled = []
        for party, asked in zip(parties, requests, strict=True):
            request = asked.result()
            # The two fingerprints are compared here as two people would by voice.
            approved = _call(
                "cloister-coordinator", "approve", *home, request["request"],
                "--fingerprint", request["fingerprint"], secret=passphrase,
            )  # fmt: skip
            enrolled.append(pool.submit(enrol, party, approved["kit"], fingerprint))
        for done in enrolled:
            done.result()


def _delta(parties: list[Party]) -> float:
    """A power of ten below 1 / the largest site's number of units."""
    most = max(party.num_units for party in parties)
    return float(f"1e-{len(str(most))}")


def _serve(coordinator: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Start the coordinator and wait until it serves."""
    served = _spawn(
        processes, coordinator / "coordinator.log",
        "cloister-coordinator", "start", "--home", str(coordinator), "--json",
    )  # fmt: skip
    ready = threading.Event()
    _follow(served, lambda line: ready.set())
    _await(ready.is_set, [served], "the coordinator")


def _start(parties: list[Party], processes: list[subprocess.Popen[str]]) -> None:
    """Start every agent, and wait until the sites are connected."""
    for party in parties:
        party.process = _spawn(
            processes, party.home / "agent.log",
            "cloister-site", "start", "--home", str(party.home), "--json",
        )  # fmt: skip
        _follow(party.process, party.hear)
    _await(
        lambda: all(party.news.get("state") for party in parties), processes, "every site's agent"
    )


def _end_with_demo() -> None:
    """In a new process: ask the kernel to stop it when the demo ends, even by kill -9."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _spawn(
    processes: list[subprocess.Popen[str]], log: Path, name: str, *arguments: str
) -> subprocess.Popen[str]:
    """Start a process in a session of its own, so that Ctrl-C reaches it through us only."""
    with log.open("ab") as errors, _stop.put_off():
        process = subprocess.Popen(
            _command(name, *arguments),
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            preexec_fn=_end_with_demo if sys.platform == "linux" else None,
        )
        processes.append(process)
    return process


def _follow(process: subprocess.Popen[str], take: Callable[[str], object]) -> None:
    """Hand every line of a process's stdout to `take`, in a thread."""

    def read() -> None:
        for line in process.stdout or ():
            with contextlib.suppress(ValueError):
                take(line)

    threading.Thread(target=read, daemon=True).start()


def _await(
    done: Callable[[], bool], processes: Sequence[subprocess.Popen[str]], what: str
) -> None:
    deadline = time.monotonic() + READY_S
    pause = threading.Event()
    while not done():
        ended = [p for p in processes if p.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise DemoError(f"expected {what} to start; the *.log files in its folder say why")
        pause.wait(0.1)


def _plan_text(text: str, parties: list[Party]) -> str:
    """The plan, with the unit, the delta and the quorum that fit these parties."""
    for name, value in (
        ("UNIT", parties[0].unit),
        ("DELTA", str(_delta(parties))),
        ("MIN_SITES", str(max(2, len(parties) - 1))),
    ):
        text = text.replace("{" + name + "}", value)
    return text


def _run(
    coordinator: Path,
    plan_file: Path,
    parties: list[Party],
    processes: list[subprocess.Popen[str]],
) -> dict[str, Any]:
    """Offer the plan, have every site approve it, and show progress until the run is over."""
    log = coordinator / "run.log"
    run = _spawn(
        processes, log,
        "cloister-coordinator", "run", str(plan_file), "--home", str(coordinator), "--json",
    )  # fmt: skip
    ended: list[str] = []
    _follow(run, ended.append)

    def approve(party: Party) -> None:
        _call(
            "cloister-site", "approve-plan", "--home", str(party.home), "--yes",
            "--wait", str(READY_S),
        )  # fmt: skip
        _say(f"  {party.name:14} approved")

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(approve, parties))
    screen = _Screen()
    deadline = time.monotonic() + RUN_LIMIT_S
    pause = threading.Event()
    while run.poll() is None:
        screen.show(parties, _last_line(log))
        gone = [p.name for p in parties if p.process is not None and p.process.poll() is not None]
        if gone or time.monotonic() > deadline:
            raise DemoError(f"the agent of {', '.join(gone) or 'a site'} ended; see agent.log")
        pause.wait(0.5)
    screen.show(parties, _last_line(log))
    if run.returncode != 0:
        raise DemoError(f"the run did not finish: {log.read_text().strip()[-500:]}")
    return dict(json.loads("".join(ended)))


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    rounds = [line for line in lines if line.startswith("round ")]
    return rounds[-1] if rounds else (lines[-1] if lines else "")


def conclude(
    out: Path, coordinator: Path, parties: list[Party], rounds: Mapping[str, Any]
) -> Path:
    """Hand the log to the auditor, verify, report, and write summary.json; returns the report."""
    log = out / "log"
    shutil.copytree(coordinator / "log", log)
    results = {p.name: json.loads((p.home / "results.json").read_text()) for p in parties}
    report = out / "report.html"
    handed = [
        str(argument) for p in parties for argument in ("--results", p.home / "results.json")
    ]
    with ThreadPoolExecutor(max_workers=2) as pool:
        verifying = pool.submit(_call, "cloister-audit", "verify", str(log))
        _call("cloister-audit", "report", str(log), "--out", str(report), *handed)
        verified = verifying.result()
    summary = {
        "sites": {
            name: {
                key: result[key]
                for key in (
                    "base", "alone", "federated", "epsilon", "delta", "unit",
                    "bytes_up", "bytes_down",
                )
            } | {"rounds": result.get("rounds", [])}
            for name, result in results.items()
        },
        "round_s": [r["seconds"] for r in rounds["rounds"]],
        "log_entries": (log / "entries.jsonl").read_bytes().count(b"\n"),
        "verified": verified["verified"],
    }  # fmt: skip
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for line in _table(results):
        _say(line)
    _say(f"log: {summary['log_entries']} entries, verified")
    return report


def _table(sites: Mapping[str, Json]) -> Iterator[str]:
    """Losses and accuracies on the held-out units, one site a line."""
    yield ""
    yield f"{'':14} {'loss on held-out units':^26}   {'accuracy':^26}"
    head = "".join(f"{name:>9}" for name in ("base", "alone", "fed."))
    yield f"{'site':14}{head}  {head}   {'epsilon':>8} {'sent':>10}"
    for name, site in sites.items():
        cells = [
            f"{site[model][key]:9.3f}" if site[model] else f"{'-':>9}"
            for key in ("loss", "accuracy")
            for model in ("base", "alone", "federated")
        ]
        sent = f"{site['bytes_up'] / 1e6:.2f} MB"
        losses, accuracies = "".join(cells[:3]), "".join(cells[3:])
        yield f"{name:14}{losses}  {accuracies}   {site['epsilon']:8.3f} {sent:>10}"


class _Screen:
    """One line a site, redrawn on a terminal; on anything else, a line when something changes."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._num_drawn = 0
        self._last: dict[str, str] = {}

    def show(self, parties: list[Party], run: str) -> None:
        """Show where every site stands."""
        lines = {party.name: _site_line(party.news) for party in parties}
        lines[""] = run
        if self._tty:
            up = f"\x1b[{self._num_drawn}F" if self._num_drawn else ""
            body = "".join(f"\x1b[2K  {name:14} {line}\n" for name, line in lines.items())
            print(up + body, end="", file=sys.stderr, flush=True)
            self._num_drawn = len(lines)
            return
        for name, line in lines.items():
            if self._last.get(name) != line and line:
                print(f"  {name:14} {line}", file=sys.stderr, flush=True)
        self._last = lines


def _site_line(news: Mapping[str, Any]) -> str:
    words = [str(news.get("stage") or news.get("state") or "")]
    if "server_round" in news:
        words.append(f"round {news['server_round']}/{news.get('num_rounds', '?')}")
    if news.get("stage") == "masking":
        words.append(f"{news.get('records', 0)} records")
    if "steps" in news:
        words.append(f"{news['steps']} steps")
    if "loss" in news:
        words.append(f"loss {news['loss']:.2f}")
    if "held_out_accuracy" in news:
        words.append(f"accuracy {100 * news['held_out_accuracy']:.0f} %")
    if "epsilon" in news:
        words.append(f"epsilon {news['epsilon']:.2f} of {news['budget']:g}")
    if "bytes_up" in news:
        words.append(f"sent {news['bytes_up'] / 1e6:.2f} MB")
    return "  ".join(words)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end(processes: list[subprocess.Popen[str]]) -> None:
    """End every process, the youngest first; none is left behind."""
    running = [process for process in reversed(processes) if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
