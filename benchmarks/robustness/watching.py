"""What a server's processes take, and whether it answers, while something else goes on."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from benchmarks.robustness import requests as hostile
from benchmarks.robustness.wire import SILENT, tried

TICKS = os.sysconf("SC_CLK_TCK")


def processes(process: int) -> set[int]:
    """A process and all that it and they have started."""
    found = {process}
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        for child in _text(thread).split():
            found |= processes(int(child))
    return found


def megabytes(process: int, key: str) -> int:
    """A size in /proc/PID/status, as VmRSS (in use now) or VmHWM (at most so far); 0 of a process that has gone."""
    for line in _text(Path(f"/proc/{process}/status")).splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) // 1024
    return 0


def seconds_of_processor(process: int) -> float:
    """Time of all cores that a process has taken so far."""
    after_name = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS if after_name else 0.0


def wait_until_idle(process: int, seconds: float = 120) -> bool:
    """Wait until a process and its children compute nothing any more; whether that came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = sum(map(seconds_of_processor, processes(process)))
        time.sleep(0.5)
        if sum(map(seconds_of_processor, processes(process))) - before < 0.05:
            return True
    return False


class Watch:
    """Measures memory of a server, and asks whether it lives, four times a second.

    Attributes:
        peak: megabytes of all its processes, at most so far, each at its own peak.
        slowest_health: seconds that /health took at most.
        unhealthy: how often it was not answered with 200.
    """

    def __init__(self, process: int, port: int) -> None:
        self.process, self.port = process, port
        self.slowest_health, self.unhealthy = 0.0, 0
        self._most: dict[int, int] = {}
        self._end = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._memory, self._health)]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._look()

    @property
    def peak(self) -> int:
        """See the class."""
        return sum(self._most.values())

    def now(self) -> int:
        """Megabytes of all processes in use now."""
        return sum(megabytes(each, "VmRSS") for each in processes(self.process))

    def _look(self) -> None:
        for each in processes(self.process):
            self._most[each] = max(self._most.get(each, 0), megabytes(each, "VmHWM"))

    def _memory(self) -> None:
        while not self._end.wait(0.25):
            self._look()

    def _health(self) -> None:
        while not self._end.wait(0.25):
            started = time.monotonic()
            status, _ = tried(self.port, hostile.get(b"/health"), 60)
            self.unhealthy += status != 200
            if status != SILENT:
                self.slowest_health = max(self.slowest_health, time.monotonic() - started)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
