"""The commands of cloister-audit that read single entries: show, sample, prove, compare."""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from privacy.audit.checkpoint import log_key, parse_checkpoint
from privacy.audit.compare import Comparison, compare_logs
from privacy.audit.entry import Entry, format_time, parse_entry
from privacy.audit.keys import KeyRing, Role
from privacy.audit.log import CHECKPOINT, COSIGNED, ENTRIES, check_signer, keys_with, no_log
from privacy.audit.merkle import Tree, leaf_hash
from privacy.audit.note import Note
from privacy.audit.policy import Policy
from privacy.audit.proof import SUFFIX, Proof
from privacy.audit.sample import draw
from privacy.audit.store import read_lines
from privacy.audit.tiles import TileReader
from privacy.audit.verify import open_by_operator
from privacy.compliance.report import describe
from privacy.console import FAILED, OK, UsageError, result, result_json, say
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.forgetting import Opener, described

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def show(args: argparse.Namespace) -> int:
    """Print the entries that are asked for."""
    say("note: not checked; `cloister-audit verify` does that")
    bad = _Bad()
    opener = Opener(args.openings) if args.openings else None
    for index, entry in _wanted(args, bad):
        values = {}
        try:
            values = opener.values(entry) if opener else {}
        except VerificationError as error:
            bad.say(index, error)
        if args.json:
            result(as_json(index, entry, values))
        else:
            result(as_line(index, entry) + (described(entry, values) if opener else ""))
    if opener and opener.left():
        say(f"note: {len(opener.left())} openings are of none of these entries")
    return FAILED if bad.num else OK


def sample(args: argparse.Namespace) -> int:
    """Print entries drawn by a seed."""
    bad = _Bad()
    try:
        drawn = draw((index for index, _ in _wanted(args, bad)), seed=args.seed, count=args.count)
    except ValueError as error:
        raise UsageError(str(error)) from None
    say("note: not checked; `cloister-audit verify` does that")
    chosen = set(drawn)
    for index, line in enumerate(_lines(args.log)):
        if index in chosen:
            entry = parse_entry(line)
            result(as_json(index, entry) if args.json else as_line(index, entry))
    return FAILED if bad.num else OK


def prove(args: argparse.Namespace) -> int:
    """Write the proof of one entry."""
    line = next(islice(_lines(args.log), args.entry, None), None)
    if line is None:
        raise ConfigError(f"expected entry {args.entry} in {args.log}, got a shorter log")
    note = _checkpoint_over(args.log, args.entry)
    size = parse_checkpoint(Note.parse(note).text).size
    proof = Proof(
        index=args.entry,
        path=tuple(_path(args.log, args.entry, size, leaf_hash(line))),
        checkpoint=note,
        entry=line,
    )
    # What does not prove the entry is no proof: a changed log shows here.
    proof.check(line)
    out = args.out or Path(f"entry-{args.entry}{SUFFIX}")
    out.write_text(str(proof), encoding="utf-8")
    if args.json:
        result_json({"proof": str(out), "entry": args.entry, "size": size})
    else:
        result(str(out))
    return OK


def check_proof(args: argparse.Namespace) -> int:
    """Check a proof from public keys alone."""
    keys = KeyRing.load(args.keys)
    try:
        proof = Proof.parse(args.proof.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise VerificationError(f"expected a proof in {args.proof}") from None
    line = args.entry.read_bytes().removesuffix(b"\n") if args.entry else proof.entry
    if line is None:
        raise UsageError("expected --entry FILE, since the proof does not carry its entry")
    checkpoint = open_by_operator(proof.checkpoint, keys)
    proof.check(line)
    entry = parse_entry(line)
    check_signer(entry, keys)
    witnesses: list[str] = []
    if args.policy:
        policy = Policy.load(args.policy)
        logs = [log_key(checkpoint.origin, key.public_key) for key in keys.coordinator_keys()]
        believed = policy.check(proof.checkpoint, () if policy.logs else logs)
        witnesses = sorted(believed.witnesses)
    if args.json:
        found = {"verified": True, "origin": checkpoint.origin, "size": checkpoint.size}
        shown = json.loads(as_json(proof.index, entry))
        result_json({**found, "cosigned": witnesses, "entry": shown})
        return OK
    result(f"verified: entry {proof.index} of {checkpoint.origin}, which had {checkpoint.size}")
    if args.policy:
        result(f"cosigned  {', '.join(witnesses) or 'by nobody; the policy asks for none'}")
    result(as_line(proof.index, entry))
    return OK


def compare(args: argparse.Namespace) -> int:
    """Compare two parties' copies of a log."""
    keys = KeyRing.load(args.keys) if args.keys else keys_with(args.log)
    found = compare_logs(args.log, args.other, keys)
    text = _verdict(found)
    is_sound = all(
        copy.is_signed and copy.is_whole is not False for copy in (found.ours, found.theirs)
    )
    if args.json:
        result_json(
            {
                "same": is_sound and not found.differs,
                "first_difference": found.first_difference,
                "fork": found.is_fork,
                "sizes": [found.ours.checkpoint.size, found.theirs.checkpoint.size],
                "verdict": text,
            }
        )
    if found.differs or not is_sound:
        raise TamperError(text, entry=found.first_difference)
    if not args.json:
        result(text)
    return OK


def _verdict(found: Comparison) -> str:
    ours, theirs = found.ours, found.theirs
    if found.is_fork and found.first_difference is None and theirs.is_whole is not None:
        return (
            f"the log's operator signed two roots of one size, in {ours.path} and {theirs.path},"
            " which proves a fork; keep both"
        )
    for copy in (ours, theirs):
        if not copy.is_signed:
            return f"the checkpoint of {copy.path} is not signed by the log's operator"
    if found.differs:
        where = (
            f"the copies differ from entry {found.first_difference} on"
            if found.first_difference is not None
            else f"{ours.path} does not begin with what {theirs.path} is over"
        )
        if found.is_fork:
            return f"{where}: the log's operator signed both, which proves a fork; keep both"
        broken = [str(copy.path) for copy in (ours, theirs) if copy.is_whole is False]
        return f"{where}: {', '.join(broken)} does not hold what its checkpoint is over"
    for copy in (ours, theirs):
        if copy.is_whole is False:
            return f"{copy.path} does not hold what its checkpoint is over"
    sizes = (ours.checkpoint.size, theirs.checkpoint.size)
    if sizes[0] == sizes[1]:
        return f"same: {sizes[0]} entries with root {ours.checkpoint.root.hex()}"
    longer = ours if sizes[0] > sizes[1] else theirs
    return f"same: {min(sizes)} entries; {longer.path} holds {max(sizes) - min(sizes)} more"


class _Bad:
    """Counts lines that are no entries, and names each."""

    def __init__(self) -> None:
        self.num = 0

    def say(self, index: int, error: VerificationError) -> None:
        """Name one."""
        say(f"error: entry {index}: {error}")
        self.num += 1


def _lines(log: Path) -> Iterator[bytes]:
    path = log / ENTRIES
    try:
        yield from read_lines(path)
    except OSError as error:
        raise no_log(log, path, error.strerror) from None


def _wanted(args: argparse.Namespace, bad: _Bad) -> Iterator[tuple[int, Entry]]:
    """The entries that the filters let through, with their numbers."""
    since, until = _since(args.since), _until(args.until)
    for index, line in enumerate(_lines(args.log)):
        try:
            entry = parse_entry(line)
        except VerificationError as error:
            bad.say(index, error)
            continue
        by_site = entry.party if entry.role is Role.SITE else entry.predicate.get("site")
        if (
            (args.site is None or by_site == args.site)
            and (args.event is None or entry.event.value == args.event)
            and (args.run is None or entry.predicate.get("run_id") == args.run)
            and (since is None or entry.at >= since)
            and (until is None or entry.at < until)
        ):
            yield index, entry


def _since(text: str | None) -> datetime | None:
    return None if text is None else _time(text)


def _until(text: str | None) -> datetime | None:
    """The first moment that is too late: a day or a second counts to its end."""
    if text is None:
        return None
    return _time(text) + (timedelta(days=1) if _DAY.fullmatch(text) else timedelta(seconds=1))


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"expected a day as 2026-11-20 or a time as 2026-11-20T08:00:00Z, got {text!r}"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _checkpoint_over(log: Path, index: int) -> str:
    """The newest checkpoint over entry `index`; one with witnesses' signatures if there is."""
    found: VerificationError | None = None
    for name in (COSIGNED, CHECKPOINT):
        path = log / name
        if not path.exists():
            continue
        try:
            note = path.read_text(encoding="utf-8")
            if parse_checkpoint(Note.parse(note).text).size > index:
                return note
        except (UnicodeDecodeError, VerificationError) as error:
            found = VerificationError(f"expected a checkpoint in {path}: {error}")
    raise found or ConfigError(f"expected a checkpoint over entry {index} in {log}")


def _path(log: Path, index: int, size: int, leaf: bytes) -> list[bytes]:
    """The proof from the tiles, or from all entries where tiles are missing or wrong."""
    tiles = TileReader(log, size)
    try:
        if tiles.leaf(index) == leaf:
            return tiles.inclusion(index)
    except ConfigError:
        say("note: the tiles do not fit this checkpoint; reading all entries instead")
    tree = Tree()
    for line in islice(_lines(log), size):
        tree.append(leaf_hash(line))
    if tree.size < size:
        raise TamperError(
            f"entry {tree.size} is missing: the checkpoint signs for {size} entries",
            entry=tree.size,
        )
    return tree.inclusion(index, size)


def as_line(index: int, entry: Entry) -> str:
    """An entry for a person."""
    at = format_time(entry.at)
    return (
        f"{index:>5}  {at}  {entry.party:<16} {entry.event.value:<19} {describe(entry)}".rstrip()
    )


def as_json(index: int, entry: Entry, opened: Mapping[str, str] | None = None) -> str:
    """An entry for a program, with the personal values that were opened."""
    more = {"opened": dict(opened)} if opened else {}
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
            **more,
        }
    )
