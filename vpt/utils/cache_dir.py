"""Cache folder for files that can be created again."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from vpt.utils.atomic_io import make_folder
from vpt.utils.errors import UserError, WriteError


def cache_dir() -> Path:
    """The folder `vpt` in XDG_CACHE_HOME, or in ~/.cache. It may not exist yet.

    Raises:
        UserError: there is no home folder, and none can be created.

    >>> cache_dir().name
    'vpt'
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # According to the XDG standard, relative paths are ignored.
    return (Path(given) if os.path.isabs(given) else _home() / ".cache") / "vpt"


def ensure_home() -> str:
    """Set up a private temporary home folder if there is none, as in containers with arbitrary user ids.

    Libraries place their caches in HOME, and fail or write to a folder named "~" without it.

    Returns:
        A message about it; "" if there is a home folder.

    Raises:
        UserError: it cannot be created.

    >>> ensure_home() if os.path.isabs(os.path.expanduser("~")) else ""
    ''
    """
    if os.path.isabs(os.path.expanduser("~")):
        return ""
    home = _home()
    os.environ["HOME"] = str(home)
    os.environ.setdefault("USER", str(os.getuid()))  # torch names its cache after the user
    return f"HOME is not set and this user has no home folder: caches are kept in {home}"


def made_once(name: str, what: str, fill: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; if it does not exist, `fill` creates its files.

    It is written under a temporary name and then renamed, so an existing folder is always complete.

    Args:
        name: name of the folder.
        what: description of its content, for messages.
        fill: writes into the empty folder given to it.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = cache_dir() / name
    if folder.is_dir():
        return folder
    try:
        make_folder(folder, fill)  # False if another process created the same files first
    except WriteError as error:
        reason = str(error).removeprefix("cannot write ")
        raise WriteError(f"cannot write the {what} to {reason}, by setting XDG_CACHE_HOME") from error
    return folder


def _home() -> Path:
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        return Path(home)
    # Other users may write to the temporary folder: this one must be owned by this user and private.
    folder = Path(tempfile.gettempdir()) / f"vpt-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"there is no home folder, and {folder} cannot be made: {error.strerror}; set HOME") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise UserError(f"there is no home folder, and {folder} is not this user's alone; set HOME")
    return folder
