"""Journal of a sweep: Optuna's record of its trials, with a JSON line for each change."""

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
    """Optuna storage in the folder of a sweep, which the caller has locked.

    Raises:
        UserError: the journal is damaged and cannot be repaired.
        WriteError: the folder cannot be written.
    """
    try:
        return JournalStorage(Journal(folder))
    except UserError:
        raise
    except Exception as error:  # Optuna can raise anything for JSON lines that it did not write
        raise UserError(
            f"{folder / NAME} is damaged; remove it and give the same command again: trials that have finished are "
            "read from their folders"
        ) from error


class Journal(JournalFileBackend):
    """Optuna journal file whose lines are written completely or not at all. The caller has locked the folder.

    Args:
        folder: folder of the sweep.

    Raises:
        WriteError: a change cannot be written, because the disk is full or the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        with writing(self._path):
            _cut_off_damage(self._path)
            # Not Optuna's own lock: a killed process leaves it behind, and others would wait half a minute for it.
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
                os.truncate(self._path, before)  # a partial line would make all following lines unreadable
            raise


def _cut_off_damage(path: Path) -> None:
    """Truncate a journal before its first damaged line, as after a crash; the rest is saved as `.damaged`.

    Later lines depend on earlier ones. Lost trials are read from their folders when they are requested
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
