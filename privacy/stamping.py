"""The command of cloister-audit that has checkpoints stamped, and what verify checks of stamps."""

import argparse
from pathlib import Path
from typing import Any

from privacy.audit.entry import format_time
from privacy.audit.keys import KeyRing
from privacy.audit.log import CHECKPOINT, keys_with, no_log
from privacy.audit.stamp import FOLDER, Stamp, ask, check_stamp, keep, read_roots, read_stamps
from privacy.audit.verify import open_by_operator
from privacy.console import OK, Parser, UsageError, result, result_json, say
from privacy.errors import VerificationError


def add_parsers(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `stamp`."""
    stamp = commands.add_parser(
        "stamp",
        help="have an authority stamp the newest checkpoint with the time (RFC 3161)",
        description="Send the SHA-256 of the newest checkpoint to a time-stamping authority and"
        f" keep its answer in the log's folder {FOLDER}. Nothing else of the log is sent. Of all"
        " commands here, only this one uses the network.",
        example="cloister-audit stamp log --tsa http://timestamp.example.org --tsa-roots tsa.pem",
    )
    stamp.add_argument("log", type=Path, metavar="LOG", help="the log's folder")
    stamp.add_argument("--tsa", required=True, metavar="URL", help="the authority, http or https")
    stamp.add_argument(
        "--tsa-roots",
        type=Path,
        metavar="FILE",
        help="its root certificates, PEM: check the answer before it is kept",
    )
    stamp.add_argument(
        "--keys", type=Path, metavar="FILE", help="the parties' public keys (default: LOG's copy)"
    )
    stamp.add_argument("--json", action="store_true", help="the result as JSON")


def add_options(verify: argparse.ArgumentParser) -> None:
    """Add what `verify` takes about stamps."""
    verify.add_argument(
        "--timestamps",
        action="store_true",
        help="check the time stamps beside the log too; there must be one",
    )
    verify.add_argument(
        "--tsa-roots",
        type=Path,
        metavar="FILE",
        help="root certificates of the authorities that stamped, PEM",
    )


def stamp(args: argparse.Namespace) -> int:
    """Have the newest checkpoint stamped."""
    roots = read_roots(args.tsa_roots) if args.tsa_roots else []
    path = args.log / CHECKPOINT
    try:
        note = path.read_text(encoding="utf-8")
    except OSError as error:
        raise no_log(args.log, path, error.strerror) from None
    except UnicodeDecodeError:
        raise VerificationError(f"expected text in {path}") from None
    keys = KeyRing.load(args.keys) if args.keys else keys_with(args.log)
    checkpoint = open_by_operator(note, keys)
    kept = keep(args.log, note, ask(note, args.tsa, roots))
    if not roots:
        say("note: the authority's signature was not checked; `verify --timestamps` does that")
    if args.json:
        result_json({"stamp": str(kept), "size": checkpoint.size, "checked": bool(roots)})
    else:
        result(str(kept))
    return OK


def stamps_of(args: argparse.Namespace) -> list[Stamp]:
    """The stamps that `verify` was asked to check.

    Raises:
      VerificationError: There is none.
    """
    if not args.timestamps:
        if args.tsa_roots:
            raise UsageError("expected --timestamps with --tsa-roots")
        return []
    if not args.tsa_roots:
        raise UsageError("expected --tsa-roots FILE with --timestamps, got none")
    stamps = read_stamps(args.log)
    if not stamps:
        raise VerificationError(
            f"expected time stamps in {args.log / FOLDER}, got none",
            hint="cloister-audit stamp asks an authority for one",
        )
    return stamps


def checked(args: argparse.Namespace, stamps: list[Stamp]) -> list[dict[str, Any]]:
    """What the stamps show, after each was checked against the roots.

    Raises:
      VerificationError: One does not verify; it is named.
    """
    roots = read_roots(args.tsa_roots) if stamps else []
    found = [check_stamp(this, roots) for this in stamps]
    return [
        {"size": this.checkpoint.size, "at": format_time(this.at), "authority": this.authority}
        for this in found
    ]


HANDLERS = {"stamp": stamp}
