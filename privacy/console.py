"""How every command of ours talks: results on stdout, talk on stderr, and three exit codes.

0 means done, 1 refused or failed, 2 used wrongly. An error is one line `error: ...` and, where the
reader can do something, a line `hint: ...`; never a stack trace for what an operator can act on.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from privacy.errors import ConfigError, FederationError
from privacy.version import VERSION

OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130
_KEY = re.compile(r"[0-9a-f]{64}|[0-9a-f]{2624}")

Handler = Callable[[argparse.Namespace], int]


class UsageError(ConfigError):
    """The command was called in a way that cannot mean anything."""


class Parser(argparse.ArgumentParser):
    """A parser whose help keeps its line breaks and which takes no abbreviated options."""

    def __init__(self, *args: object, example: str = "", **kwargs: object) -> None:
        if example:
            lines = "".join(f"\n  {line}" for line in example.splitlines())
            kwargs["epilog"] = "example:" + lines
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Say what was wrong with the call, and exit with 2."""
        self.print_usage(sys.stderr)
        print(f"error: {message}", file=sys.stderr)
        print(f"hint: see `{self.prog} --help`", file=sys.stderr)
        sys.exit(USAGE)


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Whose signatures on a log count."""
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="the parties' public keys (keys.json); by default those that lie with the log",
    )


def public_key(text: str) -> bytes:
    """An argument that is a public key in hex."""
    if not _KEY.fullmatch(text):
        raise argparse.ArgumentTypeError("expected a public key of 64 or 2624 hex digits")
    return bytes.fromhex(text)


def say(text: str) -> None:
    """Talk to the person: stderr, so that a pipe gets results only."""
    print(text, file=sys.stderr, flush=True)


def result(text: str) -> None:
    """One line of the result, on stdout."""
    print(text, flush=True)


def result_json(value: object) -> None:
    """The result for a program, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False), flush=True)


def complain(error: FederationError) -> None:
    """Say on stderr what went wrong and what can be done."""
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def run(
    parser: argparse.ArgumentParser,
    handlers: Mapping[str, Handler],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the call, run the handler named by its `command`, and turn errors into exit codes.

    Raises:
      SystemExit: With 0 after `--help` and `--version` and 2 after a wrong call, as argparse does.
    """
    parser.add_argument(
        "--version",
        action="version",
        version=f"{parser.prog} {VERSION}",
        help="say which version this is, and exit",
    )
    args = parser.parse_args(argv)
    try:
        return handlers[args.command](args)
    except UsageError as error:
        complain(error)
        return USAGE
    except FederationError as error:
        complain(error)
        return FAILED
    except BrokenPipeError:
        # The reader of stdout is gone (`| head`): what it wanted, it has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        print(f"error: {name}{error.strerror or type(error).__name__}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
