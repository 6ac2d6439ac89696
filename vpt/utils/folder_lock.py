"""Folder lock for one process at a time, released by the operating system when the process ends.

It is `flock` on Unix (by the filelock library) on the file `.lock` in the folder; the file remains after the lock is
released. With NFS 4 or later it also works between machines. A file system without locks leads to a warning.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from vpt.utils.atomic_io import mode_for_all, writing
from vpt.utils.distributed import is_first
from vpt.utils.errors import UserError
from vpt.utils.std_streams import say

LOCK = ".lock"  # lock of a run, a sweep or a protocol
LOCK_OF_BENCH = ".bench.lock"  # lock of a benchmark task, whose folder may be that of a protocol
LOCK_OF_BEST = ".best.lock"  # lock of a sweep's final training, which several machines may reach at once
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
HOLDER = ".holder"  # suffix of the file that describes the owner of a lock


def is_lock(name: str) -> bool:
    """Whether a file belongs to the lock of a folder.

    >>> is_lock(".lock"), is_lock(".lock.holder"), is_lock("settings.json")
    (True, True, False)
    """
    return name.removesuffix(HOLDER) in (LOCK, LOCK_OF_BENCH, LOCK_OF_BEST)


@dataclass(frozen=True)
class LockedFolder:
    """A folder locked by this process.

    Args:
        folder: the folder.
        lock: its lock file; None if another process of the same run has the lock, or the file system has no locks.
        inode: device and inode of the lock file.
    """

    folder: Path
    lock: Path | None = None
    inode: tuple[int, int] = (0, 0)

    def check(self) -> None:
        """Check that the folder still exists, before something is written to it.

        Raises:
            UserError: it or its lock was removed or moved, or another process created a folder of the same name.
        """
        if self.lock is None:
            return
        try:
            same = _inode(self.lock) == self.inode
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"{self.folder}, or {self.lock.name} in it, was removed or moved while it was in use, so nothing "
                "more is written there; if it was moved, continue from its new location"
            )


@contextmanager
def lock_folder(
    folder: str | Path, name: str = LOCK, waiting: Callable[[str], None] | None = None
) -> Iterator[LockedFolder]:
    """Lock a folder, which is created if necessary. Of several processes of one run, the first takes the lock.

    Args:
        folder: the folder.
        name: name of the lock file in it.
        waiting: called with a description of the owner while waiting for the lock; default: do not wait.

    Raises:
        UserError: another process has the lock, with its description; or the folder cannot be written.

    >>> import tempfile
    >>> with lock_folder(tempfile.mkdtemp()) as locked, lock_folder(locked.folder):
    ...     pass
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: ... is in use by process ... on ..., since ...; wait until it ends, or stop it
    """
    folder = Path(folder)
    if not is_first():
        yield LockedFolder(folder)
        return
    path = folder / name
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, waiting)
    if lock is None:
        yield LockedFolder(folder)
        return
    try:
        _note_holder(path)
        yield LockedFolder(folder, path, _inode(path))
    finally:
        with contextlib.suppress(OSError):
            _holder_file(path).unlink(missing_ok=True)
        if made:
            _remove_if_unused(made, path)
        lock.release()


def _acquired(path: Path, waiting: Callable[[str], None] | None) -> filelock.BaseFileLock | None:
    """Acquire the lock of a file; None if the file system has no locks."""
    lock = filelock.FileLock(str(path), timeout=0, mode=mode_for_all(0o666), thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        if waiting is None:
            raise UserError(f"{path.parent} is in use by {_holder(path)}; wait until it ends, or stop it") from None
        waiting(_holder(path))
        lock.acquire(timeout=-1, poll_interval=0.5)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        say(f"vpt: {path.parent} is on a file system without locks ({error}); make sure that no other process uses it")
        return None
    return lock


def _note_holder(path: Path) -> None:
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):  # a full disk; the lock works without it
        _holder_file(path).write_text(json.dumps(holder) + "\n", encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        found = json.loads(_holder_file(path).read_text(encoding="utf-8"))
        return f"process {int(found['process'])} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"


def _holder_file(path: Path) -> Path:
    # Not the lock file itself: older versions of filelock empty it when they try to acquire the lock.
    return path.with_name(f"{path.name}{HOLDER}")


def _remove_if_unused(made: Sequence[Path], path: Path) -> None:
    """Remove folders created only for the lock. Processes waiting for the lock notice that its file is gone."""
    with contextlib.suppress(OSError):
        if [item.name for item in path.parent.iterdir()] == [path.name]:
            path.unlink()
            for folder in made:
                folder.rmdir()


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
