"""Keeps a bank in step with a folder of artifacts; bad ones are skipped and named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vpt.bank.bank import Bank
from vpt.errors import FileError, UserError


@dataclass(frozen=True)
class _Stamp:
    size: int
    modified: int
    changed: int  # a file of the same size and time of modification may be another one
    inode: int


class TaskFolder:
    """Tasks by their file or run folder: `flowers.safetensors` or `flowers/artifact.safetensors` is the task "flowers".

    Args:
        folder: looked at by `refresh`.
        bank: gets the tasks.
    """

    def __init__(self, folder: Path, bank: Bank) -> None:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; give one with artifacts or run folders")
        self.folder = folder
        self.bank = bank
        self.bad: dict[str, str] = {}  # task -> why it is not served
        self._stamps: dict[str, _Stamp] = {}
        self._lock = threading.Lock()

    def refresh(self) -> bool:
        """Add what is new, replace what changed, remove what is gone; whether anything did."""
        with self._lock:
            found = dict(self._found())
            changed = False
            for name in [name for name in self._stamps if name not in found]:
                del self._stamps[name]
                self.bad.pop(name, None)
                if name in self.bank:
                    self.bank.remove(name)
                changed = True
            for name, path in found.items():
                stamp = _stamp(path)
                if stamp is None or self._stamps.get(name) == stamp:
                    continue
                changed = True
                self._stamps[name] = stamp
                try:
                    self.bank.add(name, path)
                    self.bad.pop(name, None)
                except Exception as error:
                    # Whatever is wrong with one file, the others are served. A task whose new file is bad goes on
                    # with its old one, for that is still in memory.
                    self.bad[name] = error.what if isinstance(error, FileError) else "cannot be served"
            return changed

    def _found(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix == ".safetensors" and path.is_file():
                yield path.stem, path
            elif path.is_dir() and (path / "artifact.safetensors").is_file():
                yield path.name, path / "artifact.safetensors"


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None  # gone between listing and looking
    return _Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
