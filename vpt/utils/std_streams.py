"""Standard output and error streams that may be closed, full, broken, or unable to encode all characters."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TextIO

from vpt.utils.file_names import printable

# A stream that is closed or cannot encode a character raises ValueError; one that a signal handler interrupts during a
# write raises RuntimeError.
_FAULTS = (OSError, ValueError, RuntimeError)


class Messages(io.TextIOBase):
    """Current standard error; text that cannot be written is dropped.

    Training must not end because the terminal that shows its progress was closed.

    >>> Messages().write("")
    0
    """

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of standard error."""
        return getattr(_stderr(), "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        """Write text if possible."""
        with contextlib.suppress(*_FAULTS):
            if (out := _stderr()) is not None:
                out.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        with contextlib.suppress(*_FAULTS):
            if (out := _stderr()) is not None:
                out.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with contextlib.suppress(*_FAULTS):
            return (out := _stderr()) is not None and out.isatty()
        return False

    def fileno(self) -> int:
        """File descriptor of standard error."""
        if (out := _stderr()) is None:
            raise io.UnsupportedOperation("standard error is closed")
        return out.fileno()


def say(text: str) -> None:
    """Print a line on standard error if possible; control characters are escaped."""
    messages = Messages()
    messages.write(printable(text) + "\n")
    messages.flush()


def prepare_streams() -> None:
    """Make standard streams safe to write to, at the start of a command.

    A closed stream is redirected to the null device: otherwise the next opened file would get its descriptor, and
    output of libraries would go to this file. Characters that standard output cannot encode are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def close_output() -> OSError | None:
    """Flush standard output at the end of a command.

    Returns:
        The error if it failed: the disk is full, or the reader of the pipe is gone. Nothing more is written then.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # The remaining buffer is written again when Python ends, and would fail again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    except ValueError:
        pass  # already closed
    return None


def reader_is_gone() -> bool:
    """Whether standard output is a pipe whose reader is gone, as with `| head`."""
    try:
        watcher = select.poll()
        watcher.register(sys.stdout.fileno(), select.POLLOUT)
        return any(events & select.POLLERR for _, events in watcher.poll(0))
    except (OSError, ValueError, AttributeError):  # no file descriptor, or a system without poll
        return False


def speaks_utf8() -> bool:
    """Whether standard output can encode every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").replace("_", "") == "utf8"


def _stderr() -> TextIO | None:
    # While a progress bar is shown, rich replaces sys.stderr.
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)
