"""Stopping by signal: after SIGINT or SIGTERM the current step completes, so that the saved state is consistent."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vpt.utils.std_streams import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised when training was stopped by a signal, after its state was saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopRequest:
    """The signal that requested a stop, if any."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record the first signal in a StopRequest; a second one has its usual effect.

    Outside the main thread, which receives no signals, nothing is recorded.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, _frame: FrameType | None) -> None:
        stop.number = number
        for each, handler in before.items():
            signal.signal(each, handler)
        say("\nvpt: stopping after this step; interrupt again to stop immediately")

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
