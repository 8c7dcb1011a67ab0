"""Masking of a file of any size on all cores, in bounded memory and in order.

The input is cut into chunks of whole lines; worker processes mask them, at most two chunks a
worker are on their way, and their answers are written in the order of the input. Workers come from
a fork server that has loaded the recognisers once, so they share what they do not change. A worker
answers with rows or with an error in words; the text of any other exception is never looked at,
because it may be a record's.
"""

import gzip
import json
import multiprocessing
import os
import select
import signal
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from client.masking.checkpoint import Output
from client.masking.rows import RowMasker, RowSettings, RowStats
from privacy.errors import ConfigError, FederationError, MaskingError

MAX_LINE_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
CHUNK_LINES = 1000
_GZIP_MAGIC = b"\x1f\x8b"

Progress = Callable[[int], None]


class InputFile:
    """The lines of a JSON Lines file, plain or gzip; blank ones are lines too.

    Attributes:
      num_bytes: Size of the file.
    """

    def __init__(self, path: Path) -> None:
        """Look at the file.

        Raises:
          ConfigError: It cannot be read.
        """
        self._path = path
        try:
            with path.open("rb") as opened:
                self._is_gzip = opened.read(2) == _GZIP_MAGIC
            self.num_bytes = path.stat().st_size
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None

    def lines(self, progress: Progress | None = None) -> Iterator[bytes]:
        """Each line with its end; `progress` is told how many bytes of the file were read.

        Raises:
          ConfigError: The file cannot be read to its end, or a line is too long.
        """
        try:
            with self._path.open("rb") as raw:
                opened = gzip.GzipFile(fileobj=raw) if self._is_gzip else raw
                number = 0
                while line := opened.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if len(line) > MAX_LINE_BYTES:
                        raise ConfigError(
                            f"{self._path}, line {number}: expected at most {MAX_LINE_BYTES} bytes"
                        )
                    if progress is not None and number % 100 == 0:
                        progress(raw.tell())
                    yield line
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(
                f"cannot read {self._path}: {type(error).__name__}",
                hint="check that the file is readable and complete",
            ) from None


def as_lines(rows: Iterable[dict[str, object]]) -> Iterator[bytes]:
    """Rows of another source as lines."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a worker made of a chunk: rows, or why not."""

    rows: bytes
    stats: RowStats
    error: tuple[str, str] | None = None


_masker: RowMasker | None = None


def _begin_worker(main_pid: int) -> None:
    # Ctrl-C is the main process' to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main = os.pidfd_open(main_pid)
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(target=_end_with, args=(main,), daemon=True).start()


def _end_with(main: int) -> None:
    """End this process when the main one has: it would wait for its next chunk for ever."""
    poller = select.poll()
    poller.register(main, select.POLLIN)
    poller.poll()
    os._exit(1)


def _mask_chunk(settings: RowSettings, first: int, lines: list[bytes]) -> _Answer:
    """In a worker: the masked rows of a chunk whose first line has number `first`."""
    global _masker
    stats = RowStats()
    try:
        if _masker is None:
            _masker = RowMasker(settings)
        rows = [
            _masker.mask_line(line, number, stats)
            for number, line in enumerate(lines, start=first)
            if line.strip()
        ]
    except FederationError as error:
        return _Answer(b"", stats, (str(error), error.hint))
    return _Answer(b"".join(rows), stats)


def mask_lines(
    lines: Iterator[bytes], settings: RowSettings, *, output: Output | None, num_jobs: int
) -> RowStats:
    """Mask all lines on `num_jobs` processes; returns what was masked, earlier starts included.

    Without an output the rows are counted and forgotten.

    Raises:
      ConfigError: A line is no row; what was done before its chunk is kept.
      MaskingError: A recogniser failed.
    """
    stats = RowStats() if output is None else output.stats
    first = 1 if output is None else output.num_lines + 1
    if output is not None:
        lines = output.unread(lines)
    context = multiprocessing.get_context("forkserver")
    # With a model each worker loads it first: what it needs must not be loaded in part before.
    rules = ["privacy.masking.presidio"] if settings.ner == "none" else []
    context.set_forkserver_preload(["client.masking.rows", *rules])
    waiting: deque[tuple[int, list[bytes], Future[_Answer]]] = deque()
    executor = ProcessPoolExecutor(
        num_jobs, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(),)
    )
    try:
        for chunk in _chunks(lines):
            waiting.append((first, chunk, executor.submit(_mask_chunk, settings, first, chunk)))
            first += len(chunk)
            if len(waiting) >= 2 * num_jobs:
                _take(waiting, output, stats)
        while waiting:
            _take(waiting, output, stats)
    finally:
        if output is not None:
            # What was done is kept, whatever ended it.
            output.commit()
        executor.shutdown(wait=True, cancel_futures=True)
    return stats


def _take(
    waiting: deque[tuple[int, list[bytes], Future[_Answer]]],
    output: Output | None,
    stats: RowStats,
) -> None:
    """Wait for the first answer and write it."""
    first, chunk, future = waiting.popleft()
    failed = future.exception()
    if failed is not None:
        raise MaskingError(
            f"masking of lines {first} to {first + len(chunk) - 1} failed with"
            f" {type(failed).__name__}",
            hint="memory has often run out: take fewer --jobs; what was done is kept",
        )
    answer = future.result()
    if answer.error is not None:
        message, hint = answer.error
        raise ConfigError(message, hint=hint)
    if output is None:
        stats.add(answer.stats)
    else:
        output.write(chunk, answer.rows, answer.stats)


def _chunks(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    num_bytes = 0
    for line in lines:
        chunk.append(line)
        num_bytes += len(line)
        if num_bytes >= CHUNK_BYTES or len(chunk) >= CHUNK_LINES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
