"""Where files that can be made again are kept between runs."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from vpt.utils.atomic_io import make_folder
from vpt.utils.errors import UserError, WriteError


def cache_dir() -> Path:
    """The folder `vpt` within XDG_CACHE_HOME, or within ~/.cache. It may not exist yet.

    Raises:
        UserError: there is no home folder, and none can be made.

    >>> cache_dir().name
    'vpt'
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path there is to be ignored.
    return (Path(given) if os.path.isabs(given) else _home() / ".cache") / "vpt"


def ensure_home() -> str:
    """Give a process without a home folder a private temporary one, as containers with any user id need it.

    Libraries look for their caches below HOME, and fail or write into a folder called "~" where there is none.

    Returns:
        A sentence about it; "" where there is a home folder.

    Raises:
        UserError: none can be made.

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
    """The folder `name` of the cache; if it is not there, `fill` writes its files.

    It is written under a temporary name and then renamed, so that a folder of that name is always complete.

    Args:
        name: of the folder.
        what: it holds, for messages.
        fill: writes into the empty folder that it is given.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = cache_dir() / name
    if folder.is_dir():
        return folder
    try:
        make_folder(folder, fill)  # False where another process was faster, with the same files
    except WriteError as error:
        reason = str(error).removeprefix("cannot write ")
        raise WriteError(f"cannot write the {what} to {reason}, by setting XDG_CACHE_HOME") from error
    return folder


def _home() -> Path:
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        return Path(home)
    # Others may write to the temporary folder, too: this one must be ours, and closed to them.
    folder = Path(tempfile.gettempdir()) / f"vpt-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"there is no home folder, and {folder} cannot be made: {error.strerror}; set HOME") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise UserError(f"there is no home folder, and {folder} is not this user's alone; set HOME")
    return folder
