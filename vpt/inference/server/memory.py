"""Returns freed memory to the system if the C library would keep it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

PAUSE_S = 0.5  # minimum interval


def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # only in glibc
    except (AttributeError, OSError, TypeError):
        return None


class FreedMemory:
    """Returns memory freed after large images and files to the system.

    glibc raises its mmap threshold to the size of the largest freed block, so after a few large blocks it keeps
    hundreds of megabytes between others.

    >>> FreedMemory().give_back()
    """

    def __init__(self) -> None:
        self._trim = _trim()
        self._lock = threading.Lock()
        self._next = 0.0

    def give_back(self) -> None:
        """Return free memory, unless this was done just now. To be called in a thread; other threads continue."""
        with self._lock:
            now = time.monotonic()
            if self._trim is None or now < self._next:
                return
            self._next = now + PAUSE_S
        self._trim(0)
