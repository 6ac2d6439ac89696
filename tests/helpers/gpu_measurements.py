"""Measurements that take no time, raise, hang or are slow the first time, for sessions in tests."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.gpu_run import Measurement, Run
from vpt.utils.atomic_io import write_json

SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]


def good(run: Run) -> dict[str, int]:
    """How often it was called."""
    count = run.part.with_name("calls.txt")
    with count.open("a") as file:
        file.write("x")
    return {"calls": len(count.read_text())}


def raises(run: Run) -> None:
    raise ValueError("the kernel is broken")


def hangs(run: Run) -> None:
    write_json(run.part, {"cases": 1})
    started = subprocess.Popen(SLEEP)
    run.part.with_name("child.txt").write_text(str(started.pid))
    started.wait()


def slow_once(run: Run) -> dict[str, bool]:
    mark = run.part.with_name("mark.txt")
    if not mark.exists():
        mark.write_text("")
        time.sleep(100)
    return {"done": True}


def absent(run: Run) -> dict[str, str]:
    return {"not_measured": "there is nothing of the kind"}


MEASUREMENTS = [
    Measurement("raises", 1, "raises", raises),
    Measurement("good", 1, "is quick", good),
    Measurement("hangs", 1, "never ends", hangs),
    Measurement("absent", 1, "is not there", absent),
    Measurement("slow", 20, "is slow the first time", slow_once),
]
