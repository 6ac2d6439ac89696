"""The log of a run: rows as JSON lines, the same numbers for TensorBoard, and what was said as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vpt.files import write_text


class RunLog:
    """Appends to `log.jsonl`, `log.txt` and `tensorboard/` of a run folder; a context manager.

    Args:
        folder: the run folder.
        resume_step: rows past this step are cut off first, so that the log of a resumed run is that of a run never
            interrupted. None starts anew.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows_path, text_path = folder / "log.jsonl", folder / "log.txt"
        if resume_step is None:
            rows_path.unlink(missing_ok=True)
        else:
            _cut(rows_path, resume_step)
        # A line at a time, so that a killed run loses none that was written.
        self._rows = rows_path.open("a", encoding="utf-8", buffering=1)
        self._text = text_path.open("a", encoding="utf-8", buffering=1)
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def row(self, kind: str, step: int, **values: Any) -> None:
        """Log one row; its numbers also go to TensorBoard under `kind`."""
        self._rows.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for name, number in _numbers(values):
            self._board.add_scalar(f"{kind}/{name}", number, step)

    def say(self, text: str) -> None:
        """Log a line of text."""
        self._text.write(text + "\n")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_error: object) -> None:
        self._rows.close()
        self._text.close()
        self._board.close()


class NoLog(RunLog):
    """Writes nothing: the log of the processes that only compute."""

    def __init__(self) -> None:
        pass

    def row(self, kind: str, step: int, **values: Any) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def __exit__(self, *_error: object) -> None:
        pass


def open_log(folder: Path, resume_step: int | None, write: bool) -> RunLog:
    """The log of a run folder, or one that writes nothing."""
    return RunLog(folder, resume_step) if write else NoLog()


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; a last line that was torn by a kill is left out."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


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
