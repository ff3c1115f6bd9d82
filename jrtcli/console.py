"""The screen: answers on stdout, everything else on stderr, both cleaned. The only importer of rich."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from jrtcli.clean import Cleaner, clean, clean_line
from jrtcli.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, JrtError
from jrtcli.streams import discard, open_closed

EXIT_PIPE_CLOSED = 141
"""What the shell reports for a program that lost its reader (128 + SIGPIPE)."""

_JSON_ESCAPED = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class _RichConsole(RichConsole):
    def on_broken_pipe(self) -> None:
        # Rich would end the program here; `run` decides how it ends.
        raise BrokenPipeError


def _rich(stream: TextIO, terminal: bool) -> RichConsole:
    dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
    plain = not terminal or dumb or bool(os.environ.get("NO_COLOR"))
    return _RichConsole(
        file=stream,
        force_terminal=terminal,
        color_system=None if plain else "auto",
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )


class Progress:
    """How far a long job is: a live line on a terminal, a plain line now and then elsewhere."""

    def __init__(
        self, console: Console, description: str, total: int | None, unit: str, every_s: float | None
    ) -> None:
        self.console, self.description, self.unit = console, description, unit
        self.total, self.every_s = total, every_s
        self.started = self.said = time.perf_counter()
        self.first: int | None = None
        self.live: Live | None = None

    def update(self, done: int, total: int | None = None, **fields: object) -> None:
        """`done` of `total` units; further fields are shown as `name value`."""
        self.total = total if total is not None else self.total
        now = time.perf_counter()
        if self.first is None:
            # A resumed job starts at its old count: what was done before is not this run's speed.
            self.first, self.started = done, now
        text = self._line(done, now, fields)
        if self.live is not None:
            self.live.update(Spinner("dots", Text(text, style="cyan", overflow="ellipsis", no_wrap=True)))
        elif self.every_s is not None and (now - self.said >= self.every_s or done == self.total):
            self.said = now
            self.console.note(text)

    def _line(self, done: int, now: float, fields: dict[str, object]) -> str:
        of = f"/{self.total:,}" if self.total else ""
        parts = [f"{self.description} {done:,}{of} {self.unit}".rstrip()]
        for name, value in fields.items():
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        seconds = now - self.started
        fresh = done - (self.first or 0)
        if self.total and fresh > 0 and done < self.total and seconds > 1:
            parts.append(f"{_clock(seconds * (self.total - done) / fresh)} left")
        return " · ".join(parts)


def _clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Answer:
    """One answer on stdout as it is made: cleaned, flushed token by token, ended by a newline."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._cleaner, self._last = stream, Cleaner(), "\n"

    def push(self, text: str) -> None:
        self._write(self._cleaner.push(text))

    def end(self) -> None:
        """Close the line, also when nothing was said: one answer, one line."""
        self._write(self._cleaner.flush())
        self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()


class Console:
    """What a command writes with. `quiet` silences notes, warnings, reports and progress; never errors."""

    def __init__(
        self, *, quiet: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.quiet = quiet
        self.stdout = stdout if stdout is not None else sys.stdout
        self.stderr = stderr if stderr is not None else sys.stderr
        self.stdout_terminal = self.stdout.isatty()
        self.stderr_terminal = self.stderr.isatty()
        self._out = _rich(self.stdout, self.stdout_terminal)
        self._err = _rich(self.stderr, self.stderr_terminal)

    def answer(self) -> Answer:
        """A new answer stream."""
        return Answer(self.stdout)

    def out(self, text: str = "", *, style: str = "") -> None:
        """Text on stdout, cleaned, never wrapped; `style` only where it is a terminal."""
        self._out.print(Text(clean(text), style=style), soft_wrap=True)

    def json(self, value: object) -> None:
        """One JSON value on stdout: exact, and yet without a character that acts on a terminal."""
        self.stdout.write(dumps(value, ascii_only=not _is_utf8(self.stdout)) + "\n")
        self.stdout.flush()

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        title: str | None = None,
        error: bool = False,
        droppable: Sequence[str] = (),
    ) -> None:
        """A table on stdout (`error`: stderr), fitted to a terminal; elsewhere each row is one whole line.

        droppable: columns that a narrow terminal does without, the first one first; a note names them.
        """
        if error and self.quiet:
            return
        cells = [[clean("" if cell is None else str(cell)) for cell in row] for row in rows]
        right = [_numeric([row[i] for row in cells]) for i in range(len(columns))]
        screen, terminal = (self._err, self.stderr_terminal) if error else (self._out, self.stdout_terminal)
        if terminal:
            kept = _fitting(columns, cells, droppable, screen.width)
            table = Table(title=title, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
            for i in kept:
                table.add_column(Text(columns[i]), justify="right" if right[i] else "left", overflow="fold")
            for row in cells:
                table.add_row(*(Text(row[i]) for i in kept))
            screen.print(table)
            left = [name for i, name in enumerate(columns) if i not in kept]
            if left:
                self.note(f"narrow terminal, without: {', '.join(left)}", style="dim")
            return
        lines = [list(columns), *([" ".join(cell.split()) for cell in row] for row in cells)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        if title:
            screen.print(Text(title), soft_wrap=True)
        for line in lines:
            padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
            screen.print(Text("  ".join(padded).rstrip()), soft_wrap=True)

    def note(self, text: str = "", *, style: str = "") -> None:
        """A line on stderr."""
        if not self.quiet:
            self._err.print(Text(clean(text), style=style), soft_wrap=not self.stderr_terminal)

    def warn(self, text: str) -> None:
        """A warning on stderr."""
        self.note(f"warning: {text}", style="yellow")

    def error(self, text: str) -> None:
        """An error on stderr, one line; also when quiet."""
        self._err.print(Text(f"jrt: {clean_line(text)}", style="red"), soft_wrap=True)

    def report(self, rows: Sequence[tuple[str, str | Sequence[tuple[str, str]]]]) -> None:
        """Label and value pairs on stderr, folded to a terminal; a value may be spans of (text, style)."""
        if self.quiet:
            return
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        lines = []
        for label, value in rows:
            spans = [(value, "")] if isinstance(value, str) else value
            text = Text.assemble(*((clean(part), style) for part, style in spans))
            grid.add_row(Text(label), text)
            lines.append(f"{label:<11} {text.plain}")
        if self.stderr_terminal:
            self._err.print(grid)
        else:
            for line in lines:
                self._err.print(Text(line), soft_wrap=True)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """A spinner on stderr while something runs; nothing where stderr is no terminal."""
        with self._live(text):
            yield

    @contextmanager
    def progress(
        self, description: str, total: int | None = None, *, unit: str = "", every_s: float | None = None
    ) -> Iterator[Progress]:
        """A progress line on stderr; not on a terminal: a plain line every `every_s` seconds, or none."""
        bar = Progress(self, description, total, unit, every_s)
        with self._live(description) as live:
            bar.live = live
            yield bar

    @contextmanager
    def _live(self, text: str) -> Iterator[Live | None]:
        if self.quiet or not self.stderr_terminal or self._err.is_dumb_terminal:
            yield None
            return
        spinner = Spinner("dots", Text(clean(text), style="cyan"))
        # Transient: what is live leaves nothing behind, so that the answer starts on a line of its own.
        with Live(
            spinner, console=self._err, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:
            yield live


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], droppable: Sequence[str], width: int
) -> list[int]:
    """The columns that fit beside each other without those that can be left out, as few of them as can be."""
    kept = list(range(len(columns)))
    widths = [max(cell_len(row[i]) for row in (columns, *rows)) + 2 for i in kept]
    for name in droppable:
        if sum(widths[i] for i in kept) - 2 > width:
            kept.remove(list(columns).index(name))
    return kept


def _numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(re.fullmatch(r"[-+]?[\d,.]+( ?[%kMGT]?i?B?)?", cell) for cell in filled)


def _is_utf8(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").replace("_", "") == "utf8"


def dumps(value: Any, *, ascii_only: bool = False, indent: int | None = 2) -> str:
    """JSON that reads back exactly; controls, reordering marks and lone surrogates stand as \\u escapes."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, allow_nan=False)
    # All of these can stand only inside strings, where the escape means the same character.
    return _JSON_ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def run(main: Callable[[], int | None]) -> int:
    """Run a program to its exit code: a JrtError is one line on stderr, a closed pipe ends it quietly."""
    open_closed()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A narrow encoding shows a replacement instead of ending in a traceback.
            reconfigure(errors="replace")
    try:
        code = main() or EXIT_DONE
        sys.stdout.flush()
        return code
    except JrtError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        discard(sys.stdout)
        return EXIT_PIPE_CLOSED
    except OSError as error:
        # A full disk, a closed stdout. What names a file is not the output, and no error of the user's.
        if error.errno is None or error.filename is not None:
            raise
        discard(sys.stdout)
        _say(f"the output cannot be written: {error.strerror}")
        return EXIT_FAILED


def _say(error: str) -> None:
    try:
        Console().error(error)
    except OSError:  # stderr too: the exit code says it
        discard(sys.stderr)
