"""What a person does with the site's own evidence: `cloister-site journal` and `witness`.

Nothing here deletes: an entry that is set aside, a checkpoint that was refused and a key that is
no longer used stay in the site's folder.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from client.home import SiteHome
from client.journal import Journal, Refusal
from client.witness import SiteWitness, make_key, resume, stopped
from privacy import console
from privacy.audit.entry import Event
from privacy.errors import ConfigError


def prepare_witness(home: SiteHome) -> None:
    """Make the key and the memory with which an enrolled site cosigns, where it has none yet."""
    journal = home.journal()
    try:
        _open(home, journal)
    finally:
        journal.close()


def _open(home: SiteHome, journal: Journal) -> SiteWitness:
    return SiteWitness(home, home.kit(), journal, lambda **_: None)


# -- cloister-site journal ------------------------------------------------------------------------


def show_journal(args: argparse.Namespace, send: Callable[[Sequence[bytes]], list[int]]) -> int:
    """Show what the log has of this site's entries; set one aside that it refuses.

    Args:
      args: The command's.
      send: Hands entries to the coordinator's log, over a line of its own.
    """
    home = SiteHome(args.home)
    home.config()
    journal = home.journal()
    try:
        if args.set_aside is not None:
            # The agent would send the old entry and the new one.
            with home.agent_lock():
                made = journal.set_aside(args.set_aside, send)
            if made is None:
                console.say(f"the log has entry {args.set_aside} by now: nothing is set aside")
            else:
                console.say(
                    f"entry {made.sequence} is kept here, and {made.event} is sent in its place"
                )
        return _say_journal(journal, as_json=args.json)
    finally:
        journal.close()


def _say_journal(journal: Journal, *, as_json: bool) -> int:
    lines = journal.lines()
    num_waiting = sum(index is None for _, index in lines)
    refused, aside = journal.refused(), journal.set_aside_entries()
    if as_json:
        console.result_json(
            {
                "entries": len(lines),
                "not_in_the_log": num_waiting,
                "refused": None if refused is None else _refusal(refused),
                "set_aside": [_refusal(entry) for entry in aside],
            }
        )
        return console.OK
    console.result(f"{len(lines)} entries, {num_waiting} of them not in the log yet")
    for entry in aside:
        console.result(f"set aside  {_describe(entry)}")
    if refused is not None:
        number = refused.entry.sequence
        console.result(f"refused    {_describe(refused)}")
        console.result(
            "           nothing after it is sent. If the log is wrong, have the coordinator"
            " correct it; else:"
        )
        console.result(f"           cloister-site journal --set-aside {number}")
    return console.OK


def _refusal(found: Refusal) -> dict[str, object]:
    entry = found.entry
    return {
        "sequence": entry.sequence,
        "event": str(entry.event),
        "digest": entry.digest,
        # What hashes to the digest, byte for byte: for an auditor who asks for it.
        "line": entry.line.decode(),
        "reason": found.reason,
        "at": found.at,
    }


def _describe(found: Refusal) -> str:
    entry = found.entry
    return f"{entry.sequence}  {entry.event}  {entry.digest[:23]}  {found.at}: {found.reason}"


# -- cloister-site witness ------------------------------------------------------------------------


def show_witness(args: argparse.Namespace) -> int:
    """Show, hand out or put right what this site has witnessed."""
    home = SiteHome(args.home)
    home.config()
    if args.resume or args.new_key:
        # A running agent holds the old key and the old state.
        with home.agent_lock():
            if args.new_key:
                make_key(home)
                console.say("a new key is made; the agent announces it when it starts")
            if args.resume:
                console.say(f"work may be taken again; all of it is kept in {resume(home)}")
    journal = home.journal()
    try:
        witness = _open(home, journal)
        announced = journal.newest(Event.WITNESS_ANNOUNCED)
    finally:
        journal.close()
    if args.out is not None:
        _write(args.out, witness)
    return _say_witness(home, witness, announced is not None, as_json=args.json)


def _write(path: Path, witness: SiteWitness) -> None:
    note = witness.seen.note
    if not note:
        raise ConfigError(
            "expected a checkpoint that this site has seen, got none yet",
            hint="cloister-site start: the agent asks for one",
        )
    path.write_text(note, encoding="utf-8")


def _say_witness(
    home: SiteHome, witness: SiteWitness, is_announced: bool, *, as_json: bool
) -> int:
    seen, why = witness.seen, stopped(home)
    if as_json:
        console.result_json(
            {
                "key": witness.vkey,
                "announced": is_announced,
                "entries": seen.size,
                "root": seen.root.hex(),
                "stopped": why,
            }
        )
    else:
        console.result(f"key        {witness.vkey}")
        console.result(f"cosigned   {seen.size} entries, root {seen.root.hex()}")
        if not is_announced:
            console.result("the key is not announced yet; the agent does that when it starts")
        if why is not None:
            folder = home.witness_folder / str(why["folder"])
            console.result(f"STOPPED    at {why['at']}: {why['reason']}")
            console.result(f"           both checkpoints are in {folder}")
    return console.OK if why is None else console.FAILED
