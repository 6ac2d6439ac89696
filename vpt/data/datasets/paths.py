"""Paths that lists and annotations contain: where they may lead, and which of them are the same file."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path

from vpt.data.medical.files import without_slice
from vpt.utils.errors import UserError


def inside(root: Path, name: str, file: Path) -> Path:
    """The path `name` below `root`. Lists and annotations are untrusted.

    Args:
        root: the folder that paths are relative to.
        name: the path as written in `file`.
        file: the file that contains it.

    Raises:
        UserError: an empty or absolute path, one that leaves the root, or one that contains a NUL byte.

    >>> inside(Path("images"), "a/b.jpg", Path("x.json")).as_posix()
    'images/a/b.jpg'
    >>> inside(Path("data"), "../secret.png", Path("list.txt"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: list.txt names '../secret.png', which is not inside data; ...
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise UserError(
            f"{file} names {name[:100]!r}, which is not inside {root}; its paths must be relative to that folder"
        )
    return root / name


def file_identity(path: Path) -> Hashable:
    """Equal for paths of the same file, or slice of a file: links and different spellings are resolved.

    A missing file or a broken link is identified by its absolute path, a text; the data check reports it.

    >>> file_identity(Path(__file__)) == file_identity(Path(__file__).parent / "." / Path(__file__).name)
    True
    """
    try:
        file, number = without_slice(path)
        status = os.stat(file)
    except (OSError, ValueError):
        return os.path.abspath(path)
    return status.st_dev, status.st_ino, number
