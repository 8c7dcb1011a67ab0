"""Command line of the comparisons: results to stdout, talk to stderr."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import round as federated_round
from bench.round import Row

_STEPS = {
    "dp-step": "seconds of a private training step, beside the same step without privacy",
    "expert-lora": (
        "seconds of a training step with LoRA on experts, beside transformers and peft"
    ),
    "memory": "memory of a private step, and of one with LoRA on experts, beside the same",
}
_NAMES = {"round": ("cloister", "stock")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one comparison and print it; 0 on success, 1 when a side could not be measured."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    counts = {k: v for k, v in vars(arguments).items() if isinstance(v, int)}
    if any(count < 1 for count in counts.values()):
        parser.error(f"expected at least one of each of {', '.join(counts)}")
    machine = federated_round.machine()
    ours, other = _NAMES.get(arguments.command, ("ours", "other"))
    found: list[Row] = []
    try:
        for row in _rows(arguments):
            if not found:
                print(machine)
                print(f"{'case':76}  {ours:>9}  {other:>9}  {'ratio':>7}")
            print(
                f"{row.case:76}  {row.ours:9.3f}  {row.other:9.3f}  {row.ratio:7.3f}", flush=True
            )
            found.append(row)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        content = {"machine": machine, "rows": [asdict(row) for row in found]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def _rows(arguments: argparse.Namespace) -> Iterator[Row]:
    if arguments.command == "round":
        yield federated_round.compare(arguments.clients, arguments.rounds)
        return
    # Imported here: torch takes seconds, and the comparison of rounds does without.
    from bench import dp_step, expert_lora, memory

    shared = {"threads": arguments.threads, "train": arguments.train}
    if arguments.command == "memory":
        yield from memory.rows(**shared)
        return
    measured = {"dp-step": dp_step.rows, "expert-lora": expert_lora.rows}[arguments.command]
    yield from measured(repeats=arguments.repeats, **shared)


def _parser() -> argparse.ArgumentParser:
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
    _add_json(round_parser)
    for name, text in _STEPS.items():
        step_parser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: python -m bench {name} --threads 1 --json {name}.json",
        )
        if name != "memory":
            step_parser.add_argument(
                "--repeats", type=int, default=9, help="pairs of steps a case (default 9)"
            )
        step_parser.add_argument(
            "--threads", type=int, default=1, help="threads of each side (default 1)"
        )
        step_parser.add_argument(
            "--train",
            choices=["AB", "B"],
            default="B" if name != "expert-lora" else "AB",
            help="which factors train (default %(default)s)",
        )
        _add_json(step_parser)
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write machine and rows to FILE as JSON"
    )


if __name__ == "__main__":
    sys.exit(main())
