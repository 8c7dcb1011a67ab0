"""cloister-audit: check a federation's log, read it, and make a report of it.

It needs the parties' public keys and nothing else.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.audit.entry import Entry, Event, format_time, parse_entry
from privacy.audit.keys import KeyRing, Role
from privacy.audit.log import ENTRIES
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.evidence import gather
from privacy.compliance.report import describe, render_report
from privacy.compliance.results import read_results
from privacy.console import FAILED, OK, Parser, complain, result, result_json, run, say
from privacy.errors import ConfigError, VerificationError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), {"verify": _verify, "show": _show, "report": _report}, argv)


def build_parser() -> argparse.ArgumentParser:
    """Every command and option."""
    parser = Parser(
        prog="cloister-audit",
        description="Check the evidence of a federation from public keys alone.",
        example="cloister-audit verify demo-out/log",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    verify = commands.add_parser(
        "verify",
        help="check every entry of a log, and name the first that is wrong",
        description="Check signatures, tree, order and rules of a log, and recompute epsilon."
        " Exit code 0: everything checked out. 1: it did not, and the first wrong entry is named.",
        example="cloister-audit verify demo-out/log --keys keys.json",
    )
    _add_log(verify)
    verify.add_argument("--json", action="store_true", help="the result as JSON")

    show = commands.add_parser(
        "show",
        help="print a log's entries",
        description="Print the entries of a log, without checking them.",
        example="cloister-audit show demo-out/log --site hospital_a --event update-sent",
    )
    show.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    show.add_argument("--site", metavar="NAME", help="only entries by or about this site")
    show.add_argument(
        "--event",
        metavar="EVENT",
        choices=[event.value for event in Event],
        help="only this event: " + ", ".join(event.value for event in Event),
    )
    show.add_argument("--run", metavar="ID", help="only entries of this run")
    show.add_argument("--json", action="store_true", help="one JSON object a line")

    report = commands.add_parser(
        "report",
        help="make an HTML report of a log",
        description="Check a log and make one self-contained HTML page of what it shows.",
        example="cloister-audit report demo-out/log --out report.html"
        " --results demo-out/hospital_a/results.json",
    )
    _add_log(report)
    report.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where the page goes"
    )
    report.add_argument(
        "--results",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="results.json of sites that handed it over; may be given several times",
    )
    report.add_argument("--json", action="store_true", help="the result as JSON")
    return parser


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="the parties' public keys (keys.json); by default those that lie with the log",
    )


def _checked(args: argparse.Namespace) -> VerifiedLog:
    log = verify_log(args.log, KeyRing.load(args.keys) if args.keys else None)
    if log.keys_from_log:
        say("note: the keys came with the log; compare their fingerprints with the parties")
    return log


def _verify(args: argparse.Namespace) -> int:
    try:
        log = _checked(args)
    except VerificationError as error:
        if args.json:
            result_json({"verified": False, "entry": error.entry, "error": str(error)})
        complain(error)
        return FAILED
    summary = _summary(log)
    if args.json:
        result_json(summary)
        return OK
    result(f"verified: {len(log.entries)} entries of {log.checkpoint.origin}")
    result(f"root      {log.checkpoint.root.hex()}")
    result(f"history   {log.num_checkpoints} checkpoints agree")
    for name, run_ in summary["runs"].items():
        result(f"run       {name}: {run_['released']} of {run_['rounds']} rounds released")
    for name, site in summary["sites"].items():
        result(
            f"site      {name}: {site['updates']} updates sent, epsilon {site['epsilon']:.3f} of"
            f" {site['budget']:g}"
        )
    for key in log.keys:
        result(f"key       {key.party}: {key.fingerprint}")
    return OK


def _summary(log: VerifiedLog) -> dict[str, Any]:
    """What was verified, for a program."""
    summary: dict[str, Any] = {
        "verified": True,
        "origin": log.checkpoint.origin,
        "entries": len(log.entries),
        "root": log.checkpoint.root.hex(),
        "checkpoints": log.num_checkpoints,
        "keys": "with the log" if log.keys_from_log else "given",
        "fingerprints": {key.party: key.fingerprint for key in log.keys},
        "runs": {},
        "sites": {},
    }
    if not log.entries:
        return summary
    evidence = gather(log)
    for run_ in evidence.runs.values():
        summary["runs"][run_.plan.run] = {
            "run_id": run_.run_id,
            "plan": run_.digest,
            "rounds": run_.plan.rounds.num_rounds,
            "released": len(run_.released),
            "finished": run_.finished is not None,
        }
    for site in evidence.sites.values():
        last = site.spends[-1] if site.spends else None
        summary["sites"][site.name] = {
            "updates": len(site.sent),
            "bytes": site.bytes_sent,
            "epsilon": last.epsilon_total if last else 0.0,
            "delta": last.delta if last else None,
            "budget": last.budget_epsilon if last else 0.0,
        }
    return summary


def _show(args: argparse.Namespace) -> int:
    path = args.log / ENTRIES
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise ConfigError(f"expected a log in {args.log}: {path}: {error.strerror}") from None
    say("note: not checked; `cloister-audit verify` does that")
    num_bad = 0
    for index, line in enumerate(lines):
        try:
            entry = parse_entry(line)
        except VerificationError as error:
            print(f"error: entry {index}: {error}", file=sys.stderr)
            num_bad += 1
            continue
        if _wanted(entry, args):
            result(_as_json(index, entry) if args.json else _as_line(index, entry))
    return FAILED if num_bad else OK


def _wanted(entry: Entry, args: argparse.Namespace) -> bool:
    by_site = entry.party if entry.role is Role.SITE else entry.predicate.get("site")
    return (
        (args.site is None or by_site == args.site)
        and (args.event is None or entry.event.value == args.event)
        and (args.run is None or entry.predicate.get("run_id") == args.run)
    )


def _as_line(index: int, entry: Entry) -> str:
    at = format_time(entry.at)
    return (
        f"{index:>5}  {at}  {entry.party:<16} {entry.event.value:<19} {describe(entry)}".rstrip()
    )


def _as_json(index: int, entry: Entry) -> str:
    return json.dumps(
        {
            "entry": index,
            "party": entry.party,
            "event": entry.event.value,
            "sequence": entry.sequence,
            "at": format_time(entry.at),
            "subjects": dict(entry.subjects),
            "predicate": dict(entry.predicate),
            "digest": entry.digest,
            "key_id": entry.key_id,
        }
    )


def _report(args: argparse.Namespace) -> int:
    log = _checked(args)
    page = render_report(log, [read_results(path) for path in args.results], at=datetime.now(UTC))
    args.out.write_text(page, encoding="utf-8")
    if args.json:
        result_json({"report": str(args.out), "entries": len(log.entries), "verified": True})
    else:
        result(str(args.out))
    return OK


if __name__ == "__main__":
    sys.exit(main())
