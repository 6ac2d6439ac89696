"""What a run says while it works: a live bar on a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import rich.console
from rich import progress as live
from rich.table import Table
from rich.text import Text

from vpt.utils.file_names import one_line, printable
from vpt.utils.run_log import RunLog
from vpt.utils.std_streams import Messages

SPARSE = 15.0  # seconds between plain progress lines


class Bar(Protocol):
    """A progress bar."""

    def advance(self, steps: int = 1, *, images: int = 0, **fields: float) -> None:
        """Move on by `steps` after `images` images, showing `fields`."""


class Console:
    """Speaks on stderr, so that stdout stays for results; lines also go to the log that is attached."""

    def __init__(self, quiet: bool = False) -> None:
        self._out = rich.console.Console(file=Messages(), quiet=quiet, highlight=False, soft_wrap=True)  # type: ignore[arg-type]
        self._log: RunLog | None = None

    def attach(self, log: RunLog | None) -> None:
        """Send lines to `log` too, from here on."""
        self._log = log

    def say(self, text: str) -> None:
        """Print a line."""
        text = printable(text)
        self._out.print(text, markup=False)
        if self._log is not None:
            self._log.say(text)

    def warn(self, text: str) -> None:
        """Print a line that should be seen."""
        text = printable(text)
        self._out.print(text, style="yellow", markup=False)
        if self._log is not None:
            self._log.say(f"warning: {text}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        columns = [one_line(column) for column in columns]
        rows = [[one_line(cell) for cell in row] for row in rows]
        # As texts: rich reads a string as markup, and fails on one like "[/a]".
        table = Table(title=Text(one_line(title)), title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        self._out.print(table)
        if self._log is not None:
            self._log.say("\n".join(["\t".join(columns), *("\t".join(row) for row in rows)]))

    @contextlib.contextmanager
    def progress(self, total: int, description: str, start: int = 0) -> Iterator[Bar]:
        """A bar over `total` steps, of which `start` are done."""
        if not self._out.is_terminal or self._out.quiet:
            yield _PlainBar(self, total, description, start)
            return
        columns = (
            live.TextColumn("{task.description}"),
            live.BarColumn(),
            live.MofNCompleteColumn(),
            live.TimeRemainingColumn(),
            live.TextColumn("{task.fields[shown]}"),
        )
        with live.Progress(*columns, console=self._out, transient=True) as bars:
            yield _LiveBar(bars, bars.add_task(description, total=total, completed=start, shown=""))


def _shown(images: int, seconds: float, fields: dict[str, float]) -> str:
    rate = images / seconds if seconds > 0 else 0.0
    return "  ".join([f"{rate:.1f} images/s", *(f"{name} {value:.4g}" for name, value in fields.items())])


class _LiveBar:
    def __init__(self, bars: live.Progress, task: live.TaskID) -> None:
        self._bars, self._task = bars, task
        self._started, self._images = time.monotonic(), 0

    def advance(self, steps: int = 1, *, images: int = 0, **fields: float) -> None:
        self._images += images
        shown = _shown(self._images, time.monotonic() - self._started, fields)
        self._bars.update(self._task, advance=steps, shown=shown)


class _PlainBar:
    def __init__(self, console: Console, total: int, description: str, start: int) -> None:
        self._console, self._total, self._description, self._done = console, total, description, start
        self._started = self._spoke = time.monotonic()
        self._images, self._first = 0, start

    def advance(self, steps: int = 1, *, images: int = 0, **fields: float) -> None:
        self._done += steps
        self._images += images
        now = time.monotonic()
        if now - self._spoke < SPARSE or self._done >= self._total:
            return
        self._spoke = now
        left = (now - self._started) / (self._done - self._first) * (self._total - self._done)
        shown = _shown(self._images, now - self._started, fields)
        self._console._out.print(
            f"{self._description}: {self._done}/{self._total}  {shown}  {left:.0f} s left", markup=False
        )


def stdout_is_terminal() -> bool:
    """Whether results are read by a person."""
    return sys.stdout.isatty()
