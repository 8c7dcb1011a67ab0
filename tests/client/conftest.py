"""The consortium of `tests/privacy`, and a real PostgreSQL, for tests that talk to one."""

import os
from collections.abc import Iterator

import pytest

from tests.client.postgres import PASSWORD, Server, running, server_binaries
from tests.privacy.conftest import consortium, new_consortium

__all__ = ["consortium", "new_consortium"]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A real server with a table of notes, a role that reads, and one that could write."""
    binaries = server_binaries()
    if binaries is None:
        message = "no PostgreSQL is installed: the SQL connector is NOT TESTED on a real server"
        if os.environ.get("CLOISTER_REQUIRE_POSTGRESQL"):
            pytest.fail(message)
        # The summary at the end of a run (-ra) says it.
        pytest.skip(f"{message}; apt-get install postgresql")
    with running(binaries) as server:
        server.run(
            "CREATE TABLE notes (id bigint, patient text, note text, diagnosis text, seen date)",
            "INSERT INTO notes SELECT i, 'p' || i / 2, 'note ' || i, "
            "CASE WHEN i % 2 = 0 THEN 'flu' ELSE 'cold' END, date '2020-01-01' + i "
            "FROM generate_series(0, 2999) i",
            f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'",
            "GRANT SELECT ON notes TO reader",
            f"CREATE ROLE writer LOGIN PASSWORD '{PASSWORD}'",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO writer",
            "CREATE FUNCTION deletes() RETURNS integer LANGUAGE sql AS "
            "'DELETE FROM notes; SELECT 1'",
        )
        yield server
