"""`cloister-site`: run one institution's node, and decide what may leave it."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from client.config import (
    BudgetSection,
    DataSection,
    SiteConfig,
    SiteSection,
    format_config,
)
from client.home import SiteHome
from client.masking.arguments import add_arguments
from privacy import console
from privacy.audit.entry import Event, format_time
from privacy.audit.opening import check_value
from privacy.dp.config import Unit
from privacy.dp.ledger import TEST_RUN
from privacy.errors import ConfigError, OverMaskingError, PlanRefusedError, RecallError
from privacy.pki.authority import load_tls_key
from privacy.pki.enrolment import make_request, read_kit, read_request
from privacy.pki.identity import Algorithm, SigningKey
from privacy.plan import RunPlan

STOP_S = 10.0


def _parser() -> console.Parser:
    parser = console.Parser(
        prog="cloister-site",
        description="Run one institution's node. Nothing leaves it but what a plan allows that "
        "a person here approved.",
        example="cloister-site init --name hospital_a --federation regio \\\n"
        "  --coordinator fl.example.org:9092 --data notes.jsonl.gz --units 1000",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=help_text, description=help_text, example=f"cloister-site {example}"
        )
        command.add_argument(
            "--home", type=Path, default=Path(), help="the site's folder (default: .)"
        )
        command.add_argument("--json", action="store_true", help="results as JSON on stdout")
        return command

    init = add(
        "init",
        "Make the site's folder: settings, keys, and a request for enrolment.",
        "init --name hospital_a --federation regio --coordinator fl.example.org:9092 \\\n"
        "  --data notes.jsonl.gz --units 1000 --epsilon 8 --delta 1e-4",
    )
    init.add_argument("--name", required=True, help="name of the site, a-z 0-9 _ -")
    init.add_argument("--federation", required=True, help="name of the federation")
    init.add_argument("--coordinator", required=True, help="host:port of the coordinator")
    init.add_argument("--data", required=True, type=Path, help="the records, .jsonl or .jsonl.gz")
    init.add_argument(
        "--units",
        required=True,
        type=int,
        help="training units declared in public, a round number near the true one",
    )
    init.add_argument(
        "--unit",
        choices=[str(u) for u in Unit],
        default=str(Unit.RECORD),
        help="whom the guarantee protects; all but record go by unit_id (default: record)",
    )
    init.add_argument(
        "--population",
        default="records",
        help="name of the budget ledger, one per set of people (default: records)",
    )
    init.add_argument(
        "--epsilon", type=float, default=8.0, help="budget over all runs (default: 8)"
    )
    init.add_argument("--delta", type=float, default=1e-5, help="below 1 / units (default: 1e-5)")
    init.add_argument(
        "--algorithm",
        choices=[algorithm.value for algorithm in Algorithm],
        default=Algorithm.ED25519.value,
        help="how this site signs (default: ed25519)",
    )
    enrol = add(
        "enrol",
        "Take the coordinator's enrolment kit.",
        'enrol kit.json --fingerprint "3f2a 91c0 ..."',
    )
    enrol.add_argument("kit", type=Path, help="the kit that the coordinator sent")
    enrol.add_argument("--fingerprint", default="", help="as the coordinator read it out")
    enrol.add_argument("--yes", action="store_true", help="enrol without a comparison by voice")
    add("check", "Find what would keep this site from taking part, and say what to do.", "check")
    add(
        "cohort",
        "Show what the records are like, without a record and without small counts.",
        "cohort\ncloister-site cohort --json",
    )
    approve = add(
        "approve-plan",
        "Show the plans that are offered, and approve or refuse one.",
        "approve-plan\ncloister-site approve-plan sha256:5be1... --refuse",
    )
    approve.add_argument(
        "digest", nargs="?", default="", help="which plan (default: the only undecided one)"
    )
    approve.add_argument("--yes", action="store_true", help="approve without asking")
    approve.add_argument(
        "--refuse", action="store_true", help="refuse it, or take an approval back"
    )
    approve.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="seconds to wait for an offer"
    )
    approve.add_argument(
        "--by",
        default="",
        metavar="NAME",
        help="who decides; the log gets a commitment, the name stays in openings.jsonl here",
    )
    approve.add_argument("--reason", default="", metavar="TEXT", help="why, kept in the same way")
    add("start", "Connect and serve approved plans, until stopped.", "start")
    add("budget", "Show what was spent of the privacy budget, round by round.", "budget --json")
    add("sent", "List what left this site: when, how much, under which plan and round.", "sent")
    journal = add(
        "journal",
        "Show how much of this site's evidence the log has, and an entry that it refuses.",
        "journal\ncloister-site journal --set-aside 17",
    )
    journal.add_argument(
        "--set-aside",
        type=int,
        metavar="N",
        help="keep refused entry N here, and say in its place that this was done; stop the agent "
        "before, and have the coordinator reachable: the entry is sent to it once more",
    )
    witness = add(
        "witness",
        "Show the checkpoint of the coordinator's log that this site cosigned last.",
        "witness\ncloister-site witness --out hospital_a.checkpoint",
    )
    witness.add_argument(
        "--out", type=Path, metavar="FILE", help="write that checkpoint, to be compared by others"
    )
    witness.add_argument(
        "--resume",
        action="store_true",
        help="take work again, after a person looked into what stopped this site",
    )
    witness.add_argument(
        "--new-key",
        action="store_true",
        help="cosign with another key from now on, where the key or its memory was lost",
    )
    add("stop", "Stop the agent of this site.", "stop")
    _add_audit(
        add(
            "audit-privacy",
            "Attack this installation with made-up units and see whether it leaks more than a "
            "plan's epsilon allows. Reads no record, sends nothing. Exit code 1: it does.",
            "audit-privacy sha256:5be1...\ncloister-site audit-privacy plan.json --json",
        )
    )
    test = add(
        "test-privacy",
        "Attack a run's adapter with this site's own records, and look for the secrets of the "
        "plan's tracers, made-up units that this site trained on; exact figures stay here. With "
        "--release noised counts go into the log and spend budget, and the ranks of the secrets, "
        "which cost nothing; stop the agent before.",
        "test-privacy\ncloister-site test-privacy triage --release --epsilon 1\n"
        "cloister-site test-privacy triage --release --exposure-only",
    )
    test.add_argument("run", nargs="?", default="", help="its name or its plan's digest")
    test.add_argument(
        "--release", action="store_true", help="also put noised counts and ranks in the log"
    )
    test.add_argument(
        "--exposure-only",
        action="store_true",
        help="rank the tracers' secrets and nothing else: reads no record, spends no budget",
    )
    test.add_argument(
        "--epsilon",
        type=float,
        default=1.0,
        help="with --release: what the counts cost by themselves (default: 1)",
    )
    test.add_argument("--yes", action="store_true", help="release without asking")
    add_arguments(
        add(
            "mask",
            "Show what masking makes of records, and write masked copies. The preview prints text "
            "of records to this terminal, because it was asked to; nothing goes into a log.",
            "mask --input notes.jsonl --preview 20 --html preview.html\n"
            "cloister-site mask --input notes.jsonl --output masked.jsonl --keep id --stats",
        )
    )
    return parser


def _add_audit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "plan",
        help="digest of a plan approved here, or a file that holds a plan, also as "
        "`cloister-audit show LOG --event plan-offered --json` prints it",
    )
    add("--base", type=Path, metavar="DIR", help="folder of the base (default: this site's)")
    add(
        "--canaries",
        type=int,
        default=1000,
        metavar="N",
        help="made-up units; more are sharper (default: 1000)",
    )
    add(
        "--steps",
        type=_at_least_one,
        default=100,
        metavar="N",
        help="most steps of the plan that are audited (default: 100)",
    )
    add("--rank", type=_at_least_one, metavar="R", help="of the adapter (default: this site's)")
    add("--threads", type=_at_least_one, metavar="N", help="CPU threads (default: this site's)")
    add(
        "--sensitivity",
        type=float,
        default=1.0,
        metavar="X",
        help="make contributions X times too long on purpose, to see it found: try 4 (default: 1)",
    )


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    handlers = {
        "init": _init,
        "enrol": _enrol,
        "check": _check,
        "cohort": _cohort,
        "approve-plan": _approve_plan,
        "start": _start,
        "budget": _budget,
        "sent": _sent,
        "journal": _journal,
        "witness": _witness,
        "stop": _stop,
        "mask": _mask,
        "audit-privacy": _audit_privacy,
        "test-privacy": _test_privacy,
    }
    return console.run(_parser(), handlers, argv)


def _init(args: argparse.Namespace) -> int:
    home = SiteHome(args.home)
    if home.config_path.exists():
        raise ConfigError(
            f"{home.config_path} exists already", hint="choose an empty folder with --home"
        )
    try:
        config = SiteConfig(
            site=SiteSection(
                name=args.name,
                coordinator=args.coordinator,
                signature_algorithm=args.algorithm,
            ),
            data=DataSection(
                path=args.data.resolve(),
                unit=args.unit,
                population=args.population,
                num_units=args.units,
            ),
            budget=BudgetSection(epsilon=args.epsilon, delta=args.delta),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
    home.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Settings, journal and results are nobody else's to read, whoever made the folder.
    home.folder.chmod(0o700)
    home.make_keys(Algorithm(args.algorithm))
    request = make_request(
        federation=args.federation,
        site=config.site.name,
        tls_key=load_tls_key(home.tls_key_path),
        signing_key=SigningKey.load(home.signing_key_path),
        num_units=config.data.num_units,
    )
    home.request_path.write_bytes(request)
    # The settings come last: without them no other command takes the folder for a site's.
    home.config_path.write_text(format_config(config), encoding="utf-8")
    print_ = read_request(request).fingerprint
    if args.json:
        console.result_json({"request": str(home.request_path), "fingerprint": print_})
    else:
        console.say(f"settings: {home.config_path}; read them before you go on")
        console.say(f"send {home.request_path} to the coordinator, and read out by voice:")
        console.result(print_)
    return console.OK


def _enrol(args: argparse.Namespace) -> int:
    home = SiteHome(args.home)
    config = home.config()
    try:
        content = args.kit.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {args.kit}: {error.strerror}") from None
    kit = read_kit(
        content,
        site=config.site.name,
        tls_key=load_tls_key(home.tls_key_path),
        signing_key=home.signing_key(),
        at=datetime.now(UTC),
        expected_fingerprint=args.fingerprint,
    )
    console.say(f"federation   {kit.federation}")
    console.say(f"coordinator  {kit.address}")
    console.say(f"fingerprint  {kit.fingerprint}")
    if (
        not args.fingerprint
        and not args.yes
        and not _confirmed("Does the coordinator read out the same fingerprint? [yes/no]")
    ):
        raise ConfigError(
            "not enrolled", hint="compare the fingerprint with the coordinator by voice"
        )
    if kit.address != config.site.coordinator:
        raise ConfigError(
            f"the kit says that the coordinator is at {kit.address}, "
            f"{home.config_path} says {config.site.coordinator}",
            hint="correct `coordinator` in site.toml, or ask for another kit",
        )
    partial = home.kit_path.with_suffix(".next")
    partial.write_bytes(content)
    partial.replace(home.kit_path)
    from client.custody import prepare_witness

    prepare_witness(home)
    if args.json:
        console.result_json({"federation": kit.federation, "fingerprint": kit.fingerprint})
    else:
        console.result(f"{config.site.name} is enrolled in {kit.federation}")
    return console.OK


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    console.say(question)
    return input().strip().lower() == "yes"


def _check(args: argparse.Namespace) -> int:
    from client.check import check_site

    findings = check_site(SiteHome(args.home).folder)
    if args.json:
        console.result_json(
            [{"name": f.name, "ok": f.ok, "found": f.found, "next": f.advice} for f in findings]
        )
    else:
        for finding in findings:
            console.result(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.found}")
            if not finding.ok:
                console.result(f"      next: {finding.advice}")
    return console.OK if all(finding.ok for finding in findings) else console.FAILED


def _cohort(args: argparse.Namespace) -> int:
    from client.cohort import format_cohort
    from client.dataset import survey

    def progress(num_records: int) -> None:
        if num_records % 100_000 == 0:
            console.say(f"{num_records:,} records read")

    config = SiteHome(args.home).config()
    cohort = survey(config, progress=progress)
    if config.data.takes_all and not config.data.text_columns:
        console.say("{*} has no text_columns yet: counted with those that check proposes")
    if args.json:
        console.result_json(cohort.to_json())
    else:
        for line in format_cohort(cohort):
            console.result(line)
    return console.OK


def _approve_plan(args: argparse.Namespace) -> int:
    from client.link import Link
    from client.policy import PlanRuleError, describe
    from client.witness import check_stopped

    home = SiteHome(args.home)
    check_stopped(home)
    decision = {name: getattr(args, name) for name in ("by", "reason") if getattr(args, name)}
    for name, value in decision.items():
        check_value(value, f"--{name}")
    config, kit, journal = home.config(), home.kit(), home.journal()
    link = Link(home.channel())
    try:
        plan = _offered(args, link.plans, journal.decision)
        ledger = home.ledger()
        console.say(describe(plan))
        console.say(
            f"spent        epsilon {ledger.spent().epsilon:.3f} of {ledger.budget_epsilon:g}"
        )
        subjects = {"plan": plan.digest}
        try:
            _decide(args, plan, config, kit.federation, home)
        except PlanRuleError as error:
            kept = home.openings().commit(config.site.name, Event.PLAN_REFUSED, decision)
            journal.decide(plan, approved=False)
            journal.record(Event.PLAN_REFUSED, subjects, rule=error.rule, **kept)
            journal.flush(link.append)
            if args.refuse:
                _show(args, {"plan": plan.digest, "approved": False}, f"refused {plan.digest}")
                return console.OK
            raise PlanRefusedError(
                f"this site's rule {error.rule} forbids the plan: {error}", hint=error.hint
            ) from None
        # Before the decision: where the name cannot be kept, nothing is approved.
        kept = home.openings().commit(config.site.name, Event.PLAN_APPROVED, decision)
        journal.decide(plan, approved=True)
        journal.record(Event.PLAN_APPROVED, subjects, **kept)
        journal.flush(link.append)
    finally:
        link.close()
        journal.close()
    _show(args, {"plan": plan.digest, "approved": True}, f"approved {plan.digest}")
    return console.OK


def _decide(
    args: argparse.Namespace, plan: RunPlan, config: SiteConfig, federation: str, home: SiteHome
) -> None:
    """Return when the plan is approved.

    Raises:
      PlanRuleError: This site's policy, its budget or the person refuses it.
      ConfigError: The person decided nothing, or a setting or a key cannot be used.
      MaskingError: The recognisers cannot be built.
    """
    from client.policy import PlanRuleError, check_budget, check_plan

    if args.refuse:
        raise PlanRuleError("refused-by-person", "a person here refused the plan")
    check_plan(plan, config, federation)
    check_budget(plan, home.ledger())
    _check_masking(plan, config, home)
    if not args.yes and not _confirmed("Approve this plan, with the digest above? [yes/no]"):
        raise ConfigError("nothing decided", hint="answer yes, or run it with --yes or --refuse")


def _check_masking(plan: RunPlan, config: SiteConfig, home: SiteHome) -> None:
    """Mask the planted examples now: what fails here would fail in each round, and spend it.

    Raises:
      PlanRuleError: Too few are found, or too much else is masked.
      ConfigError: The site's own notes cannot be read or fall short, or a key is missing.
      MaskingError: The recognisers cannot be built or failed.
    """
    # Imported where it is needed: recognisers take seconds to load.
    from client.gate import pass_canaries
    from client.policy import PlanRuleError
    from privacy.masking.masker import Masker

    # Only the figures of planted examples are a reason to refuse: what a person here can repair,
    # and what follows from own notes, must not end up signed in the evidence as a decision.
    key = home.surrogate_key() if plan.masking.mode == "surrogate" else None
    masker = Masker(plan.masking, key, ner=config.masking.ner)
    try:
        pass_canaries(masker, config, plan)
    except RecallError as error:
        raise PlanRuleError("recall-floor", str(error), hint=error.hint) from None
    except OverMaskingError as error:
        raise PlanRuleError("max-over-masking", str(error), hint=error.hint) from None


def _offered(
    args: argparse.Namespace,
    plans: Callable[[], list[RunPlan]],
    decision: Callable[[str], bool | None],
) -> RunPlan:
    """The plan to decide on: the one with the digest, else the only undecided one."""
    deadline = time.monotonic() + args.wait
    pause = threading.Event()
    while True:
        offered = {plan.digest: plan for plan in plans()}
        undecided = [plan for plan in offered.values() if decision(plan.digest) is None]
        if args.digest in offered:
            chosen: RunPlan = offered[args.digest]
            return chosen
        if not args.digest and len(undecided) == 1:
            return undecided[0]
        if len(undecided) > 1 and not args.digest:
            listed = ", ".join(plan.digest for plan in undecided)
            raise ConfigError(
                f"expected one undecided plan, got {len(undecided)}: {listed}",
                hint="name the digest of the one that you decide on",
            )
        if time.monotonic() >= deadline:
            raise ConfigError(
                f"expected an offered plan{' ' + args.digest if args.digest else ''}, got none",
                hint="the coordinator offers one with: cloister-coordinator run PLAN",
            )
        pause.wait(0.5)


def _start(args: argparse.Namespace) -> int:
    import logging

    from client.agent import Agent

    # Flower's own messages name nodes and runs, and repeat what stands in ours.
    logging.getLogger("flwr").setLevel(logging.ERROR)
    home = SiteHome(args.home)
    # Before the lock: no file is made where there is no site.
    home.config()
    with home.agent_lock():
        agent = Agent(home, _tell_json if args.json else _tell)
        for number in (signal.SIGINT, signal.SIGTERM):
            # In a thread: the signal interrupts this one, which may be in the call that is to end.
            signal.signal(number, lambda *_: threading.Thread(target=agent.stop).start())
        agent.run()
    return console.OK


def _tell_json(news: Mapping[str, object]) -> None:
    import json

    print(json.dumps({"at": format_time(datetime.now(UTC)), **news}), flush=True)


def _tell(news: Mapping[str, object]) -> None:
    rest = {key: value for key, value in news.items() if key not in ("site", "state", "stage")}
    words = [str(news.get("stage") or news.get("state") or "")]
    words += [f"{key.replace('_', ' ')} {value}" for key, value in rest.items()]
    console.say(f"{format_time(datetime.now(UTC))}  {'  '.join(words)}")


def _budget(args: argparse.Namespace) -> int:
    home = SiteHome(args.home)
    ledger = home.ledger()
    spent, entries = ledger.spent(), ledger.entries()
    if args.json:
        console.result_json(
            {
                "population": ledger.population,
                "unit": str(spent.unit),
                "epsilon": spent.epsilon,
                "delta": spent.delta,
                "budget_epsilon": ledger.budget_epsilon,
                "rounds": [
                    {
                        "plan": e.plan_digest,
                        "kind": "test" if e.run_id == TEST_RUN else "round",
                        "server_round": e.server_round,
                        "noise_multiplier": e.event.noise_multiplier,
                        "sample_rate": e.event.sample_rate,
                        "num_steps": e.event.num_steps,
                        "update": e.update_digest,
                    }
                    for e in entries
                ],
            }
        )
        return console.OK
    console.result(
        f"{ledger.population}: epsilon {spent.epsilon:.3f} of {ledger.budget_epsilon:g} spent, "
        f"delta {spent.delta:g}, for each {spent.unit} (add or remove one)"
    )
    for e in entries:
        state = f"committed {e.update_digest}" if e.update_digest else "reserved, counts as spent"
        what = "test " if e.run_id == TEST_RUN else "round"
        console.result(
            f"  {e.plan_digest[:23]}  {what} {e.server_round:>3}  noise "
            f"{e.event.noise_multiplier:g}  rate {e.event.sample_rate:g}  "
            f"{e.event.num_steps} steps  {state}"
        )
    return console.OK


def _sent(args: argparse.Namespace) -> int:
    journal = SiteHome(args.home).journal()
    try:
        sent = journal.sent()
    finally:
        journal.close()
    if args.json:
        console.result_json(
            [
                {
                    "kind": s.kind,
                    "plan": s.plan_digest,
                    "server_round": s.server_round,
                    "update": s.update_digest,
                    "bytes": s.num_bytes,
                    "made_at": s.made_at,
                    "sent_at": s.sent_at,
                }
                for s in sent
            ]
        )
        return console.OK
    for s in sent:
        console.result(
            f"{s.sent_at or 'not sent yet':20}  {s.kind:8}  {s.plan_digest[:23]}  "
            f"round {s.server_round:>3}  {s.num_bytes:>10,} bytes  {s.update_digest[:23]}"
        )
    return console.OK


def _journal(args: argparse.Namespace) -> int:
    from client import custody

    def send(lines: Sequence[bytes]) -> list[int]:
        # Imported where it is needed: it takes seconds to load.
        from client.link import Link

        link = Link(SiteHome(args.home).channel())
        try:
            return link.append(lines)
        finally:
            link.close()

    return custody.show_journal(args, send)


def _witness(args: argparse.Namespace) -> int:
    from client import custody

    return custody.show_witness(args)


def _stop(args: argparse.Namespace) -> int:
    home = SiteHome(args.home)
    pid = home.agent_pid()
    if pid is None:
        raise ConfigError(f"expected a running agent on {home.folder}, got none")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    pause = threading.Event()
    while home.agent_pid() is not None:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"the agent (process {pid}) did not stop within {STOP_S:g} s",
                hint=f"end it with: kill -9 {pid}; nothing is lost",
            )
        pause.wait(0.1)
    _show(args, {"stopped": pid}, f"agent {pid} stopped")
    return console.OK


def _mask(args: argparse.Namespace) -> int:
    # Imported where it is needed: it brings the recognisers with it.
    from client.masking import command

    return command.run(args)


def _audit_privacy(args: argparse.Namespace) -> int:
    # Imported where it is needed: it brings torch with it.
    from client import audit_privacy

    return audit_privacy.run(args)


def _test_privacy(args: argparse.Namespace) -> int:
    # Imported where it is needed: it brings Flower and the accountant with it.
    from client.privacy_report import run

    return run(args, _confirmed)


def _show(args: argparse.Namespace, value: object, text: str) -> None:
    if args.json:
        console.result_json(value)
    else:
        console.result(text)


if __name__ == "__main__":
    sys.exit(main())
