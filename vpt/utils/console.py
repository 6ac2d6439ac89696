"""Messages and progress of a run: a live progress bar on a terminal, occasional lines otherwise."""

from __future__ import annotations

import contextlib
import logging
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


ALL_RUNS = logging.getLogger("vpt.run")


class Bar(Protocol):
    """A progress bar."""

    def advance(self, steps: int = 1, *, images: int = 0, left: float | None = None, **fields: float) -> None:
        """Advance by `steps` after `images` images, and show `fields` and the seconds that are left of the run."""


class _TerminalHandler(logging.Handler):
    """Prints records with rich: warnings in yellow, tables as tables."""

    def __init__(self, terminal: rich.console.Console) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        self._terminal.print(getattr(record, "rendered", record.getMessage()), style=style, markup=False)


class _RunLogHandler(logging.Handler):
    """Writes records to a run's log; errors are raised, because a full disk ends the run."""

    def __init__(self, log: RunLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._log.say(f"warning: {text}" if record.levelno >= logging.WARNING else text)


class Console:
    """Messages of one run, through `logging`: to stderr, because stdout is for results, and to the run's log.

    Handlers that are added to the logger "vpt.run" receive them too.

    Args:
        quiet: print nothing; logs still receive the messages.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._terminal = rich.console.Console(
            file=Messages(),  # type: ignore[arg-type]
            quiet=quiet,
            highlight=False,
            emoji=False,  # a path may contain :car:
            soft_wrap=True,
        )
        # The root logger's handlers would print each line twice. Not set at import: `logging.config`, as of a server in
        # this process, resets it.
        ALL_RUNS.propagate = False
        # A separate logger without a name: runs in one process differ in `quiet` and in their log file.
        self._logger = logging.Logger("vpt.run", logging.INFO)
        self._logger.parent = ALL_RUNS
        self._logger.addHandler(_TerminalHandler(self._terminal))
        self._attached: _RunLogHandler | None = None

    def attach(self, log: RunLog | None) -> None:
        """Send messages to `log` as well, instead of the previous log."""
        if self._attached is not None:
            self._logger.removeHandler(self._attached)
        self._attached = None if log is None else _RunLogHandler(log)
        if self._attached is not None:
            self._logger.addHandler(self._attached)

    def say(self, text: str) -> None:
        """Print a line."""
        self._logger.info(printable(text))

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._logger.warning(printable(text))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        columns = [one_line(column) for column in columns]
        rows = [[one_line(cell) for cell in row] for row in rows]
        # As text objects: rich parses strings as markup, and fails on one like "[/a]".
        table = Table(title=Text(one_line(title)), title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        text = "\n".join(["\t".join(columns), *("\t".join(row) for row in rows)])
        self._logger.info(text, extra={"rendered": table})

    @contextlib.contextmanager
    def progress(self, total: int, description: str, start: int = 0) -> Iterator[Bar]:
        """A bar over `total` steps, of which `start` are done."""
        if not self._terminal.is_terminal or self._terminal.quiet:
            yield _PlainBar(self._terminal, total, description, start)
            return
        columns = (
            live.TextColumn("{task.description}"),
            live.BarColumn(),
            live.MofNCompleteColumn(),
            live.TimeRemainingColumn(),
            live.TextColumn("{task.fields[shown]}"),
        )
        with live.Progress(*columns, console=self._terminal, transient=True) as bars:
            yield _LiveBar(bars, bars.add_task(description, total=total, completed=start, shown=""))


def duration(seconds: float) -> str:
    """A duration in words, rounded.

    >>> duration(7.2), duration(754), duration(7500)
    ('7 s', '13 min', '2 h 05 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shown(images: int, seconds: float, left: float | None, fields: dict[str, float]) -> str:
    rate = images / seconds if seconds > 0 else 0.0
    parts = [f"{rate:.1f} images/s", *(f"{name} {value:.4g}" for name, value in fields.items())]
    return "  ".join(parts if left is None else [*parts, f"whole run: {duration(left)} left"])


class _LiveBar:
    def __init__(self, bars: live.Progress, task: live.TaskID) -> None:
        self._bars, self._task = bars, task
        self._started, self._images = time.monotonic(), 0

    def advance(self, steps: int = 1, *, images: int = 0, left: float | None = None, **fields: float) -> None:
        self._images += images
        shown = _shown(self._images, time.monotonic() - self._started, left, fields)
        self._bars.update(self._task, advance=steps, shown=shown)


class _PlainBar:
    def __init__(self, terminal: rich.console.Console, total: int, description: str, start: int) -> None:
        self._terminal, self._total, self._description, self._done = terminal, total, description, start
        self._started = self._spoke = time.monotonic()
        self._images, self._first = 0, start

    def advance(self, steps: int = 1, *, images: int = 0, left: float | None = None, **fields: float) -> None:
        self._done += steps
        self._images += images
        now = time.monotonic()
        if now - self._spoke < SPARSE or self._done >= self._total:
            return
        self._spoke = now
        here = (now - self._started) / (self._done - self._first) * (self._total - self._done)
        shown = _shown(self._images, now - self._started, left, fields)
        self._terminal.print(
            f"{self._description}: {self._done}/{self._total}  {here:.0f} s left  {shown}", markup=False
        )
