"""What `cloister-site mask` takes; apart from the rest, so that `--help` loads no recogniser."""

import argparse
from pathlib import Path

from privacy.masking.config import ENTITY_TYPES, LANGUAGES, MODES

DEFAULT_PREVIEW = 20


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Everything that `mask` takes."""
    what = command.add_mutually_exclusive_group()
    what.add_argument("--input", type=Path, metavar="FILE", help="JSON Lines, plain or gzip")
    what.add_argument(
        "--source",
        metavar="NAME",
        help="the only value is `data`: the records that site.toml names",
    )
    command.add_argument(
        "--preview",
        type=int,
        nargs="?",
        const=DEFAULT_PREVIEW,
        metavar="N",
        help="print the text of the first N rows (default: 20) and what masking makes of it, to "
        "this terminal; nothing of it goes into a log",
    )
    command.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="the same as a page for a browser, mode 0600; as confidential as the records",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write all rows masked, mode 0600; goes on where an earlier start was ended",
    )
    command.add_argument(
        "--spans",
        action="store_true",
        help="keep rows as they are and add masked and spans, with offsets into the original",
    )
    command.add_argument(
        "--field", default="", metavar="NAME", help="field for --spans (default: text or prompt)"
    )
    command.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this field as it is; may be repeated",
    )
    command.add_argument(
        "--subject",
        default="",
        metavar="NAME",
        help="field that says whose row it is: with surrogates its dates move together "
        "(default: unit_id where there is one, else each row is its own)",
    )
    command.add_argument("--stats", action="store_true", help="counts by type, share, throughput")
    command.add_argument(
        "--languages", nargs="+", choices=LANGUAGES, default=["en"], help="default: en"
    )
    command.add_argument(
        "--types",
        nargs="+",
        choices=ENTITY_TYPES,
        default=list(ENTITY_TYPES),
        metavar="TYPE",
        help="entity types to mask (default: all)",
    )
    command.add_argument(
        "--mode", choices=MODES, default="placeholder", help="default: placeholder"
    )
    command.add_argument(
        "--key-id", default="", help="surrogate key to use (default: the newest of this site)"
    )
    command.add_argument(
        "--new-key",
        action="store_true",
        help="make a surrogate key, use it from now on, and print its id; earlier ones stay",
    )
    command.add_argument(
        "--jobs", type=int, default=0, help="processes (default: one a core; about 100 MB each)"
    )
