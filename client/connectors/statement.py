"""One SELECT and nothing else: what a query in `site.toml` may be.

The database enforces it as well, with a transaction that may only read; a second statement could
end that transaction and begin another. Whether a semicolon lies in a string or a comment is for
the server to decide, whose lexer this one only resembles; therefore none is taken, wherever it
stands. Strings, quoted names and comments are skipped for the rest of the look (PostgreSQL 15, 4.1
"Lexical Structure").
"""

import re

from privacy.errors import ConfigError

_SKIPPED = re.compile(
    r"""
    --[^\n\r]*                                # a comment to the end of the line
    | /\*.*?\*/                               # a comment in between; a nested one is refused below
    | (?<![A-Za-z0-9_$\u0080-\U0010ffff])[eE]'(?:[^'\\]|\\.|'')*'   # a string with escapes
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    # A string between two equal tags; after a letter a dollar sign is part of a name.
    | (?<![A-Za-z0-9_$\u0080-\U0010ffff])(\$(?:[A-Za-z_][A-Za-z_0-9]*)?\$).*?\1
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z_]+")
# Each turns a SELECT into one that writes, or begins another statement.
_FORBIDDEN = frozenset(
    {"alter", "copy", "create", "delete", "drop", "grant", "insert", "into", "merge", "update"}
)


def check_select(query: str) -> str:
    """The query without semicolons at its end, when it is one SELECT.

    Raises:
      ConfigError: It holds another semicolon, even in a string or a comment, or is another
        statement than SELECT.
    """
    statement = query.strip().rstrip("; \t\r\n")
    if ";" in statement:
        raise ConfigError(
            "data.query: expected one SELECT, got a semicolon before its end",
            hint="none may stand there, not even in a string, a quoted name or a comment; "
            "in a string chr(59) takes its place",
        )
    code = _SKIPPED.sub(" ", statement).strip()
    words = [word.lower() for word in _WORD.findall(code)]
    # Whatever is left of a quote or a comment has no end, or lies in another one.
    if any(mark in code for mark in ("'", '"', "$", "/*", "*/")):
        raise _refused("a quote or comment without end, or a dollar sign in a name")
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
