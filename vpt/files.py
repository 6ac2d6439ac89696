"""Files and folders come whole or not at all: write beside the target, flush, then rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpt.errors import UserError


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it onto `path`.

    Whatever happens before the rename, the old file stays as it was and no temporary file is left behind.

    Raises:
        UserError: the disk is full or the folder cannot be written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_atomic(target, lambda temporary: temporary.write_text("hello")).read_text()
    'hello'
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(_open_to_others(0o666))
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def make_folder(path: str | Path, fill: Callable[[Path], object]) -> bool:
    """Let `fill` write into a folder beside `path`, then rename it onto `path`.

    Of several processes that make the same folder at once, one does: it comes with something in it, and only an empty
    folder gives way.

    Args:
        path: the folder; its parents are made too.
        fill: writes at least one file.

    Returns:
        Whether it was made; False where something else stands there.

    Raises:
        UserError: the disk is full or the place cannot be written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a"
    >>> [make_folder(target, lambda folder: (folder / "b.txt").write_text("hello")) for _ in range(2)]
    [True, False]
    """
    path = Path(path).resolve()  # a link to an empty folder stands for it
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        fill(temporary)
        temporary.chmod(_open_to_others(0o777))
        return _renamed(temporary, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _renamed(old: Path, new: Path) -> bool:
    """Whether a folder could be renamed; not where a file or a folder with something in it stands."""
    try:
        old.rename(new)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _open_to_others(mode: int) -> int:
    """tempfile makes what it makes private to its owner; a result is an ordinary file or folder."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


def _unwritten(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}; free some space or choose another folder")


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, atomically (see `write_atomic`)."""
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def at_home(path: str | Path) -> Path:
    """A path whose `~` is the home folder; one that names no user's is left as it is.

    >>> at_home("~no-such-user/photos")
    PosixPath('~no-such-user/photos')
    """
    return Path(os.path.expanduser(path))  # Path's own raises where there is no such user


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` to `path` as indented JSON, atomically (see `write_atomic`)."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, absent: str, damaged: str = "take another copy of it") -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        absent: the mend where there is no such file.
        damaged: the mend where it cannot be read.

    Raises:
        UserError: it is missing, cannot be read, or is no JSON.

    >>> read_json("no/such.json", "check data.path")
    Traceback (most recent call last):
    ...
    vpt.errors.UserError: there is no file no/such.json; check data.path
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; {absent}") from None
    except RecursionError:
        reason = "it is nested too deeply"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    raise UserError(f"{path} cannot be read as JSON: {reason}; {damaged}")
