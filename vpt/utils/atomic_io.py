"""Atomic writing of files and folders: to a temporary name in the same folder, which is then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vpt.utils.errors import UserError, WriteError
from vpt.utils.file_names import cut

# Errors of the disk or the folder, from any library.
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
_OF_RUST = re.compile(r"\(os error (\d+)\)")
_PROBE = 1 << 16  # bytes; larger than a block of common file systems


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file next to `path`, then rename it to `path`.

    If an error occurs before the rename, the old file is unchanged and the temporary file is removed.

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
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=".tmp")
            os.close(handle)
            temporary = Path(name)
            write(temporary)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(mode_for_all(0o666))
            temporary.replace(path)
    finally:
        if temporary is not None:
            _remove(temporary)
    return path


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Convert errors of a full disk or an unwritable folder to one sentence about `place`.

    Libraries raise their own errors when a disk is full: safetensors a SafetensorError, torch a RuntimeError.

    Args:
        place: what is being written, for the message.

    Raises:
        WriteError: an error of the disk or the folder. Other errors are passed through.

    >>> with writing("a.txt"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.WriteError: cannot write a.txt: No space left on device; free some space or choose another folder
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = system_reason(error) or _cannot_take_more(Path(place).parent)
        if reason is None:
            raise
        raise WriteError(f"cannot write {place}: {reason}; free some space or choose another folder") from error


def system_reason(error: BaseException) -> str | None:
    """Error message of the operating system; None for errors of another kind.

    >>> system_reason(ValueError("Error while serializing: I/O error: No space left on device (os error 28)"))
    'No space left on device'
    >>> system_reason(ValueError("a mistake")) is None
    True
    """
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return "a name contains half of a surrogate pair, which cannot be encoded"
    if isinstance(error, ValueError) and "null byte" in str(error):
        return "a path cannot contain a NUL character"
    if found := _OF_RUST.search(str(error)):
        return os.strerror(int(found.group(1)))
    behind: BaseException | None = error
    for _ in range(8):
        behind = None if behind is None else behind.__cause__ or behind.__context__
        if isinstance(behind, OSError) and behind.errno in _STORAGE:
            return behind.strerror
    return next((text for text in map(os.strerror, _STORAGE) if text in str(error)), None)


def _cannot_take_more(folder: Path) -> str | None:
    """Why nothing can be written to a folder now; None if it is writable.

    A writer that hides the cause of its failure leaves its partial file behind, so a full disk is still full.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror
    return None


def _prefix(path: Path) -> str:
    """Start of a temporary name, cut so that it is no longer than a file system takes when the path is not."""
    return f".{cut(path.name)}."


def _remove(path: Path) -> None:
    """Remove a temporary file; failures are ignored, so that the original error is reported."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def make_folder(path: str | Path, fill: Callable[[Path], object]) -> bool:
    """Let `fill` write into a folder next to `path`, then rename it to `path`.

    If several processes create the same folder at once, only one succeeds, because a rename replaces only an empty
    folder.

    Args:
        path: the folder; its parents are created too.
        fill: writes at least one file.

    Returns:
        Whether the folder was created; False if something else exists there.

    Raises:
        UserError: the disk is full or the folder cannot be written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a"
    >>> [make_folder(target, lambda folder: (folder / "b.txt").write_text("hello")) for _ in range(2)]
    [True, False]
    """
    temporary: Path | None = None
    try:
        with writing(path):
            path = Path(path).resolve()  # a link to an empty folder counts as that folder
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=".tmp"))
            fill(temporary)
            temporary.chmod(mode_for_all(0o777))
            return _renamed(temporary, path)
    except WriteError as error:
        raise WriteError(str(error).replace(str(temporary), str(path))) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _renamed(old: Path, new: Path) -> bool:
    """Whether a folder could be renamed; False if a file or a non-empty folder exists at the new name."""
    try:
        old.rename(new)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def mode_for_all(mode: int) -> int:
    """A file mode with the user's umask applied: tempfile creates private files, but results are ordinary files."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, atomically (see `write_atomic`).

    Characters that cannot be encoded (halves of surrogate pairs) are written as JSON escapes, so no text is lost.
    """
    return write_atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "backslashreplace")))


def at_home(path: str | Path) -> Path:
    """Expand `~` to the home folder; a path with an unknown user's name is unchanged.

    Raises:
        UserError: this user has no home folder.

    >>> at_home("~no-such-user/photos")
    PosixPath('~no-such-user/photos')
    """
    found = os.path.expanduser(path)  # Path.expanduser raises if there is no such user
    if os.fspath(found).split(os.sep)[0] == "~":
        raise UserError(f"{path}: this user has no home folder, and HOME is not set; give the path without ~")
    return Path(found)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` to `path` as indented JSON, atomically (see `write_atomic`)."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, absent: str, damaged: str = "take another copy of it") -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        absent: remedy if the file does not exist.
        damaged: remedy if it cannot be read.

    Raises:
        UserError: it is missing, cannot be read, or is not JSON.

    >>> read_json("no/such.json", "check data.path")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: there is no file no/such.json; check data.path
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
