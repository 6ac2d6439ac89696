"""Keeps a bank in sync with a folder of artifacts; those that cannot be served are listed, with reasons in the log."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vpt.inference.bank.bank import Bank
from vpt.inference.bank.entry import TaskInfo
from vpt.inference.bank.task import OtherBackboneError
from vpt.inference.server.json_results import to_json
from vpt.utils.errors import UserError
from vpt.utils.file_names import escape

logger = logging.getLogger("vpt.inference.server")

# Public messages. The full reason may contain paths and text of files, so it is only logged.
REFUSED = "it cannot be served; see the log of the server"
ELSEWHERE = "it was trained on another backbone"
MESSAGE = 1000  # maximum characters of a reason in the log
BAD_NAME = "its name is not printable text in UTF-8; rename it"


@dataclass(frozen=True)
class _Stamp:
    size: int
    modified: int
    changed: int  # a file of the same size and modification time may be another one
    inode: int


class TaskFolder:
    """Tasks by their file or run folder: `flowers.safetensors` or `flowers/artifact.safetensors` is the task "flowers".

    Its public attributes are replaced as a whole when something changes, so that they can be read without waiting for
    the bank, which may be loading.

    Args:
        folder: folder that `refresh` reads.
        bank: bank of the tasks.
    """

    def __init__(self, folder: Path, bank: Bank) -> None:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; specify one with artifacts or run folders")
        self.folder = folder
        self.bank = bank
        self.bad: Mapping[str, str] = {}  # task -> public reason why it is not served
        self.tasks: Mapping[str, bytes] = {}  # task -> public description, as JSON
        self._infos: dict[str, TaskInfo] = {}
        self._stamps: dict[str, _Stamp] = {}
        self._lock = threading.Lock()

    def classes(self, name: str) -> int:
        """Number of classes of a task."""
        info = self._infos.get(name)
        return 0 if info is None else len(info.classes)

    def refresh(self) -> set[str]:
        """Add new tasks, replace changed ones and remove deleted ones; returns the names of all of these."""
        with self._lock:
            found, unnamed = self._found()
            bad = {name: reason for name, reason in self.bad.items() if name in found}
            changed = {name for name in self._stamps if name not in found}
            for name in unnamed.keys() - self.bad.keys():
                logger.warning("%s is not served: %s", name, BAD_NAME)
            for name in changed:
                del self._stamps[name]
                if name in self.bank:
                    self.bank.remove(name)
            for name, path in found.items():
                stamp = _stamp(path)
                if stamp is None or self._stamps.get(name) == stamp:
                    continue
                changed.add(name)
                self._stamps[name] = stamp
                reason = self._load(name, path)
                bad.pop(name, None)
                if reason:
                    bad[name] = reason
                self._tell(bad | unnamed)
            self._tell(bad | unnamed)
            return changed

    def _load(self, name: str, path: Path) -> str:
        """Add a task; returns why it cannot be served, or "". If a new file is invalid, the old task is kept."""
        first = self.bank.backbone_name is None
        try:
            self.bank.add(name, path)
        except OtherBackboneError as error:
            logger.warning("%s is not served: %s", name, escaped(str(error))[:MESSAGE])
            return ELSEWHERE
        except Exception as error:
            # An error in one file must not affect the others.
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            logger.warning("%s is not served: %s", name, escaped(text)[:MESSAGE])
            return REFUSED
        if first and not self.bank.chosen:
            logger.info(
                "the backbone is %s, that of the first artifact, %s; specify the one to serve with --backbone",
                self.bank.backbone_name,
                name,
            )
        return ""

    def _tell(self, bad: Mapping[str, str]) -> None:
        """Update the public description of tasks."""
        infos = {name: self.bank.info(name) for name in self.bank.names()}
        self.bad, self.tasks, self._infos = (
            bad,
            {name: self.tasks[name] if self._infos.get(name) == info else _row(info) for name, info in infos.items()},
            infos,
        )

    def _found(self) -> tuple[dict[str, Path], dict[str, str]]:
        """Artifacts by task name, and the reasons for those that are invalid."""
        found, unnamed = {}, {}
        for name, path in self._artifacts():
            if name.isprintable() and name == name.strip():
                found[name] = path
            else:
                unnamed[escaped(name)] = BAD_NAME
        return found, unnamed

    def _artifacts(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith("."):
                continue
            # os.path, because pathlib raises if a folder is not accessible.
            if path.suffix == ".safetensors" and os.path.isfile(path):
                yield path.stem, path
            elif os.path.isfile(path / "artifact.safetensors"):
                yield path.name, path / "artifact.safetensors"


def escaped(text: str) -> str:
    r"""Escape text to one printable line.

    >>> escaped("caf\udce9\n")
    'caf\\xe9\\u000a'
    """
    return "".join(letter if letter.isprintable() else escape(letter) for letter in text)


def _row(info: TaskInfo) -> bytes:
    return to_json(vars(info))


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None  # deleted after listing
    return _Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
