"""The commands of cloister-audit that make, sign and check reports."""

import argparse
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.audit.entry import format_time
from privacy.audit.keys import KeyRing
from privacy.audit.policy import Policy
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.controls import assess
from privacy.compliance.declarations import Sheet, read_sheet, write_sheet
from privacy.compliance.documents.bundle import documents
from privacy.compliance.evidence import gather
from privacy.compliance.queries import QUERIES
from privacy.compliance.regimes import REGIMES, Regime, load_regimes
from privacy.compliance.report import Extras, render_report
from privacy.compliance.results import read_results
from privacy.compliance.seal import check_files, check_own_digest, digest, open_seal, seal
from privacy.compliance.words import LANGUAGES, Words
from privacy.console import OK, Parser, result, result_json, say
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import Algorithm, SigningKey, fingerprint

SEAL_SUFFIX = ".dsse"
_KEY = re.compile(r"[0-9a-f]{64}|[0-9a-f]{2624}")


def add_parsers(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The commands and their options."""
    _add_report(commands)
    _add_declarations(commands)
    _add_sealing(commands)


def add_log(parser: argparse.ArgumentParser) -> None:
    """A log, whose signatures count, and whose cosignatures must be there."""
    parser.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="the parties' public keys (keys.json); by default those that lie with the log",
    )
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
        type=_public_key,
        metavar="KEY",
        help="public key (hex) whose signature FILE.dsse of the declarations must be",
    )
    report.add_argument(
        "--documents",
        action="store_true",
        help="also write OSCAL, CycloneDX ML-BOM, model card and Croissant beside the page",
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


def _add_sealing(commands: "argparse._SubParsersAction[Parser]") -> None:
    keygen = commands.add_parser(
        "keygen",
        help="make a key to sign reports and declarations with",
        description="Make a key in a new file that only its owner can read, and print"
        " its public half.",
        example="cloister-audit keygen --out auditor.key",
    )
    keygen.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    keygen.add_argument(
        "--algorithm",
        choices=[algorithm.value for algorithm in Algorithm],
        default=Algorithm.ED25519.value,
        help="how it signs (default: ed25519)",
    )

    sign = commands.add_parser(
        "sign",
        help="sign a file, such as filled-in declarations",
        description="Write FILE.dsse: a detached signature of the file.",
        example="cloister-audit sign declarations.toml --key officer.key",
    )
    sign.add_argument("file", type=Path, metavar="FILE", help="what is signed")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="a private key")

    check = commands.add_parser(
        "verify-report",
        help="check that a signed report and its documents are as they were signed",
        description="Check REPORT.dsse, the digests of all files that were signed together, and"
        " the page's own digest. It does not check the log: for that, verify.",
        example="cloister-audit verify-report report.html --key"
        " 17cb79fb2b4120f2b1ec65e4198d6e08b28e813feb01e4a400839b85e18080ce",
    )
    check.add_argument("report", type=Path, metavar="REPORT", help="the page")
    check.add_argument(
        "--key",
        type=_public_key,
        required=True,
        metavar="KEY",
        help="the signer's public key, 64 hex digits (ml-dsa-44: 2624)",
    )
    check.add_argument("--json", action="store_true", help="the result as JSON")


def _public_key(text: str) -> bytes:
    if not _KEY.fullmatch(text):
        raise argparse.ArgumentTypeError("expected a public key of 64 or 2624 hex digits")
    return bytes.fromhex(text)


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
    named = open_seal(_seal_of(args.declarations).read_bytes(), args.declared_by)
    if args.declarations.name not in named:
        raise VerificationError(f"{args.declarations.name} is not what was signed")
    check_files(args.declarations.parent, named)
    return sheet.signed(fingerprint(args.declared_by))


def _seal_of(path: Path) -> Path:
    return path.with_name(path.name + SEAL_SUFFIX)


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
    extras = Extras(
        results=[read_results(path) for path in args.results],
        regimes=assess(evidence, regimes, declared, Words(args.lang)),
        sheet=sheet,
        beside=[(name, digest(content)) for name, content in sorted(beside.items())],
        language=args.lang,
    )
    files = {**beside, args.out.name: render_report(log, extras, at=at).encode()}
    # The signature is written last: a crash before leaves a report that nobody signed.
    try:
        signature = seal(files, key, at=format_time(at)) if key else None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name, content in files.items():
        (args.out.parent / name).write_bytes(content)
    _seal_of(args.out).unlink(missing_ok=True)
    if signature:
        _seal_of(args.out).write_bytes(signature)
    _tell(args, log, files, key)
    return OK


def _tell(
    args: argparse.Namespace, log: VerifiedLog, files: dict[str, bytes], key: SigningKey | None
) -> None:
    said: dict[str, Any] = {
        "report": str(args.out),
        "entries": len(log.entries),
        "verified": True,
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
        result(str(_seal_of(args.out)))
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


def keygen(args: argparse.Namespace) -> int:
    """Make a key."""
    key = SigningKey.generate(Algorithm(args.algorithm))
    key.save(args.out)
    result(key.public_key.hex())
    say(f"fingerprint {fingerprint(key.public_key)}")
    return OK


def sign(args: argparse.Namespace) -> int:
    """Sign one file."""
    key = SigningKey.load(args.key)
    content = args.file.read_bytes()
    try:
        signature = seal({args.file.name: content}, key, at=format_time(datetime.now(UTC)))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _seal_of(args.file).write_bytes(signature)
    result(str(_seal_of(args.file)))
    say(f"signed by {key.public_key.hex()}")
    return OK


def verify_report(args: argparse.Namespace) -> int:
    """Check a signed report."""
    own = check_own_digest(args.report.read_bytes())
    path = _seal_of(args.report)
    if not path.exists():
        raise VerificationError(
            f"expected a signature in {path}, got none",
            hint="the page's own digest fits it, which shows no more than that it is whole",
        )
    named = open_seal(path.read_bytes(), args.key)
    if args.report.name not in named:
        raise VerificationError(f"{args.report.name} is not among the files that were signed")
    check_files(args.report.parent, named)
    if args.json:
        result_json({"verified": True, "digest": own, "files": named})
        return OK
    result(f"verified: {len(named)} files signed by {fingerprint(args.key)}")
    for name, expected in named.items():
        result(f"{expected}  {name}")
    return OK


HANDLERS = {
    "report": report,
    "declarations": declarations,
    "keygen": keygen,
    "sign": sign,
    "verify-report": verify_report,
}
