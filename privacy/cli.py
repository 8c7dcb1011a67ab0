"""cloister-audit: check a federation's log, read it, and make a report of it.

It needs the parties' public keys and nothing else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from privacy import forgetting, reading, reporting, sealing, stamping
from privacy.audit.checkpoint import log_key
from privacy.audit.entry import Entry, Event
from privacy.audit.export import export_tiles
from privacy.audit.keys import KeyRing
from privacy.audit.policy import Policy
from privacy.audit.quorum import Quorum
from privacy.audit.summary import Summary
from privacy.audit.verify import CheckedLog, check_log
from privacy.console import (
    FAILED,
    OK,
    Parser,
    UsageError,
    add_keys,
    complain,
    result,
    result_json,
    run,
    say,
)
from privacy.errors import VerificationError

_HANDLERS = {
    "show": reading.show,
    "sample": reading.sample,
    "prove": reading.prove,
    "check-proof": reading.check_proof,
    "compare": reading.compare,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    modules = (forgetting, reporting, sealing, stamping)
    handlers = dict(_HANDLERS, verify=_verify, tiles=_tiles, policy=_make_policy)
    for module in modules:
        handlers |= module.HANDLERS
    return run(build_parser(), handlers, argv)


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
    reporting.add_log(verify)
    verify.add_argument(
        "--jobs",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="processes that check signatures (default 1); several pay for large logs",
    )
    stamping.add_options(verify)
    verify.add_argument("--json", action="store_true", help="the result as JSON")

    policy = commands.add_parser(
        "policy",
        help="write a policy from the witnesses that the sites announced",
        description="Check a log, and write a tlog-policy from the keys that sites announced in it"
        " under their own signatures. Nobody's word is taken for a key but the site's.",
        example="cloister-audit policy demo-out/log --keys keys.json --quorum majority",
    )
    policy.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    add_keys(policy)
    policy.add_argument(
        "--quorum",
        type=_quorum,
        default="majority",
        metavar="HOW_MANY",
        help="operators that must have cosigned: majority (the default), all, or a number",
    )
    policy.add_argument(
        "--operator",
        action="append",
        default=[],
        type=_operator,
        metavar="SITE=NAME",
        help="who runs a site's machines: sites of one operator count once, those of coordinator"
        " not at all; may be given again",
    )
    policy.add_argument("--out", type=Path, metavar="FILE", help="where it goes (default policy)")
    policy.add_argument("--json", action="store_true", help="the result as JSON")

    show = commands.add_parser(
        "show",
        help="print a log's entries",
        description="Print the entries of a log, without checking them.",
        example="cloister-audit show demo-out/log --site hospital_a --event update-sent",
    )
    _add_filters(show)
    show.add_argument(
        "--openings",
        type=Path,
        metavar="FILE",
        help="a party's openings.jsonl: also print, and check, the personal values it opens",
    )

    _add_reading(commands)

    forgetting.add_parsers(commands)
    stamping.add_parsers(commands)
    reporting.add_parsers(commands)
    sealing.add_parsers(commands)
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    parser.add_argument("--site", metavar="NAME", help="only entries by or about this site")
    parser.add_argument(
        "--event",
        metavar="EVENT",
        choices=[event.value for event in Event],
        help="only this event: " + ", ".join(event.value for event in Event),
    )
    parser.add_argument("--run", metavar="ID", help="only entries of this run")
    parser.add_argument(
        "--since", metavar="TIME", help="only from this day or time (UTC) on, 2026-11-20"
    )
    parser.add_argument(
        "--until", metavar="TIME", help="only up to the end of this day, or this second (UTC)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_reading(commands: "argparse._SubParsersAction[Parser]") -> None:
    sample = commands.add_parser(
        "sample",
        help="draw entries by a seed, the same for everyone",
        description="Draw entries by a seed: the same log, filters and seed give the same sample"
        " to anyone.",
        example="cloister-audit sample demo-out/log --seed 2026-11-20 --count 5",
    )
    _add_filters(sample)
    sample.add_argument("--seed", required=True, metavar="TEXT", help="any line of text")
    sample.add_argument("--count", type=int, required=True, metavar="K", help="how many entries")

    prove = commands.add_parser(
        "prove",
        help="write the proof that an entry is in the log",
        description="Write a .tlog-proof: an entry, its path to the root, and the checkpoint.",
        example="cloister-audit prove demo-out/log 7 --out approved.tlog-proof",
    )
    prove.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    prove.add_argument("entry", type=_number, metavar="ENTRY", help="number of the entry")
    prove.add_argument(
        "--out", type=Path, metavar="FILE", help="where it goes (default entry-N.tlog-proof)"
    )
    prove.add_argument("--json", action="store_true", help="the result as JSON")

    check = commands.add_parser(
        "check-proof",
        help="check such a proof from public keys alone",
        description="Check that a .tlog-proof leads from an entry to a checkpoint that the log's"
        " operator signed, and that the entry is its signer's.",
        example="cloister-audit check-proof approved.tlog-proof --keys keys.json",
    )
    check.add_argument("proof", type=Path, metavar="FILE", help="the proof")
    check.add_argument(
        "--keys", type=Path, required=True, metavar="FILE", help="the parties' public keys"
    )
    reporting.add_policy(check)
    check.add_argument(
        "--entry", type=Path, metavar="FILE", help="the entry, where the proof does not carry it"
    )
    check.add_argument("--json", action="store_true", help="the result as JSON")

    compare = commands.add_parser(
        "compare",
        help="find the first difference between two parties' copies",
        description="Compare two copies of a log, or a copy with a checkpoint that somebody kept."
        " Exit code 0: one begins with all of the other. 1: they differ, and the first entry is"
        " named.",
        example="cloister-audit compare log-of-a log-of-b --keys keys.json",
    )
    compare.add_argument(
        "log", type=Path, metavar="LOG", help="one copy, a folder or the file of a checkpoint"
    )
    compare.add_argument(
        "other", type=Path, metavar="OTHER", help="another copy, or the file of a checkpoint"
    )
    compare.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="the parties' public keys; by default those that lie with the first copy",
    )
    compare.add_argument("--json", action="store_true", help="the result as JSON")

    tiles = commands.add_parser(
        "tiles",
        help="write the log as static files that other programs read (C2SP tlog-tiles)",
        description="Write checkpoint, hash tiles and entry bundles as C2SP tlog-tiles lays them"
        " out, for any web server and any monitor of such logs.",
        example="cloister-audit tiles demo-out/log --out public",
    )
    tiles.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    tiles.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new folder for the files"
    )
    tiles.add_argument("--json", action="store_true", help="the result as JSON")


def _number(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)


def _at_least_one(text: str) -> int:
    number = _number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return number


def _quorum(text: str) -> str | int:
    return text if text in ("majority", "all") else _at_least_one(text)


def _operator(text: str) -> tuple[str, str]:
    site, separator, name = text.partition("=")
    if not site or not separator or not name:
        raise argparse.ArgumentTypeError(f"expected SITE=NAME, got {text!r}")
    return site, name


def _say_keys(*, from_log: bool) -> None:
    if from_log:
        say("note: the keys came with the log; compare their fingerprints with the parties")


def _policy(args: argparse.Namespace) -> Policy | None:
    return Policy.load(args.policy) if args.policy else None


def _verify(args: argparse.Namespace) -> int:
    gathered = Summary()
    try:
        stamps = stamping.stamps_of(args)
        stamped = stamping.checked(args, stamps)
        log = check_log(
            args.log,
            KeyRing.load(args.keys) if args.keys else None,
            policy=_policy(args),
            visit=gathered.add,
            num_jobs=args.jobs,
            also=[stamp.note for stamp in stamps],
        )
    except VerificationError as error:
        if args.json:
            result_json({"verified": False, "entry": error.entry, "error": str(error)})
        complain(error)
        return FAILED
    _say_keys(from_log=log.keys_from_log)
    summary = gathered.result(log)
    if stamped:
        summary["stamps"] = stamped
    if args.json:
        result_json(summary)
        return OK
    result(f"verified: {summary['entries']} entries of {log.checkpoint.origin}")
    result(f"root      {log.checkpoint.root.hex()}")
    result(f"history   {log.num_checkpoints} checkpoints agree")
    for witness, at in summary.get("cosigned", {}).items():
        result(f"cosigned  {witness}: {at}")
    _say_unannounced(args, log)
    for stamp in stamped:
        result(f"stamped   {stamp['size']} entries by {stamp['at']}: {stamp['authority']}")
    for run_id, run_ in summary["runs"].items():
        result(
            f"run       {run_['run']}: {run_['released']} of {run_['rounds']} rounds released"
            f" ({run_id})"
        )
    for name, site in summary["sites"].items():
        result(
            f"site      {name}: {site['updates']} updates sent, epsilon {site['epsilon']:.3f} of"
            f" {site['budget']:g}"
        )
    for aside in summary["set_aside"]:
        result(
            f"set aside {aside['site']}: its {aside['event']} {aside['digest']}, which this log"
            f" refused (entry {aside['entry']})"
        )
    for key in log.keys:
        result(f"key       {key.party}: {key.fingerprint}")
    missing = sum(aside["counted"] for aside in summary["set_aside"])
    if missing:
        say(
            f"WARNING: {missing} of the entries set aside are about budget, tests or updates:"
            " epsilon and counts here lack them; ask their sites for the lines"
        )
    return OK


def _say_unannounced(args: argparse.Namespace, log: CheckedLog) -> None:
    """Name the policy's witnesses for whose keys this log has no site's signature."""
    policy = _policy(args)
    known = {key.vkey for key in log.witnesses.values()}
    others = (
        [] if policy is None else [n for n, k in policy.witnesses.items() if k.vkey not in known]
    )
    if others:
        say(f"note: no site announced the key of {', '.join(others)} here; compare it with them")


def _make_policy(args: argparse.Namespace) -> int:
    active: set[str] = set()

    def count(_index: int, entry: Entry) -> None:
        if entry.event is Event.SITE_ENROLLED:
            active.add(entry.predicate["site"])
        if entry.event is Event.SITE_REVOKED:
            active.discard(entry.predicate["site"])

    log = check_log(args.log, KeyRing.load(args.keys) if args.keys else None, visit=count)
    _say_keys(from_log=log.keys_from_log)
    operators = dict(args.operator)
    unknown = sorted(set(operators) - active)
    if unknown:
        raise UsageError(f"expected names of enrolled sites, got {', '.join(unknown)}")
    quorum = Quorum.over(args.quorum, active, operators)
    (operator, *_) = log.keys.coordinator_keys()
    text = quorum.policy(log_key(log.checkpoint.origin, operator.public_key), log.witnesses)
    out = args.out or Path("policy")
    out.write_text(text, encoding="utf-8")
    if args.json:
        found = {"policy": str(out), "needed": quorum.needed, "operators": len(quorum.operators)}
        result_json(found)
    else:
        say(f"{quorum.needed} of {len(quorum.operators)} operators must have cosigned")
        result(str(out))
    return OK


def _tiles(args: argparse.Namespace) -> int:
    left_out = export_tiles(args.log, args.out)
    for index in left_out:
        say(f"note: entry {index} is too long for a bundle; its bundle is left out")
    if args.json:
        result_json({"folder": str(args.out), "left_out": left_out})
    else:
        result(str(args.out))
    return OK


if __name__ == "__main__":
    sys.exit(main())
