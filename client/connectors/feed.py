"""Records for a training process that may open no connection: read outside, handed in by a pipe.

`python -m client.connectors.feed SITE_TOML` runs in a room of its own beside the training process:
it sees no private key, may open connections, and imports no torch. It reads the database, and
writes each record to a socket pair whose other end the training process was born with. So the
process with the records and a hundred packages reaches nobody, and the process that reaches the
database holds a row at a time and no password lies where the model is trained.

One request a line, its number; the answer is `begin` with that number, a line a record, and `end`
with their count, or `error`. What is left of an answer that was not read to its end is skipped by
its number. Without `end` nothing counts: half a table is no table.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from client.config import load_config
from client.connectors.compose import compose, open_connector
from client.connectors.record import Record
from client.sources import AnyData
from privacy.errors import ConfigError, FederationError

FD_VARIABLE: Final = "CLOISTER_FEED_FD"


class FeedEndedError(Exception):
    """The reading process is gone.

    No FederationError, because it ends the training process too: both are started again together.
    """


class FedRecords:
    """The records that come through the pipe, as often as they are asked for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines = os.fdopen(descriptor, "rb", closefd=False)
        self._number = 0

    def records(self, place: str) -> Iterator[Record]:
        """All records, with their texts.

        Raises:
          ConfigError: The source cannot be read.
          FeedEndedError: The reading process ended before the records did.
        """
        self._number += 1
        try:
            os.write(self._descriptor, b"%d\n" % self._number)
        except OSError:
            raise FeedEndedError(place) from None
        while self._line(place).get("begin") != self._number:
            pass
        num_records = 0
        while True:
            line = self._line(place)
            if "record" in line:
                num_records += 1
                unit_id, record_id, at, fields = line["record"]
                yield Record(unit_id=unit_id, record_id=record_id, place=at, fields=fields)
            elif "error" in line:
                raise ConfigError(line["error"], hint=line["hint"])
            elif line.get("end") == num_records:
                return
            else:
                raise FeedEndedError(place)

    def _line(self, place: str) -> dict[str, Any]:
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise FeedEndedError(place)
        content: dict[str, Any] = json.loads(line)
        return content


def inherited() -> FedRecords | None:
    """The pipe that this process was born with, None where it may read for itself."""
    descriptor = os.environ.pop(FD_VARIABLE, "")
    if descriptor:
        os.set_inheritable(int(descriptor), False)
        return FedRecords(int(descriptor))
    return None


def serve(data: AnyData, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests for the records until nobody is left who asks."""
    for request in requests:
        _write(answers, begin=int(request))
        num_records = 0
        try:
            for record in compose(data, open_connector(data).records()):
                _write(
                    answers,
                    record=(record.unit_id, record.record_id, record.place, dict(record.fields)),
                )
                num_records += 1
        except FederationError as error:
            _write(answers, error=str(error), hint=error.hint)
        else:
            _write(answers, end=num_records)
        answers.flush()


def _write(answers: BinaryIO, **content: object) -> None:
    answers.write(json.dumps(content).encode() + b"\n")


def main() -> int:
    """Serve the source of the `site.toml` that the command line names."""
    descriptor = int(os.environ.pop(FD_VARIABLE))
    data = load_config(Path(sys.argv[1])).data
    with os.fdopen(descriptor, "rb") as requests, os.fdopen(os.dup(descriptor), "wb") as answers:
        serve(data, requests, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
