"""One SELECT and nothing else: what a query in `site.toml` may be.

The database enforces it as well, with a transaction that may only read; this look comes first, so
that a slip is told before a connection is opened. Strings, quoted names and comments are skipped,
because a semicolon in them ends nothing (PostgreSQL 15, 4.1 "Lexical Structure").
"""

import re

from privacy.errors import ConfigError

_SKIPPED = re.compile(
    r"""
    --[^\n]*                                  # a comment to the end of the line
    | /\*.*?\*/                               # a comment in between; a nested one is refused below
    | (?<![A-Za-z0-9_])[eE]'(?:[^'\\]|\\.|'')*'                # a string with escapes
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (\$[A-Za-z_0-9]*\$).*?\1                # a string between two equal tags
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z_]+")
# Each turns a SELECT into one that writes, or begins another statement.
_FORBIDDEN = frozenset(
    {"alter", "copy", "create", "delete", "drop", "grant", "insert", "into", "merge", "update"}
)


def check_select(query: str) -> str:
    """The query without a semicolon at its end, when it is one SELECT.

    Raises:
      ConfigError: It is several statements, or another one than SELECT.
    """
    statement = query.strip().removesuffix(";")
    code = _SKIPPED.sub(" ", statement).strip()
    words = [word.lower() for word in _WORD.findall(code)]
    # Whatever is left of a quote or a comment has no end, or lies in another one.
    if any(mark in code for mark in ("'", '"', "/*", "*/", ";")):
        raise _refused("several statements, or a quote or comment without end")
    if not words or words[0] not in ("select", "with") or not code[0].isalpha():
        raise _refused("another statement")
    forbidden = next((word for word in words if word in _FORBIDDEN), None)
    if forbidden:
        raise _refused(f"the word {forbidden.upper()}")
    return statement


def _refused(got: str) -> ConfigError:
    return ConfigError(
        f"data.query: expected one SELECT, got {got}",
        hint='a column of such a name stands in double quotes; a query only reads: "SELECT ..."',
    )
