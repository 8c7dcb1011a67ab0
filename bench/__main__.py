"""Command line of the comparisons: results to stdout, talk to stderr."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench import round as federated_round
from bench.round import Row
from privacy.errors import FederationError

if TYPE_CHECKING:
    from bench import audit, fine_tune, masking, quality

_STEPS = {
    "dp_step": "seconds of a private training step, beside the same step without privacy",
    "expert_lora": (
        "seconds of a training step with LoRA on experts, beside transformers and peft"
    ),
    "memory": "memory of a private step, and of one with LoRA on experts, beside the same",
}
_NAMES = {"round": ("cloister", "stock")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one comparison and print it; 0 on success, 1 when a side could not be measured."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command in ("quality", "fine_tune"):
        return _quality(parser, arguments)
    if arguments.command == "audit":
        return _audit(parser, arguments)
    if arguments.command == "masking":
        return _masking(arguments)
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
    _write_json(arguments, machine, found)
    return 0


def _quality(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    from bench import fine_tune, quality

    try:
        recipe = quality.recipe(arguments)
        epsilons = quality.read_epsilons(arguments.epsilon)
        settings = quality.read_settings(getattr(arguments, "settings", "alone"))
    except ValueError as error:
        parser.error(str(error))
    found: list[quality.Row | fine_tune.Row] = []
    try:
        study = quality.Study(arguments.train, arguments.test, recipe, base=arguments.base)
        machine = federated_round.machine()
        print(machine)
        if arguments.command == "quality":
            for row in study.rows(epsilons, arguments.seeds, settings):
                print(quality.line(row), flush=True)
                found.append(row)
                _write_json(arguments, machine, found)
        else:
            for epsilon in epsilons:
                for tuned in fine_tune.rows(study, arguments.records, epsilon):
                    print(fine_tune.line(tuned), flush=True)
                    found.append(tuned)
                    _write_json(arguments, machine, found)
    except (RuntimeError, OSError, FederationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _write_json(
    arguments: argparse.Namespace,
    machine: str,
    found: "Sequence[Row | audit.Row | fine_tune.Row | masking.Row | quality.Row]",
) -> None:
    if arguments.json:
        content = {"machine": machine, "rows": [asdict(row) for row in found]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _audit(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    from bench import audit

    if min(arguments.entries, arguments.signed, arguments.batch) < 1:
        parser.error("expected at least one of each of entries, signed, batch")
    machine = federated_round.machine()
    print(machine)
    print(f"{'case':72}  {'unit':>9}  {'ours':>12}  {'other':>12}  {'ratio':>7}")
    found: list[audit.Row] = []
    for row in audit.rows(
        num_entries=arguments.entries, num_signed=arguments.signed, batch=arguments.batch
    ):
        print(audit.line(row), flush=True)
        found.append(row)
    _write_json(arguments, machine, found)
    return 0


def _masking(arguments: argparse.Namespace) -> int:
    from bench import masking

    machine = federated_round.machine()
    print(machine)
    found: list[masking.Row] = []
    try:
        for row in masking.rows(arguments.data, say=lambda text: print(text, file=sys.stderr)):
            print(masking.line(row), flush=True)
            found.append(row)
    except (RuntimeError, OSError, FederationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _write_json(arguments, machine, found)
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
    measured = {"dp_step": dp_step.rows, "expert_lora": expert_lora.rows}[arguments.command]
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
            default="B" if name != "expert_lora" else "AB",
            help="which factors train (default %(default)s)",
        )
        _add_json(step_parser)
    _add_quality(commands)
    _add_audit(commands)
    _add_masking(commands)
    return parser


def _add_audit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "durable appends a second and the time to check a log, beside a plain SQLite table"
    parser = commands.add_parser(
        "audit",
        help=text,
        description=f"{text[0].upper()}{text[1:]}, one thread. Beside pymerkle too, where it is"
        " installed.",
        epilog="example: python -m bench audit --entries 1000000 --json audit.json",
    )
    add = parser.add_argument
    add("--entries", type=int, default=1_000_000, help="in the tree (default %(default)s)")
    add("--signed", type=int, default=20_000, help="signed and appended (default %(default)s)")
    add("--batch", type=int, default=1000, help="entries of one sync (default %(default)s)")
    _add_json(parser)


def _add_masking(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "personal data found, needlessly masked text and speed, beside stock Presidio"
    parser = commands.add_parser(
        "masking",
        help=text,
        description=f"{text[0].upper()}{text[1:]} with no model. A set is a file "
        "NAME/NAME.jsonl.gz of rows {id, text, spans}; a set that is missing is skipped.",
        epilog="example: python -m bench masking --data DIR --json masking.json",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the sets")
    _add_json(parser)


def _add_quality(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "held-out loss and accuracy of base, each site alone, pooled and federated"
    parser = commands.add_parser(
        "quality",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. A party is a file NAME.jsonl.gz of rows "
        "{id, prompt, label}, of the same name in both folders. Text is taken as it is, unmasked: "
        "for public data only.",
        epilog="example: python -m bench quality --train DIR --test DIR --epsilon 8,inf --seeds 3",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs a setting (default %(default)s)"
    )
    parser.add_argument(
        "--settings",
        default="alone,pooled,federated",
        help="which are trained, beside the base (default %(default)s)",
    )
    _add_recipe(parser)
    text = "minutes, size of the adapter and accuracy of one site's fine-tuning on few records"
    parser = commands.add_parser(
        "fine_tune",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Parties as for quality.",
        epilog="example: python -m bench fine_tune --train DIR --test DIR --records 500,1000",
    )
    parser.add_argument(
        "--records",
        type=_counts,
        default=(500, 1000),
        help="units of each party that are trained on (default 500,1000)",
    )
    _add_recipe(parser)


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(count) for count in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, got {text}")
    return counts


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--train", type=Path, required=True, metavar="DIR", help="parties to train on")
    add("--test", type=Path, required=True, metavar="DIR", help="the same parties' other rows")
    add("--epsilon", default="8,inf", help="epsilons, or inf (default %(default)s)")
    add("--rounds", type=int, default=20, help="rounds (default %(default)s)")
    add("--base", type=Path, metavar="DIR", help="a base's folder (default: the embedded one)")
    add("--rank", type=int, default=32, help="LoRA's rank (default %(default)s)")
    add("--alpha", type=float, default=64.0, help="LoRA's alpha (default %(default)s)")
    add("--targets", default="shared", help="what is adapted (default %(default)s)")
    add("--max-tokens", type=int, default=32, help="a sequence (default %(default)s)")
    add("--clip-norm", type=float, default=0.3, help="of a unit (default %(default)s)")
    add("--sample-rate", type=float, default=0.2, help="of a step (default %(default)s)")
    add("--steps", type=int, default=1, help="steps a round (default %(default)s)")
    add("--server-rate", type=float, default=0.06, help="of server Adam (default %(default)s)")
    add(
        "--max-noise-gain",
        type=float,
        default=2.5,
        help="most that a step under known noise is made longer by (default %(default)s)",
    )
    add(
        "--decay",
        choices=("none", "cosine"),
        default="cosine",
        help="of the server's rate over the rounds (default %(default)s)",
    )
    add("--max-test", type=int, default=0, help="test rows a site, 0 for all (default)")
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write machine and rows to FILE as JSON"
    )


if __name__ == "__main__":
    sys.exit(main())
