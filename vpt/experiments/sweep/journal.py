"""The journal of a sweep: what Optuna keeps of its trials, a JSON line for each change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalStorage

from vpt.utils.atomic_io import write_atomic, writing
from vpt.utils.errors import UserError, WriteError

NAME = "journal.log"


def open_journal(folder: Path) -> JournalStorage:
    """Optuna's storage in the folder of a sweep, which the caller holds.

    Raises:
        UserError: a journal that is damaged beyond what can be cut off.
        WriteError: the folder cannot be written.
    """
    try:
        return JournalStorage(Journal(folder))
    except UserError:
        raise
    except Exception as error:  # whatever Optuna meets in lines that are JSON, but none of its own
        raise UserError(
            f"{folder / NAME} is damaged; remove it and give the same command again: trials that have finished are "
            "read from their folders"
        ) from error


class Journal(JournalFileBackend):
    """Optuna's journal file, whose lines are written whole or not at all. The caller holds the sweep's folder.

    Args:
        folder: of the sweep.

    Raises:
        WriteError: when a change is written; the disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        with writing(self._path):
            _cut_off_damage(self._path)
            # Optuna's own lock, which a killed process leaves behind, and others would wait half a minute for.
            self._path.with_name(f"{NAME}.lock").unlink(missing_ok=True)
            super().__init__(str(self._path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append changes."""
        before = self._path.stat().st_size if self._path.exists() else 0
        try:
            with writing(self._path):
                super().append_logs(logs)
        except WriteError:
            if self._path.exists():
                os.truncate(self._path, before)  # half a line would make all after it unreadable
            raise


def _cut_off_damage(path: Path) -> None:
    """Cut a journal before its first line that is damaged, as after a crash; what is cut off is kept as `.damaged`.

    Later lines count on earlier ones. Trials that are forgotten are read from their folders when they are asked for
    again.
    """
    if not path.exists():
        return
    content = path.read_bytes()
    good = 0
    for line in content.splitlines(keepends=True):
        if not _is_whole(line):
            break
        good += len(line)
    if good < len(content):
        write_atomic(path.with_name(f"{NAME}.damaged"), lambda temporary: temporary.write_bytes(content[good:]))
        write_atomic(path, lambda temporary: temporary.write_bytes(content[:good]))


def _is_whole(line: bytes) -> bool:
    try:
        change = json.loads(line)
        return line.endswith(b"\n") and isinstance(change, dict) and isinstance(change.get("op_code"), int)
    except (ValueError, RecursionError):
        return False
