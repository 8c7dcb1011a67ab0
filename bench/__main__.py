"""Command line of the comparisons: results to stdout, talk to stderr."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import round as federated_round


def main(argv: Sequence[str] | None = None) -> int:
    """Run one comparison and print it; 0 on success, 1 when a side could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measured comparisons with other systems.",
        epilog="example: python -m bench round --clients 4 --rounds 5 --json round.json",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    round_parser = commands.add_parser(
        "round",
        help="seconds a federated round takes with trivial clients, beside stock Flower",
        description="Seconds a federated round takes with trivial clients, beside stock Flower.",
        epilog="example: python -m bench round --clients 4 --rounds 5 --json round.json",
    )
    round_parser.add_argument(
        "--clients", type=int, default=4, help="number of clients (default 4)"
    )
    round_parser.add_argument(
        "--rounds", type=int, default=5, help="rounds a side; medians are taken (default 5)"
    )
    round_parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write machine and rows to FILE as JSON"
    )
    arguments = parser.parse_args(argv)
    if arguments.clients < 1 or arguments.rounds < 1:
        parser.error("expected at least one client and one round")
    machine = federated_round.machine()
    try:
        rows = [federated_round.compare(arguments.clients, arguments.rounds)]
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(machine)
    print(f"{'case':40}  {'cloister':>9}  {'stock':>9}  {'ratio':>7}")
    for row in rows:
        print(f"{row.case:40}  {row.ours:9.3f}  {row.other:9.3f}  {row.ratio:7.3f}")
    if arguments.json:
        content = {"machine": machine, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
