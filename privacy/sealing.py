"""The commands of cloister-audit that sign files and check what was signed."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.audit.entry import format_time
from privacy.compliance.documents import strays
from privacy.compliance.seal import (
    SUFFIX,
    Sealed,
    check_files,
    check_own_digest,
    digest,
    open_seal,
    path_of,
    seal,
)
from privacy.console import OK, Parser, public_key, result, result_json, say
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import Algorithm, SigningKey, fingerprint


def add_parsers(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The commands and their options."""
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
        type=public_key,
        required=True,
        metavar="KEY",
        help="the signer's public key, 64 hex digits (ml-dsa-44: 2624)",
    )
    check.add_argument("--json", action="store_true", help="the result as JSON")


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
    path_of(args.file).write_bytes(signature)
    result(str(path_of(args.file)))
    say(f"signed by {key.public_key.hex()}")
    return OK


def verify_report(args: argparse.Namespace) -> int:
    """Check a signed report."""
    own = check_own_digest(args.report.read_bytes())
    path = path_of(args.report)
    if not path.exists():
        raise VerificationError(
            f"expected a signature in {path}, got none",
            hint="the page's own digest fits it, which shows no more than that it is whole",
        )
    sealed = open_seal(path.read_bytes(), args.key)
    if args.report.name not in sealed.files:
        raise VerificationError(f"{args.report.name} is not among the files that were signed")
    check_files(args.report.parent, sealed.files)
    _check_beside(args.report, sealed, args.key)
    if args.json:
        result_json(
            {
                "verified": True,
                "signer": args.key.hex(),
                "signed_at": sealed.at,
                "log": _log(sealed),
                "digest": own,
                "files": dict(sealed.files),
            }
        )
        return OK
    result(f"verified: {len(sealed.files)} files signed by {fingerprint(args.key)}")
    result(f"signed    {sealed.at}, by the signer's clock")
    if sealed.log is None:
        say("note: this seal names no log; it is of an earlier version, or of no report")
    else:
        result(f"log       {sealed.log.origin}: {sealed.log.size} entries (not checked here)")
        result(f"root      {sealed.log.root.hex()}")
    for name, expected in sealed.files.items():
        result(f"{expected}  {name}")
    return OK


def _log(sealed: Sealed) -> dict[str, Any] | None:
    log = sealed.log
    if log is None:
        return None
    return {"origin": log.origin, "entries": log.size, "root": log.root.hex()}


def _check_beside(report: Path, sealed: Sealed, key: bytes) -> None:
    """Check that no document lies beside the report that the signer did not sign as it is.

    Raises:
      VerificationError: One does; it is of an earlier report, or somebody put it there.
    """
    for name in strays(report, sealed.files):
        if not _is_of_another(report, name, key):
            raise VerificationError(
                f"{name} lies beside the report and is not among the files that were signed",
                hint="take away what an earlier report left; keep each report in its own folder",
            )


def _is_of_another(report: Path, name: str, key: bytes) -> bool:
    """Whether another report in the folder, of the same signer, names this very file."""
    content = digest((report.parent / name).read_bytes())
    for path in sorted(report.parent.glob(f"*{SUFFIX}")):
        try:
            other = open_seal(path.read_bytes(), key)
        except VerificationError:
            continue
        if other.files.get(name) == content:
            return True
    return False


HANDLERS = {"keygen": keygen, "sign": sign, "verify-report": verify_report}
