"""Standard output and error that may be closed, full, broken, or not made for every character."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TextIO

from vpt.utils.file_names import printable

# A stream that is closed or does not know a character raises ValueError; one that a signal's handler interrupts in the
# middle of a write, RuntimeError.
_FAULTS = (OSError, ValueError, RuntimeError)


class Messages(io.TextIOBase):
    """Standard error as it is at the moment; what cannot be written there is dropped.

    A training must not end because the terminal that showed its progress was closed.

    >>> Messages().write("")
    0
    """

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of standard error."""
        return getattr(_stderr(), "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        """Write text, if there is anybody to read it."""
        with contextlib.suppress(*_FAULTS):
            if (out := _stderr()) is not None:
                out.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        with contextlib.suppress(*_FAULTS):
            if (out := _stderr()) is not None:
                out.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with contextlib.suppress(*_FAULTS):
            return (out := _stderr()) is not None and out.isatty()
        return False

    def fileno(self) -> int:
        """Of standard error."""
        if (out := _stderr()) is None:
            raise io.UnsupportedOperation("standard error is closed")
        return out.fileno()


def say(text: str) -> None:
    """Print a line on standard error, as far as that is possible; control characters are escaped."""
    messages = Messages()
    messages.write(printable(text) + "\n")
    messages.flush()


def prepare_streams() -> None:
    """Make standard streams safe to write to, at the start of a command.

    A closed one goes nowhere: otherwise the next file that is opened would get its number, and whatever a library
    prints would go into it. Characters that standard output cannot encode are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def close_output() -> OSError | None:
    """Flush standard output at the end of a command.

    Returns:
        Why that failed, if it did: the disk behind it is full, or its reader is gone. Nothing more is written then.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left in its buffer is written once more when Python ends, and would fail once more.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    except ValueError:
        pass  # somebody closed it
    return None


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as behind `| head`."""
    try:
        watcher = select.poll()
        watcher.register(sys.stdout.fileno(), select.POLLOUT)
        return any(events & select.POLLERR for _, events in watcher.poll(0))
    except (OSError, ValueError, AttributeError):  # no file behind it, or a system without poll
        return False


def speaks_utf8() -> bool:
    """Whether standard output takes every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").replace("_", "") == "utf8"


def _stderr() -> TextIO | None:
    # While a progress bar is shown, rich puts something of its own in its place.
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)
