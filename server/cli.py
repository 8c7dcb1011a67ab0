"""`cloister-coordinator`: make a federation, enrol sites, run plans."""

import argparse
import getpass
import os
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from privacy import console, transit
from privacy.audit.entry import Event
from privacy.audit.opening import check_value
from privacy.durable import replace_file, sync_folder
from privacy.errors import ConfigError
from privacy.pki.authority import (
    Authority,
    generate_tls_key,
    load_tls_key,
    save_tls_key,
    serial,
)
from privacy.pki.enrolment import (
    Member,
    coordinator_fingerprint,
    days_left,
    make_kit,
    read_request,
)
from privacy.pki.identity import Algorithm, SigningKey
from server.config import DEFAULT_LISTEN, FILE_NAME, FederationConfig, load, template
from server.roster import Roster

PASSPHRASE_VARIABLE = "CLOISTER_CA_PASSPHRASE"  # noqa: S105  a name, not a passphrase
SOON_DAYS = 30
SITE_CERTIFICATE_HINT = "send it to the site: cloister-site enrol"


def _parser() -> console.Parser:
    parser = console.Parser(
        prog="cloister-coordinator",
        description="Coordinate a federation: enrol sites, run plans, keep the log.",
        example="cloister-coordinator init --name regio --address fl.example.org:9092",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=help_text, description=help_text, example=f"cloister-coordinator {example}"
        )
        command.add_argument(
            "--home", type=Path, default=Path(), help="the coordinator's folder (default: .)"
        )
        command.add_argument("--json", action="store_true", help="results as JSON on stdout")
        return command

    init = add(
        "init",
        "Make a federation: its authority, the coordinator's keys, an empty log.",
        "init --name regio --address fl.example.org:9092",
    )
    init.add_argument("--name", required=True, help="name of the federation, a-z 0-9 _ -")
    init.add_argument("--address", required=True, help="host:port under which sites reach you")
    init.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        help=f"where the one port is opened (default: {DEFAULT_LISTEN})",
    )
    init.add_argument(
        "--plain-key",
        action="store_true",
        help="keep the authority's key unencrypted: whoever reads it can enrol anyone",
    )
    init.add_argument(
        "--algorithm",
        choices=[algorithm.value for algorithm in Algorithm],
        default=Algorithm.ED25519.value,
        help="how the coordinator signs (default: ed25519); it cannot change later",
    )
    approve = add(
        "approve",
        "Enrol the site of a request, or renew its certificate.",
        'approve request.json --fingerprint "3f2a 91c0 ..." --out hospital_a-kit.json',
    )
    approve.add_argument("request", type=Path, help="the site's request.json")
    approve.add_argument(
        "--out", type=Path, help="where the kit goes (default: kits/SITE.json in --home)"
    )
    approve.add_argument(
        "--fingerprint", default="", help="as the site read it out; approves only if it is this"
    )
    approve.add_argument(
        "--yes", action="store_true", help="approve without a comparison by voice"
    )
    _add_decision(approve)
    revoke = add(
        "revoke",
        "Shut a site out, at once and for good with its keys.",
        "revoke hospital_a",
    )
    revoke.add_argument("site", help="name of the site")
    _add_decision(revoke)
    add(
        "renew",
        "Issue the coordinator's own certificate again, for the same key and the hosts of now.",
        "renew",
    )
    add("start", "Serve the sites, until stopped. Goes on with an interrupted run.", "start")
    run = add(
        "run",
        "Offer a plan to the sites, start it when its quorum has approved, and watch it.",
        "run PLAN.toml",
    )
    run.add_argument("plan", type=Path, help="PLAN.toml, see docs/operate/coordinator.md")
    run.add_argument(
        "--wait",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to wait for the other sites once the quorum has approved (default: 60)",
    )
    run.add_argument("--detach", action="store_true", help="offer the plan and return")
    _add_decision(run)
    add("status", "Show sites, runs and rounds.", "status --json")
    merged = add(
        "export",
        "Write the base with a finished run's last adapter in its weights.",
        "export triage-model --run triage",
    )
    merged.add_argument("folder", type=Path, help="a new folder, which transformers loads")
    merged.add_argument(
        "--run", default="", help="name of the run (default: the only one that is finished)"
    )
    merged.add_argument(
        "--base", type=Path, metavar="FOLDER", help="the run's base (default: the embedded one)"
    )
    stop = add(
        "stop",
        "Stop serving; with --run, stop one run for good.",
        "stop\ncloister-coordinator stop --run pilot-1",
    )
    stop.add_argument("--run", default="", help="name of the run to stop")
    return parser


def _add_decision(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--by",
        default="",
        metavar="NAME",
        help="who decides; the log gets a commitment, the name stays in state/openings.jsonl",
    )
    command.add_argument("--reason", default="", metavar="TEXT", help="why, kept in the same way")


def _decision(args: argparse.Namespace) -> dict[str, Any]:
    """Who decides and why, checked before anything is done."""
    given = {name: getattr(args, name) for name in ("by", "reason") if getattr(args, name)}
    for name, value in given.items():
        check_value(value, f"--{name}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    handlers = {
        "init": _init,
        "approve": _approve,
        "revoke": _revoke,
        "renew": _renew,
        "start": _start,
        "run": _run,
        "status": _status,
        "stop": _stop,
        "export": _export,
    }
    return console.run(_parser(), handlers, argv)


def _passphrase(*, new: bool) -> str:
    """The passphrase of the authority's key, from the environment or from the person."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise ConfigError(
            "expected the passphrase of the authority's key",
            hint=f"set {PASSPHRASE_VARIABLE}, or run the command in a terminal",
        )
    first = getpass.getpass("passphrase of the authority's key: ")
    if new and getpass.getpass("the same again: ") != first:
        raise ConfigError("the two passphrases differ")
    return first


def _init(args: argparse.Namespace) -> int:
    home: Path = args.home
    if (home / FILE_NAME).exists():
        raise ConfigError(
            f"{home / FILE_NAME} exists already", hint="choose an empty folder with --home"
        )
    settings = template(
        name=args.name, address=args.address, listen=args.listen, algorithm=args.algorithm
    )
    passphrase = "" if args.plain_key else _passphrase(new=True)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    now = datetime.now(UTC)
    # The settings come last: a crash on the way leaves a folder that init refuses to call whole.
    draft = home / f".{FILE_NAME}"
    draft.write_text(settings, encoding="utf-8")
    config = load(draft)
    authority = Authority.create(
        config.authority_folder,
        federation=config.name,
        passphrase=passphrase,
        at=now,
        plain=args.plain_key,
    )
    tls_key = generate_tls_key()
    save_tls_key(tls_key, config.keys_folder / "tls.key")
    certificate = authority.issue_server_certificate(
        tls_key.public_key(),
        hosts=config.certificate_hosts,
        valid_for=timedelta(days=config.server_certificate_days),
        at=now,
    )
    (config.keys_folder / "tls.pem").write_bytes(certificate)
    (config.keys_folder / "ca.pem").write_bytes(authority.ca_pem)
    key = SigningKey.generate(Algorithm(config.signature_algorithm))
    key.save(config.keys_folder / "signing.key")
    draft.replace(home / FILE_NAME)
    config = load(home)
    from server.evidence import Evidence

    evidence = Evidence(config, key)
    evidence.record(Event.FEDERATION_CREATED, federation=config.name)
    evidence.log.close()
    print_ = coordinator_fingerprint(authority.ca_pem, key.public_key)
    if args.json:
        console.result_json({"federation": config.name, "fingerprint": print_})
    else:
        console.say(f"federation {config.name} is ready in {home.resolve()}")
        console.say("sites compare this fingerprint with you by voice when they enrol:")
        console.result(print_)
    return console.OK


def _signing_key(config: FederationConfig) -> SigningKey:
    algorithm = Algorithm(config.signature_algorithm)
    return SigningKey.load(config.keys_folder / "signing.key", algorithm)


def _approve(args: argparse.Namespace) -> int:
    config, decision = load(args.home), _decision(args)
    try:
        content = args.request.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {args.request}: {error.strerror}") from None
    request = read_request(content, federation=config.name)
    from server.control import control
    from server.evidence import PARTY, Evidence

    if request.site == PARTY:
        raise ConfigError(f"expected another name than {PARTY!r}: it is the coordinator's")
    console.say(f"site         {request.site}, {request.num_units} units declared")
    console.say(f"fingerprint  {request.fingerprint}")
    if not _agreed(args.fingerprint, request.fingerprint, yes=args.yes):
        raise ConfigError(
            "not approved", hint="have the site read out the fingerprint that its init printed"
        )
    authority = _authority(config)
    now = datetime.now(UTC)
    certificate_pem = authority.issue_site_certificate(
        request.csr_pem,
        site=request.site,
        valid_for=timedelta(days=config.site_certificate_days),
        at=now,
    )
    from cryptography import x509

    with Roster(config.roster_path) as roster:
        enrolment = roster.add(
            request.site,
            node_key=request.node_key,
            signing_key=request.signing_key,
            certificate_serial=serial(x509.load_pem_x509_certificate(certificate_pem)),
            num_units=request.num_units,
            at=now,
        )
        members = [
            Member(name=e.site, signing_key=e.signing_key) for e in roster.list() if e.active
        ]
    key = _signing_key(config)
    # The roster is the truth; a crash here enrols without an entry, and approving again mends it.
    if control(config, "Enrolled", site=request.site, **decision) is None:
        evidence = Evidence(config, key)
        evidence.enrolled(enrolment, decision)
        evidence.log.close()
    kit = make_kit(
        site=request.site,
        federation=config.name,
        address=config.address,
        ca_pem=authority.ca_pem,
        certificate_pem=certificate_pem,
        roster=members,
        signing_key=key,
        at=now,
    )
    out = args.out or args.home / "kits" / f"{request.site}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(kit)
    if args.json:
        console.result_json(
            {"site": request.site, "kit": str(out), "days": config.site_certificate_days}
        )
    else:
        console.say(f"valid for    {config.site_certificate_days} days")
        console.say(SITE_CERTIFICATE_HINT)
        console.result(str(out))
    return console.OK


def _authority(config: FederationConfig) -> Authority:
    plain = b"BEGIN PRIVATE KEY" in _read(config.authority_folder / "ca.key")
    return Authority.load(
        config.authority_folder, passphrase="" if plain else _passphrase(new=False)
    )


def _agreed(given: str, found: str, *, yes: bool) -> bool:
    """Whether the person agrees to the fingerprint, one way or another."""
    if given:
        return "".join(given.lower().split()) == "".join(found.lower().split())
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    console.say("does the site read out the same fingerprint? [yes/no]")
    return input().strip().lower() == "yes"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _revoke(args: argparse.Namespace) -> int:
    config, decision = load(args.home), _decision(args)
    from server.control import control
    from server.evidence import Evidence

    with Roster(config.roster_path) as roster:
        # From here on the engine refuses the site, on open connections too.
        roster.revoke(args.site, at=datetime.now(UTC))
    if control(config, "Revoked", site=args.site, **decision) is None:
        evidence = Evidence(config, _signing_key(config))
        evidence.record(Event.SITE_REVOKED, personal=decision, site=args.site)
        evidence.log.close()
    if args.json:
        console.result_json({"revoked": args.site})
    else:
        console.result(f"{args.site} is revoked")
    return console.OK


def _renew(args: argparse.Namespace) -> int:
    config = load(args.home)
    keys = config.keys_folder
    # The same key: nothing that was ever shown of the coordinator changes but the dates.
    public_key = load_tls_key(keys / "tls.key").public_key()
    certificate = _authority(config).issue_server_certificate(
        public_key,
        hosts=config.certificate_hosts,
        valid_for=timedelta(days=config.server_certificate_days),
        at=datetime.now(UTC),
    )
    replace_file(keys / "tls.pem", certificate)
    sync_folder(keys)
    days, hosts = config.server_certificate_days, config.certificate_hosts
    if args.json:
        console.result_json({"days": days, "hosts": list(hosts)})
    else:
        console.result(f"valid for {days} days, for {', '.join(hosts)}")
        console.say("a coordinator that is serving uses it from its next start on")
    return console.OK


def _check_certificate(certificate_pem: bytes) -> None:
    """Say that the coordinator's certificate ends soon; sites refuse one that is over."""
    now = datetime.now(UTC)
    left = days_left(certificate_pem, at=now)
    if left <= timedelta(0):
        raise ConfigError(
            f"the coordinator's certificate ended on {now + left:%Y-%m-%d}: no site would connect",
            hint="cloister-coordinator renew",
        )
    if left < timedelta(days=SOON_DAYS):
        console.say(
            f"note: the coordinator's certificate ends in {left.days} days:"
            " cloister-coordinator renew, then start again"
        )


def _start(args: argparse.Namespace) -> int:
    config = load(args.home)
    keys = config.keys_folder
    certificate_pem = _read(keys / "tls.pem")
    credentials = transit.server_credentials(
        ca_pem=_read(keys / "ca.pem"),
        certificate_pem=certificate_pem,
        key_pem=_read(keys / "tls.key"),
    )
    load_tls_key(keys / "tls.key")
    _check_certificate(certificate_pem)
    quiet_dependencies()
    from server.app import build_app
    from server.coordinator import Coordinator

    coordinator = Coordinator(config, _signing_key(config), credentials, build_app)
    for number in (signal.SIGINT, signal.SIGTERM):
        # In a thread: the signal interrupts this one, which may hold a lock that `stop` needs.
        signal.signal(number, lambda *_: threading.Thread(target=coordinator.stop).start())

    def ready(port: int) -> None:
        if args.json:
            console.result_json({"listening": port, "pid": os.getpid()})
        else:
            console.say(f"serving {config.name} on port {port}; stop with Ctrl-C")

    coordinator.serve(ready)
    return console.OK


def quiet_dependencies() -> None:
    """Turn off what dependencies would tell the internet or the terminal."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    import logging

    import flwr.app  # noqa: F401  its logger sets its level when it is first imported

    logging.getLogger("flwr").setLevel(logging.ERROR)


def _run(args: argparse.Namespace) -> int:
    config, decision = load(args.home), _decision(args)
    from server.control import control
    from server.planning import make_plan
    from server.registry import Registry
    from server.watch import watch

    if control(config, "Status") is None:
        raise ConfigError(
            "expected a running coordinator, got none", hint="cloister-coordinator start"
        )
    with Roster(config.roster_path) as roster:
        plan, initial = make_plan(args.plan, config, roster)
    Registry(config.adapters_folder).release(plan.tensors, initial, plan.adapter, plan.base.name)
    offered = control(
        config, "Offer", plan=plan.canonical().decode(), wait_s=args.wait, **decision
    )
    if offered and offered["without_key"]:
        console.say(
            f"note: no witness's key yet of {', '.join(offered['without_key'])}; the run is over"
            " once the quorum of witnesses has cosigned it"
        )
    console.say(f"plan {plan.digest} is offered to {', '.join(s.name for s in plan.sites)}")
    mechanism = plan.mechanism
    console.say(
        f"epsilon {mechanism.target_epsilon:g} at delta {mechanism.delta:g}, noise multiplier "
        f"{mechanism.noise_multiplier:g}, {plan.rounds.num_rounds} rounds"
    )
    if plan.exposure.tracers:
        console.say(f"{plan.exposure.tracers} tracers at each site, to measure exposure")
    if args.detach:
        _show({"plan": plan.digest, "run": plan.run}, args.json, plan.digest)
        return console.OK
    return watch(config, plan.digest, as_json=args.json)


def _show(value: object, as_json: bool, text: str) -> None:
    if as_json:
        console.result_json(value)
    else:
        console.result(text)


def _status(args: argparse.Namespace) -> int:
    config = load(args.home)
    from server.control import control
    from server.watch import offline_status, status_lines

    found = control(config, "Status")
    running = found is not None
    if found is None:
        found = offline_status(config)
    _show({"running": running, **found}, args.json, status_lines(found, running=running))
    return console.OK


def _export(args: argparse.Namespace) -> int:
    config = load(args.home)
    quiet_dependencies()
    from server.merging import export

    run = export(config, args.folder, run=args.run, base=args.base)
    found = {"folder": str(args.folder), "run": run.plan.run, "adapter": run.adapter}
    _show(found, args.json, str(args.folder))
    return console.OK


def _stop(args: argparse.Namespace) -> int:
    config = load(args.home)
    from server.control import control

    found = control(config, "Status")
    if found is None:
        raise ConfigError("expected a running coordinator, got none")
    if args.run:
        digests = [run["plan"] for run in found["runs"] if run["run"] == args.run]
        if not digests:
            raise ConfigError(f"expected the name of a run, got {args.run!r}")
        control(config, "StopRun", plan=digests[0])
    else:
        control(config, "Stop")
    _show({"stopped": args.run or config.name}, args.json, f"{args.run or config.name} stops")
    return console.OK


if __name__ == "__main__":
    sys.exit(main())
