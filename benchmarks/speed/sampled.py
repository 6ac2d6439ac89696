"""Runs a `vpt` command and samples where its main thread spends the time, by function and by imported package.

    python -m benchmarks.speed.sampled samples.json train data=photos backbone=vpt_nano

A thread looks every few milliseconds what the main thread executes. Time of a function of vpt includes what it calls;
time of a package is that of importing its own modules.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from vpt.utils.atomic_io import write_json

INTERVAL = 0.005
SHOWN = 60  # functions and packages that are written, the slowest
IMPORTS = "imports"


class Sampler(threading.Thread):
    """Samples the thread that creates it, from `start` until `finish`; `seconds` is by function and by import."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: Counter[str] = Counter()
        self._watched, self._ended = threading.get_ident(), threading.Event()

    def run(self) -> None:
        before = time.perf_counter()
        while not self._ended.wait(INTERVAL):
            frame = sys._current_frames().get(self._watched)
            now = time.perf_counter()
            for name in set() if frame is None else set(names_of(frame)):
                self.seconds[name] += now - before
            before = now

    def finish(self) -> None:
        self._ended.set()
        self.join()


def names_of(frame: FrameType) -> Iterator[str]:
    """Functions of vpt on the stack, and the package that is being imported, if one is."""
    step: FrameType | None = frame
    importing = False
    while step is not None:
        module, name = step.f_globals.get("__name__", ""), step.f_code.co_qualname
        if name == "<module>" and not importing and module in sys.modules and module not in ("__main__", "runpy"):
            importing = True
            yield IMPORTS
            yield f"import {module.split('.')[0]}"
        if module.startswith("vpt.") and not name.startswith("<"):
            yield f"{module}.{name}"
        step = step.f_back


def main(words: Sequence[str] | None = None) -> int:
    file, *command = sys.argv[1:] if words is None else words
    sampler = Sampler()
    started = time.perf_counter()
    sampler.start()
    try:
        from vpt.cli.main import main as run

        code = run(command)
    finally:
        sampler.finish()
    found = sampler.seconds
    imports = {name.removeprefix("import "): spent for name, spent in found.items() if name.startswith("import ")}
    functions = {name: spent for name, spent in found.items() if name.startswith("vpt.")}
    shares = {"packages": imports, "functions": functions}
    sorted_ = {key: dict(Counter(one).most_common(SHOWN)) for key, one in shares.items()}
    write_json(Path(file), {"seconds": time.perf_counter() - started, "imports": found[IMPORTS], **sorted_})
    return code


if __name__ == "__main__":
    sys.exit(main())
