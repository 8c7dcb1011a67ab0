"""`cloister-site mask`: see, measure and make masked copies of this site's records, at home."""

import argparse
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator

from client import dataset
from client.home import SiteHome
from client.masking.arguments import DEFAULT_PREVIEW
from client.masking.checkpoint import Output
from client.masking.preview import Row, as_page, as_terminal, refuse_existing, write_page
from client.masking.rows import Piece, RowMasker, RowSettings, RowStats
from client.masking.stream import InputFile, Progress, as_lines, mask_lines, num_cores
from privacy import console
from privacy.console import UsageError
from privacy.masking.config import MaskingConfig
from privacy.version import VERSION

_BAR_WIDTH = 30
_BAR_EVERY_S = 0.5


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    home = SiteHome(args.home)
    if args.new_key:
        key = home.add_surrogate_key()
        _show(args, {"key_id": key.key_id}, f"key {key.key_id}, in use from now on")
        return console.OK
    _check_usage(args)
    lines, file = _lines(args, home)
    settings = _settings(args, home, lines)
    shown = args.preview
    if shown is None and not (args.output or args.stats):
        shown = DEFAULT_PREVIEW
    if shown is not None:
        _preview(args, settings, lines(None), shown)
    if args.output or args.stats:
        _mask_all(args, settings, lines, file)
    return console.OK


def _check_usage(args: argparse.Namespace) -> None:
    if args.input is None and args.source is None:
        raise UsageError("expected --input FILE or --source NAME, got neither")
    if args.spans and args.output is None:
        raise UsageError("expected --output FILE with --spans, got none")
    if args.field and not args.spans:
        raise UsageError("expected --spans with --field, got none")
    if args.keep and args.spans:
        raise UsageError("expected no --keep with --spans: rows are kept as they are")
    if args.html and not args.preview and (args.output or args.stats):
        raise UsageError("expected --preview N with --html, got none")
    if (args.preview is not None and args.preview < 1) or args.jobs < 0:
        raise UsageError("expected --preview and --jobs of at least 1")


class _Lines:
    """The lines of the input from their beginning, as often as they are asked for."""

    def __init__(self, args: argparse.Namespace, home: SiteHome, file: InputFile | None) -> None:
        self._source, self._home, self._file = args.source, home, file

    def __call__(self, progress: Progress | None) -> Iterator[bytes]:
        if self._file is not None:
            return self._file.lines(progress)
        return as_lines(dataset.source_rows(self._home.config(), self._source))


def _lines(args: argparse.Namespace, home: SiteHome) -> tuple[_Lines, InputFile | None]:
    file = None if args.input is None else InputFile(args.input)
    return _Lines(args, home, file), file


def _settings(args: argparse.Namespace, home: SiteHome, lines: _Lines) -> RowSettings:
    try:
        masking = MaskingConfig(
            languages=tuple(sorted(set(args.languages))),
            entity_types=tuple(sorted(set(args.types))),
            mode=args.mode,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    field = args.field
    if args.spans and not field:
        field = _default_field(next(lines(None), b""))
    return RowSettings(
        masking=masking,
        key=home.surrogate_key(args.key_id) if args.mode == "surrogate" else None,
        keep=tuple(sorted(set(args.keep))),
        subject=args.subject,
        spans_of=field if args.spans else "",
        ner=home.config().masking.ner if home.config_path.exists() else "none",
        source=str(args.input or f"source {args.source}"),
    )


def _default_field(line: bytes) -> str:
    # Only names of fields are looked for; the row is parsed where it is masked.
    return "text" if b'"text"' in line else "prompt"


def _preview(
    args: argparse.Namespace, settings: RowSettings, lines: Iterator[bytes], num_rows: int
) -> None:
    if args.html:
        refuse_existing(args.html)
    masker = RowMasker(settings)
    rows: list[Row] = []
    filled = ((n, line) for n, line in enumerate(lines, start=1) if line.strip())
    for number, line in itertools.islice(filled, num_rows):
        for name, pieces in masker.preview(line, number):
            rows.append((f"line {number}, {name}", pieces))
    if args.html:
        write_page(args.html, as_page(rows, f"Masking preview: {settings.source}"))
        console.say(f"{args.html} shows {num_rows} rows at most; open it in a browser")
    if args.json:
        console.result_json([_row_json(where, pieces) for where, pieces in rows])
    elif not args.html or args.preview is not None:
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        for text in as_terminal(rows, width=shutil.get_terminal_size().columns, colours=colours):
            console.result(text)


def _row_json(where: str, pieces: list[Piece]) -> dict[str, object]:
    return {
        "where": where,
        "original": "".join(piece.original for piece in pieces),
        "masked": "".join(piece.masked for piece in pieces),
        "types": [piece.entity_type for piece in pieces if piece.entity_type],
    }


def _mask_all(
    args: argparse.Namespace, settings: RowSettings, lines: _Lines, file: InputFile | None
) -> None:
    num_jobs = args.jobs or num_cores()
    begun = time.monotonic()
    bar = _Bar(file.num_bytes if file else 0)
    num_before = 0
    if args.output is None:
        stats = mask_lines(lines(bar), settings, output=None, num_jobs=num_jobs)
    else:
        described = settings.describe() | {"version": VERSION}
        with Output(args.output, described) as output:
            num_before = output.stats.num_characters
            if output.num_lines:
                console.say(f"going on after line {output.num_lines:,} of an earlier start")
            stats = mask_lines(lines(bar), settings, output=output, num_jobs=num_jobs)
            output.finish()
    bar.end()
    seconds = time.monotonic() - begun
    if args.output:
        console.say(f"{stats.num_rows:,} rows in {args.output}")
    if args.stats or args.json:
        rate = (stats.num_characters - num_before) / max(seconds, 1e-9)
        _show_stats(args, stats, seconds, rate, num_jobs)


def _show_stats(
    args: argparse.Namespace, stats: RowStats, seconds: float, rate: float, num_jobs: int
) -> None:
    share = stats.num_masked_characters / max(stats.num_characters, 1)
    counts = dict(sorted(stats.num_masked.items()))
    if args.json:
        console.result_json(
            {
                "rows": stats.num_rows,
                "characters": stats.num_characters,
                "masked_share": round(share, 6),
                "masked": counts,
                "seconds": round(seconds, 3),
                "characters_per_s": round(rate),
                "jobs": num_jobs,
            }
        )
        return
    for entity_type, count in counts.items():
        console.result(f"{entity_type:20} {count:>12,}")
    console.result(
        f"{stats.num_rows:,} rows, {stats.num_characters:,} characters, {100 * share:.2f} % masked"
    )
    console.result(f"{seconds:.1f} s, {rate:,.0f} characters a second on {num_jobs} processes")


class _Bar:
    """A progress bar on stderr, where that is a terminal."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._shown = sys.stderr.isatty() and num_bytes > 0
        self._at = 0.0

    def __call__(self, num_read: int) -> None:
        now = time.monotonic()
        if not self._shown or now - self._at < _BAR_EVERY_S:
            return
        self._at = now
        share = min(1.0, num_read / self._num_bytes)
        bar = "█" * int(share * _BAR_WIDTH)
        sys.stderr.write(f"\r{bar:░<{_BAR_WIDTH}} {100 * share:5.1f} % ")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            sys.stderr.write("\r" + " " * (_BAR_WIDTH + 10) + "\r")
            sys.stderr.flush()


def _show(args: argparse.Namespace, value: object, text: str) -> None:
    if args.json:
        console.result_json(value)
    else:
        console.result(text)
