"""One process at a time in a folder: a lock of the operating system, which ends with the process that holds it.

It is `flock` on Unix (by the filelock library), on the file `.lock` in the folder; the file stays, the lock does not.
Over NFS, from version 4 on, it holds between machines too. A file system without locks gets a warning instead.
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

LOCK = ".lock"  # of a run, a sweep or a protocol
LOCK_OF_BENCH = ".bench.lock"  # of a task of a benchmark, whose folder may be that of a protocol
LOCK_OF_BEST = ".best.lock"  # of the last training of a sweep, which machines with one database may reach together
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
HOLDER = ".holder"  # behind the name of a lock file: who holds it


def is_lock(name: str) -> bool:
    """Whether a file of a folder only belongs to its lock.

    >>> is_lock(".lock"), is_lock(".lock.holder"), is_lock("settings.json")
    (True, True, False)
    """
    return name.removesuffix(HOLDER) in (LOCK, LOCK_OF_BENCH, LOCK_OF_BEST)


@dataclass(frozen=True)
class LockedFolder:
    """A folder that this process holds.

    Args:
        folder: the folder.
        lock: its lock file; None where another process of the same run holds it, or nobody can.
        inode: device and number of the lock file.
    """

    folder: Path
    lock: Path | None = None
    inode: tuple[int, int] = (0, 0)

    def check(self) -> None:
        """Whether the folder is still there, before something is written into it.

        Raises:
            UserError: it or its lock was removed or moved, or another process has made one of the same name.
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
                "more is written there; if it was moved, go on from its new place"
            )


@contextmanager
def lock_folder(
    folder: str | Path, name: str = LOCK, waiting: Callable[[str], None] | None = None
) -> Iterator[LockedFolder]:
    """Hold a folder, which is made if there is none. Of several processes of one run, the first does.

    Args:
        folder: the folder.
        name: of the lock file in it.
        waiting: called with who holds it, where the lock is to be waited for; default: it is not.

    Raises:
        UserError: another process holds it, named; the folder cannot be written.

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
    """The lock of a file; None where the file system has none."""
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
        say(f"vpt: {path.parent} is on a file system without locks ({error}): see that no other process works in it")
        return None
    return lock


def _note_holder(path: Path) -> None:
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):  # a full disk; the lock holds without it
        _holder_file(path).write_text(json.dumps(holder) + "\n", encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        found = json.loads(_holder_file(path).read_text(encoding="utf-8"))
        return f"process {int(found['process'])} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"


def _holder_file(path: Path) -> Path:
    # Not the lock file itself: older versions of filelock empty it when they try to take the lock.
    return path.with_name(f"{path.name}{HOLDER}")


def _remove_if_unused(made: Sequence[Path], path: Path) -> None:
    """Remove folders that were made for the lock alone. Who waits for the lock notices that its file is gone."""
    with contextlib.suppress(OSError):
        if [item.name for item in path.parent.iterdir()] == [path.name]:
            path.unlink()
            for folder in made:
                folder.rmdir()


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
