"""Stopping when asked to: SIGINT and SIGTERM let the step that is under way end, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vpt.utils.std_streams import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, after its state was saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raise Stopped if so."""
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first signal in a StopRequest; a second one acts at once, as it does without this.

    Outside of the main thread, where signals do not arrive, nothing is noted.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, _frame: FrameType | None) -> None:
        stop.number = number
        for each, handler in before.items():
            signal.signal(each, handler)
        say("\nvpt: stopping after this step; once more to stop at once")

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
