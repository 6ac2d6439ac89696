"""Everything that needs a GPU, in the minutes for which one is at hand.

    python -m benchmarks.gpu_session --minutes 9
    python -m benchmarks.gpu_session --minutes 4 --only cuda-tests vtab
    python -m benchmarks.gpu_session --device cpu --tiny --out /tmp/trial   # the same on tiny models, without a GPU

Measures what benchmarks/gpu_measurements.py lists, in that order. Each measurement is a process of its own with a time
limit, so that a crash or a hang costs no other one, and is stored in OUT/session.json the moment it is done, with GPU,
torch, date and commit. One that does not fit into the time left is skipped with a message. The same command measures
what is missing: first what was never tried, then what failed. Nothing is installed or downloaded. The command
`python -m benchmarks.tables` writes the results into docs/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # python benchmarks/gpu_session.py
    sys.path[0] = str(ROOT)

from benchmarks.gpu_run import Measurement, Run  # noqa: E402
from vpt.utils.atomic_io import write_json  # noqa: E402

TABLE = "benchmarks.gpu_measurements"
OUT = ROOT / "benchmarks" / "results" / "gpu"
RESERVE = 5.0  # seconds kept for ending processes and writing
TINY = 30.0  # seconds that a measurement with tiny models is expected to take


def main(words: Sequence[str] | None = None) -> int:
    options = parsed(words)
    table = {one.name: one for one in import_module(options.table).MEASUREMENTS}
    if unknown := [name for name in options.only or () if name not in table]:
        raise SystemExit(f"there is no measurement {', '.join(unknown)}; known: {', '.join(table)}")
    if options.measure:
        return measure(table[options.measure], options)
    session = Session(options)
    wanted = [one for one in table.values() if not options.only or one.name in options.only]
    for one in session.missing(wanted):
        session.take(one)
    done = [one.name for one in wanted if one.name in session.results]
    print(f"{len(done)} of {len(wanted)} measured; {session.file}", flush=True)
    left = [one.name for one in wanted if one.name not in session.results]
    if left:
        print(f"not measured: {', '.join(left)}; the same command goes on with them", flush=True)
    return 0


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--again", action="store_true", help="also measure what has a result, which is replaced")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few rounds, to try the session itself")
    parser.add_argument("--commit", help="what is measured, if this is no git repository")
    for name in ("--measure", "--part"):  # of the process of one measurement
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--table", default=TABLE, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu is for trying the session: add --tiny")
    return options


def measure(one: Measurement, options: argparse.Namespace) -> int:
    """Run one measurement in this process; what it returns, if anything, is its result."""
    run = Run(Path(options.part), options.device, options.tiny, options.seconds)
    found = one.run(run)
    if found is not None:
        write_json(run.part, found)
    return 0


class Session:
    """Results in a folder, and the time that is left.

    Raises:
        SystemExit: the folder has results of another GPU or another torch.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.ends = options, time.monotonic() + 60 * options.minutes
        self.file = options.out / "session.json"
        self.about = {"gpu": device_name(options.device), "torch": metadata.version("torch"), "tiny": options.tiny}
        known = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {**self.about}
        if found := {key: known[key] for key in self.about if known[key] != self.about[key]}:
            raise SystemExit(f"{self.file} has results of {found}, this is {self.about}; give another --out")
        self.results: dict[str, Any] = known.get("results", {})
        self.failures: dict[str, Any] = known.get("failures", {})

    def missing(self, wanted: Sequence[Measurement]) -> list[Measurement]:
        """Measurements without a result, in order, those that failed before last."""
        left = [one for one in wanted if self.options.again or one.name not in self.results]
        return sorted(left, key=lambda one: one.name in self.failures)

    def take(self, one: Measurement) -> None:
        """Measure in a process of its own, and store the result or the reason why there is none."""
        left = self.ends - time.monotonic() - RESERVE
        expected = min(one.seconds, TINY) if self.options.tiny else one.seconds
        if expected > left:
            print(f"{one.name}: skipped, it takes {expected:.0f} s and {max(0, left):.0f} s are left", flush=True)
            return
        limit = left if one.takes_the_rest else min(left, 2 * expected + 30)
        print(f"{one.name}: {one.what} ...", flush=True)
        started = time.monotonic()
        part = self.options.out / f"{one.name}.part.json"
        reason = self._run(one, part, limit)
        result = json.loads(part.read_text(encoding="utf-8")) if part.is_file() else None
        entry = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(self.options.commit)}
        entry["seconds"] = round(time.monotonic() - started, 1)
        reason = reason or ("it wrote no result" if result is None else result.get("not_measured"))
        if reason is None:
            self.results[one.name] = {**entry, "result": result}
            self.failures.pop(one.name, None)
        else:  # a part that was written stays, and the measurement goes on from it if it can
            self.failures[one.name] = {**entry, "reason": reason}
        write_json(self.file, {**self.about, "results": self.results, "failures": self.failures})
        if reason is None:
            part.unlink()
        print(f"{one.name}: {'done' if reason is None else reason}, {entry['seconds']:.0f} s", flush=True)

    def _run(self, one: Measurement, part: Path, limit: float) -> str | None:
        """Start the process and wait; the reason if it failed. Whatever it started ends with it."""
        words = ["--measure", one.name, "--part", str(part.resolve()), "--seconds", str(limit)]
        words += ["--table", self.options.table, "--device", self.options.device, *["--tiny"] * self.options.tiny]
        command = [sys.executable, "-m", "benchmarks.gpu_session", *words]
        part.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
            code = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                try:
                    code = process.wait(limit)
                finally:  # also if this session is interrupted
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
        if code == 0:
            return None
        print(said[-3000:], flush=True)
        if code is None:
            return f"stopped after {limit:.0f} s"
        return f"exit code {code}: {said.splitlines()[-1][:300] if said else 'no message'}"


def device_name(device: str) -> str:
    """The GPU by its driver's own program, without starting CUDA here.

    Raises:
        SystemExit: there is none.
    """
    if device == "cpu":
        return "CPU"
    with contextlib.suppress(OSError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.splitlines()[0].strip()
    raise SystemExit("there is no GPU here; --device cpu --tiny tries the session without one")


def commit(given: str | None) -> str:
    """What git calls the state of the files, or what --commit says."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*", "--abbrev=12"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return given or "unknown"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
