"""Paths that lists and annotations name, checked before they are used."""

from __future__ import annotations

from pathlib import Path

from vpt.utils.errors import UserError


def inside(root: Path, name: str, file: Path) -> Path:
    """The path `name` below `root`. Lists and annotations of others are not to be trusted.

    Args:
        root: the folder that paths start at.
        name: the path, as `file` has it.
        file: what names it.

    Raises:
        UserError: an empty or absolute path, one that leaves the root, or one that holds a NUL byte.

    >>> inside(Path("images"), "a/b.jpg", Path("x.json")).as_posix()
    'images/a/b.jpg'
    >>> inside(Path("data"), "../secret.png", Path("list.txt"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: list.txt names '../secret.png', which does not lie below data; ...
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise UserError(
            f"{file} names {name[:100]!r}, which does not lie below {root}; its paths must be relative to that folder"
        )
    return root / name
