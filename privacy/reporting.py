"""The commands of cloister-audit that make reports, and sheets of declarations for them."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.audit.entry import format_time
from privacy.audit.keys import KeyRing
from privacy.audit.policy import Policy
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.controls import assess
from privacy.compliance.declarations import Sheet, read_sheet, write_sheet
from privacy.compliance.documents import strays
from privacy.compliance.documents.bundle import documents
from privacy.compliance.evidence import gather
from privacy.compliance.paper import render_pdf
from privacy.compliance.queries import QUERIES
from privacy.compliance.regimes import REGIMES, Regime, load_regimes
from privacy.compliance.report import Extras, render_report
from privacy.compliance.results import read_results
from privacy.compliance.seal import check_files, digest, open_seal, path_of, seal
from privacy.compliance.words import LANGUAGES, Words
from privacy.console import OK, Parser, UsageError, add_keys, public_key, result, result_json, say
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import SigningKey, fingerprint


def add_parsers(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The commands and their options."""
    _add_report(commands)
    _add_declarations(commands)


def add_log(parser: argparse.ArgumentParser) -> None:
    """A log, whose signatures count, and whose cosignatures must be there."""
    parser.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    add_keys(parser)
    add_policy(parser)


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Whose cosignatures must be there."""
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="whose cosignatures must be there (tlog-policy); by default nobody's",
    )


def _add_regimes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--regime",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="LIST",
        help=f"laws and standards, by commas: {', '.join(REGIMES)}; or paths of .toml files",
    )
    parser.add_argument(
        "--lang", choices=LANGUAGES, default="en", help="language of the page (default en)"
    )


def _add_report(commands: "argparse._SubParsersAction[Parser]") -> None:
    report = commands.add_parser(
        "report",
        help="make an HTML report of a log",
        description="Check a log and make one self-contained HTML page of what it shows. The page"
        " gives no verdict on law: each control is evidenced, partly, declared by a person, not"
        " applicable, or without evidence.",
        example="cloister-audit report demo-out/log --out report.html --regime gdpr,hipaa"
        " --lang en --documents --key auditor.key",
    )
    add_log(report)
    report.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where the page goes"
    )
    _add_regimes(report)
    report.add_argument(
        "--declarations",
        type=Path,
        metavar="FILE",
        help="declarations.toml that a person filled in",
    )
    report.add_argument(
        "--declared-by",
        type=public_key,
        metavar="KEY",
        help="public key (hex) whose signature FILE.dsse of the declarations must be",
    )
    report.add_argument(
        "--documents",
        action="store_true",
        help="also write OSCAL, CycloneDX ML-BOM, model card and Croissant beside the page",
    )
    report.add_argument(
        "--pdf",
        type=Path,
        metavar="FILE",
        help="also write the page as a PDF, into the page's folder (extra pdf)",
    )
    report.add_argument(
        "--font",
        type=Path,
        metavar="DIR",
        help="folder with a font for the PDF, which Chinese needs; by default this machine's",
    )
    report.add_argument(
        "--key", type=Path, metavar="FILE", help="sign page and documents with this private key"
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


def _add_declarations(commands: "argparse._SubParsersAction[Parser]") -> None:
    sheet = commands.add_parser(
        "declarations",
        help="write an empty sheet of declarations for a person to fill in",
        description="Write declarations.toml: one table for each control of the regimes.",
        example="cloister-audit declarations demo-out/log --regime gdpr --out declarations.toml",
    )
    add_log(sheet)
    _add_regimes(sheet)
    sheet.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where the new sheet goes"
    )


def _verified(args: argparse.Namespace) -> VerifiedLog:
    log = verify_log(
        args.log,
        KeyRing.load(args.keys) if args.keys else None,
        policy=Policy.load(args.policy) if args.policy else None,
    )
    if log.keys_from_log:
        say("note: the keys came with the log; compare their fingerprints with the parties")
    return log


def _sheet(args: argparse.Namespace, regimes: list[Regime], log: VerifiedLog) -> Sheet | None:
    if args.declarations is None:
        if args.declared_by is not None:
            raise ConfigError("expected --declarations with --declared-by")
        return None
    sheet = read_sheet(
        args.declarations, [control.id for regime in regimes for control in regime.controls]
    )
    federation = log.entries[0].predicate["federation"]
    if sheet.federation != federation:
        raise ConfigError(
            f"expected declarations about federation {federation!r}, got {sheet.federation!r}"
        )
    if sheet.log != log.checkpoint.origin:
        raise ConfigError(
            f"expected declarations about log {log.checkpoint.origin!r}, got {sheet.log!r}",
            hint="a word given about one log says nothing of another",
        )
    if args.declared_by is None:
        return sheet
    sealed = open_seal(path_of(args.declarations).read_bytes(), args.declared_by)
    if args.declarations.name not in sealed.files:
        raise VerificationError(f"{args.declarations.name} is not what was signed")
    check_files(args.declarations.parent, sealed.files)
    return sheet.signed(fingerprint(args.declared_by))


def report(args: argparse.Namespace) -> int:
    """Make a report."""
    regimes = load_regimes(args.regime, QUERIES)
    key = SigningKey.load(args.key) if args.key else None
    log, at = _verified(args), datetime.now(UTC)
    if not log.entries:
        raise ConfigError("expected a log with entries, got an empty one")
    sheet, evidence = _sheet(args, regimes, log), gather(log)
    declared = sheet.declarations if sheet else {}
    beside = documents(evidence, regimes, declared, at=at) if args.documents else {}
    if args.out.name in beside:
        raise ConfigError(f"expected another name than {args.out.name}, which a document has")
    pdf = _pdf_name(args, {*beside, args.out.name})
    extras = Extras(
        results=[read_results(path) for path in args.results],
        regimes=assess(evidence, regimes, declared, Words(args.lang)),
        sheet=sheet,
        beside=[(name, digest(content)) for name, content in sorted(beside.items())],
        language=args.lang,
    )
    page = render_report(log, extras, at=at)
    files = {**beside, args.out.name: page.encode()}
    if pdf:
        files[pdf] = render_pdf(page, args.out.name, Words(args.lang), at=at, fonts=args.font)
    # The signature is written last: a crash before leaves a report that nobody signed.
    try:
        signature = seal(files, key, at=format_time(at), log=log.checkpoint) if key else None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name, content in files.items():
        (args.out.parent / name).write_bytes(content)
    path_of(args.out).unlink(missing_ok=True)
    if signature:
        path_of(args.out).write_bytes(signature)
    for name in strays(args.out, files):
        say(f"note: {name} lies beside the page and is not of this report; take it away")
    _tell(args, log, files, key)
    return OK


def _pdf_name(args: argparse.Namespace, taken: set[str]) -> str:
    """The PDF's name, or nothing where none is wanted."""
    if args.pdf is None:
        if args.font is not None:
            raise UsageError("expected --pdf with --font")
        return ""
    if args.pdf.parent.resolve() != args.out.parent.resolve():
        raise UsageError(
            f"expected the PDF in the page's folder {args.out.parent}, got {args.pdf}",
            hint="what is signed together lies together",
        )
    if args.pdf.name in taken or args.pdf.suffix.lower() != ".pdf":
        raise UsageError(f"expected a name of its own that ends in .pdf, got {args.pdf.name}")
    return str(args.pdf.name)


def _tell(
    args: argparse.Namespace, log: VerifiedLog, files: dict[str, bytes], key: SigningKey | None
) -> None:
    said: dict[str, Any] = {
        "report": str(args.out),
        # Not `verified`: checked against keys that came with the log, it is consistent at most.
        "checked": {
            "origin": log.checkpoint.origin,
            "entries": len(log.entries),
            "root": log.checkpoint.root.hex(),
            "keys": "with the log" if log.keys_from_log else "given",
            "fingerprints": {key.party: key.fingerprint for key in log.keys},
            "cosigned": sorted(log.cosigned.witnesses) if log.cosigned else [],
        },
        "files": {name: digest(content) for name, content in sorted(files.items())},
        "signer": key.public_key.hex() if key else None,
    }
    if args.json:
        result_json(said)
        return
    result(str(args.out))
    for name in sorted(set(files) - {args.out.name}):
        result(str(args.out.parent / name))
    if key:
        result(str(path_of(args.out)))
        say(f"signed by {key.public_key.hex()}")


def declarations(args: argparse.Namespace) -> int:
    """Write an empty sheet."""
    regimes = load_regimes(args.regime, QUERIES)
    if not regimes:
        raise ConfigError("expected at least one regime", hint="for example --regime gdpr")
    log = _verified(args)
    if args.out.exists():
        raise ConfigError(
            f"{args.out} exists already", hint="a filled-in sheet is not overwritten"
        )
    text = write_sheet(
        regimes,
        federation=gather(log).federation,
        log=log.checkpoint.origin,
        language=args.lang,
    )
    args.out.write_text(text, encoding="utf-8")
    result(str(args.out))
    return OK


HANDLERS = {"report": report, "declarations": declarations}
