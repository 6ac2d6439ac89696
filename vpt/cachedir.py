"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from vpt.errors import UserError


def cache_dir() -> Path:
    """The folder `vpt` within XDG_CACHE_HOME, or within ~/.cache. It may not exist yet.

    >>> cache_dir().name
    'vpt'
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path there is to be ignored.
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "vpt"


def made_once(name: str, what: str, fill: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; if it is not there, `fill` writes what belongs into it.

    It is written beside and then renamed, so that a folder of that name is always whole.

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
    temporary: str | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent)
        os.chmod(temporary, 0o755)
        fill(Path(temporary))
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same files
                raise
    except OSError as error:
        raise UserError(
            f"cannot write the {what} to {folder}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
