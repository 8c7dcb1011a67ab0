"""What an operator can act on becomes one line and an exit code, never a stack trace."""

import argparse
from collections.abc import Callable

import pytest

from privacy.console import FAILED, INTERRUPTED, OK, USAGE, Parser, UsageError, run
from privacy.errors import ConfigError, FederationError


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="tool", example="tool go")
    top.add_subparsers(dest="command", required=True).add_parser("go")
    return top


def call(handler: Callable[[argparse.Namespace], int]) -> int:
    return run(parser(), {"go": handler}, ["go"])


@pytest.mark.parametrize(
    ("error", "code", "talk"),
    [
        (ConfigError("expected a"), FAILED, "error: expected a\n"),
        (FederationError("no", hint="ask"), FAILED, "error: no\nhint: ask\n"),
        (UsageError("expected one of two"), USAGE, "error: expected one of two\n"),
        (FileNotFoundError(2, "No such file", "a.txt"), FAILED, "error: a.txt: No such file\n"),
        (BrokenPipeError(), OK, ""),
        (KeyboardInterrupt(), INTERRUPTED, "stopped\n"),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: BaseException,
    code: int,
    talk: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    assert call(fail) == code
    out, err = capfd.readouterr()
    assert (out, err) == ("", talk)


def test_a_handler_s_answer_is_the_exit_code() -> None:
    assert call(lambda _: 0) == OK
    assert call(lambda _: 1) == FAILED


def test_a_mistake_of_ours_is_not_hidden() -> None:
    def fail(_: argparse.Namespace) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(fail)
