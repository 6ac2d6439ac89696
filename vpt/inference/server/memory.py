"""Memory that was freed goes back to the system, where the C library would keep it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

PAUSE_S = 0.5  # between two times at least


def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc alone has it
    except (AttributeError, OSError, TypeError):
        return None


class FreedMemory:
    """Gives memory back that large images and files have left.

    glibc raises the size from which on it maps memory by itself to that of the largest block that was freed, so after a
    few large ones it keeps hundreds of megabytes between others.

    >>> FreedMemory().give_back()
    """

    def __init__(self) -> None:
        self._trim = _trim()
        self._lock = threading.Lock()
        self._next = 0.0

    def give_back(self) -> None:
        """Give back what is free, unless that was done just now. To be called in a thread; other threads go on."""
        with self._lock:
            now = time.monotonic()
            if self._trim is None or now < self._next:
                return
            self._next = now + PAUSE_S
        self._trim(0)
