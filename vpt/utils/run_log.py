"""Log of a run: rows as JSON lines, the same numbers for TensorBoard, and messages as text."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from vpt.utils.atomic_io import write_text, writing


class RunLog:
    """Appends to `log.jsonl`, `log.txt` and `tensorboard/` of a run folder; a context manager.

    Each row and line is passed to the operating system at once, so nothing is lost if the run is killed.

    Args:
        folder: the run folder.
        resume_step: rows after this step are removed first, so that the log of a resumed run equals that of an
            uninterrupted one. None starts a new log.

    Raises:
        WriteError: also in all methods; the disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        self._folder = folder
        rows_path = folder / "log.jsonl"
        with writing(folder), contextlib.ExitStack() as opened:
            folder.mkdir(parents=True, exist_ok=True)
            if resume_step is None:
                rows_path.unlink(missing_ok=True)
            else:
                _cut(rows_path, resume_step)
            # Unbuffered: data that did not fit on a full disk must not be written again when the file is closed.
            self._rows = opened.enter_context(rows_path.open("ab", buffering=0))
            self._text = opened.enter_context((folder / "log.txt").open("ab", buffering=0))
            self._board = opened.enter_context(_Board(folder / "tensorboard", resume_step))
            self._files = opened.pop_all()

    def row(self, kind: str, step: int, **values: Any) -> None:
        """Log one row; its numbers also go to TensorBoard under `kind`."""
        line = json.dumps({"kind": kind, "step": step, **values}) + "\n"
        with writing(self._folder / "log.jsonl"):
            _write(self._rows, line.encode())
        with writing(self._folder / "tensorboard"):
            self._board.add({f"{kind}/{name}": number for name, number in _numbers(values)}, step)

    def say(self, text: str) -> None:
        """Log a line of text."""
        with writing(self._folder / "log.txt"):
            _write(self._text, f"{text}\n".encode("utf-8", "backslashreplace"))

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(OSError):  # everything has been written before
            self._files.close()


class NoLog(RunLog):
    """A log that writes nothing, for processes that only compute."""

    def __init__(self) -> None:
        pass

    def row(self, kind: str, step: int, **values: Any) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def __exit__(self, *_error: object) -> None:
        pass


class _Board:
    """An event file for TensorBoard.

    It is written by the caller's thread: torch's SummaryWriter has a separate thread, in which a full disk leads to a
    traceback on the terminal.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events = event_pb2
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = path.open("wb", buffering=0)
        self._records = RecordWriter(self)
        try:
            self._record(file_version="brain.Event:2")
            if resume_step is not None:
                # TensorBoard ignores rows of an earlier file from this step on.
                started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._record(step=resume_step + 1, session_log=started)
        except OSError:
            self._file.close()
            raise

    def add(self, values: dict[str, float], step: int) -> None:
        """Write the numbers of a step by name."""
        if not values:
            return
        from tensorboard.compat.proto import summary_pb2

        value = summary_pb2.Summary.Value
        found = [value(tag=name, simple_value=number) for name, number in values.items()]
        self._record(step=step, summary=summary_pb2.Summary(value=found))

    def write(self, record: bytes) -> None:
        """Write the bytes of a record; called by RecordWriter."""
        _write(self._file, record)

    def _record(self, **content: Any) -> None:
        self._records.write(self._events.Event(wall_time=time.time(), **content).SerializeToString())

    def __enter__(self) -> _Board:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()


def _write(file: IO[bytes], content: bytes) -> None:
    """Write all bytes: a nearly full disk accepts a part, and fails at the next write."""
    while content:
        content = content[file.write(content) :]


def open_log(folder: Path, resume_step: int | None, write: bool) -> RunLog:
    """The log of a run folder, or one that writes nothing."""
    return RunLog(folder, resume_step) if write else NoLog()


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log. Invalid lines are skipped: those truncated by a kill, or damaged otherwise.

    Every row has a string `kind` and an integer `step`. Rows of steps and epochs contain finite numbers, and under `lr`
    finite numbers by name.
    """
    path = folder / "log.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace") as lines:
        return [row for line in lines if (row := _row(line)) is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str) or type(row.get("step")) is not int:
        return None
    if row["kind"] not in ("step", "epoch"):
        return row
    rates = row.get("lr", {})
    numbers = [value for key, value in row.items() if key not in ("kind", "lr")]
    return row if isinstance(rates, dict) and all(map(_is_finite, [*numbers, *rates.values()])) else None


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):  # not a number, or one of more than 308 digits
        return False


def _cut(path: Path, step: int) -> None:
    rows = [row for row in read_rows(path.parent) if row["step"] <= step and row["kind"] != "end"]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _numbers(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}_")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + name, float(value)))
    return found
