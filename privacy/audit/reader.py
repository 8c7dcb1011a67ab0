"""Entries read and their signatures checked, by one process or by several.

Nine tenths of the time that a log takes to check go into the form and the signature of single
entries, which no other entry matters for. So they are given out in chunks; the order in which they
come back is the log's.
"""

import multiprocessing
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from privacy.audit.entry import Entry, parse_entry
from privacy.audit.keys import KeyRing, PartyKey
from privacy.audit.log import check_signer
from privacy.errors import ConfigError, VerificationError

CHUNK = 500
# Chunks that wait for each process: enough that none is idle, few enough for memory.
_AHEAD = 3

Read = tuple[bytes, Entry | None, VerificationError | None]


def read_entries(
    lines: Iterable[bytes], keys: KeyRing, *, num_jobs: int = 1
) -> Generator[Read, None, None]:
    """Each line with its entry, and with what is wrong with its form or its signature.

    Args:
      lines: Of the log, in order.
      keys: Whose signatures count.
      num_jobs: Processes; 1 reads here, one entry at a time.

    Raises:
      ValueError: There are less than one process.
      ConfigError: A process died.
    """
    if num_jobs < 1:
        raise ValueError(f"expected at least one process, got {num_jobs}")
    if num_jobs == 1:
        for line in lines:
            yield _read(line, keys)
        return
    source = iter(lines)
    # Spawned, not forked: a fork of a program with threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_jobs, context, _take_keys, (list(keys),)) as pool:
        waiting: deque[Future[list[Read]]] = deque()
        late: list[VerificationError] = []
        try:
            while True:
                while len(waiting) < _AHEAD * num_jobs and (chunk := _chunk(source, late)):
                    waiting.append(pool.submit(_read_chunk, chunk))
                if not waiting:
                    break
                yield from waiting.popleft().result()
            if late:
                raise late[0]
        except BrokenProcessPool:
            raise ConfigError(
                "a process that checked signatures died", hint="try again with --jobs 1"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _chunk(source: Iterator[bytes], late: list[VerificationError]) -> list[bytes]:
    """The next lines. What is wrong with the file behind them is kept until they are given out."""
    chunk: list[bytes] = []
    if late:
        return chunk
    try:
        chunk.extend(islice(source, CHUNK))
    except VerificationError as error:
        late.append(error)
    return chunk


def _read(line: bytes, keys: KeyRing) -> Read:
    entry = None
    try:
        entry = parse_entry(line)
        check_signer(entry, keys)
    except VerificationError as error:
        return line, entry, error
    return line, entry, None


_keys = KeyRing()


def _take_keys(keys: list[PartyKey]) -> None:
    for key in keys:
        _keys.add(key)


def _read_chunk(lines: list[bytes]) -> list[Read]:
    return [_read(line, _keys) for line in lines]
