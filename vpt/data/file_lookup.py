"""Finds files named by annotations by their exact names: no patterns, in one Unicode form, ignoring the letter case of
the extension."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vpt.data.annotation_text import one_form, printable
from vpt.data.datasets.entries import is_image
from vpt.utils.errors import UserError


@dataclass
class _Listing:
    """Names in one folder: as they are, and by the keys under which they are looked up."""

    names: set[str] = field(default_factory=set)
    composed: dict[str, list[str]] = field(default_factory=dict)
    folded: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str) -> None:
        self.names.add(name)
        self.composed.setdefault(one_form(name), []).append(name)
        self.folded.setdefault(_folded(name), []).append(name)
        if is_image(name):
            self.images.setdefault(one_form(os.path.splitext(name)[0]), []).append(name)

    def find(self, name: str) -> str | None:
        """The exact name, else the only one that is equal in Unicode's composed form, else the only one that differs
        just in the letter case of the extension."""
        if name in self.names:
            return name
        for found in (self.composed.get(one_form(name), []), self.folded.get(_folded(name), [])):
            if len(found) == 1:
                return found[0]
        return None


class Files:
    """Finds files below folders. Each folder is listed once, on first use."""

    def __init__(self) -> None:
        self._listings: dict[Path, _Listing | None] = {}

    def find(self, folder: Path, name: str | Path) -> Path | None:
        """The file or folder `name` (a relative path without "..") below `folder`, including broken links; or None.

        Raises:
            UserError: a folder that cannot be read.

        >>> Files().find(Path(__file__).parent, "dataset.PY").name
        'dataset.py'
        """
        found = folder
        for part in Path(name).parts:
            listing = self._listing(found)
            there = listing.find(part) if listing is not None else None
            if there is None:
                return None
            found = found / there
        return found

    def images(self, folder: Path, stem: str) -> list[Path]:
        """The images in `folder` whose name without extension is exactly `stem`, sorted.

        Raises:
            UserError: a folder that cannot be read.

        >>> Files().images(Path(__file__).parent, "records")
        []
        """
        listing = self._listing(folder)
        return [folder / name for name in sorted(listing.images.get(one_form(stem), []))] if listing else []

    def all_images(self, folder: Path) -> list[Path]:
        """All images in `folder`, sorted.

        Raises:
            UserError: a folder that cannot be read.

        >>> Files().all_images(Path(__file__).parent)
        []
        """
        listing = self._listing(folder)
        return sorted(folder / name for names in listing.images.values() for name in names) if listing else []

    def _listing(self, folder: Path) -> _Listing | None:
        if folder not in self._listings:
            try:
                names = os.listdir(folder)
            except (FileNotFoundError, NotADirectoryError):
                self._listings[folder] = None
                return None
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"cannot read the folder {folder}: {reason}; make it readable") from None
            self._listings[folder] = listing = _Listing()
            for name in names:
                listing.add(name)
        return self._listings[folder]


def below(roots: Sequence[Path], base: Path, name: str, file: Path) -> Path:
    """The path `name` given in `file`, if it is inside one of the folders `roots`. Nothing is opened, and links are not
    followed: a link that a user has put into a data set may lead anywhere.

    Args:
        roots: folders that belong to the data set; the first is named in the message.
        base: the folder that relative paths start at.
        name: the path, as written in the file.
        file: the file that contains it.

    Raises:
        UserError: an empty path, one outside all roots, or one that contains a NUL byte.

    >>> below([Path("set")], Path("set/lists"), "../images/a.jpg", Path("x.txt")).as_posix()
    'set/images/a.jpg'
    >>> below([Path("set")], Path("set"), "../../secret.png", Path("x.txt"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: x.txt names '../../secret.png', which is not inside set; ...
    """
    if name and "\0" not in name:
        whole = _absolute(base / name)
        for root in roots:
            for top in (_absolute(root), Path(os.path.realpath(root))):
                if whole != top and whole.is_relative_to(top):
                    return root / whole.relative_to(top)
    raise UserError(
        f"{file} names {printable(name, 100)}, which is not inside {roots[0]}; images must be in that folder"
    )


def ancestors(path: Path) -> Iterator[Path]:
    """A relative path, then without its first folder, and so on, down to the file's name.

    >>> [path.as_posix() for path in ancestors(Path("a/b/c.jpg"))]
    ['a/b/c.jpg', 'b/c.jpg', 'c.jpg']
    """
    for start in range(len(path.parts)):
        yield Path(*path.parts[start:])


def _folded(name: str) -> str:
    stem, extension = os.path.splitext(one_form(name))
    return stem + extension.lower()


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(os.path.abspath(path)))
