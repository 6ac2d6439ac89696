r"""Finds files named by a list that was written on another system: "\" for "/", accents in Unicode's other
normalisation form, invisible characters."""

from __future__ import annotations

import os
from pathlib import Path

from vpt.data.class_names import clean, visible
from vpt.data.datasets.entries import listed, number_of
from vpt.utils.atomic_io import at_home


class FileFinder:
    """Finds files below a folder, and records which ones were found under another spelling.

    Args:
        folder: the folder that relative paths start at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        from vpt.data.file_lookup import Files

        self._files = Files()
        self._respelt: list[str] = []

    def find(self, text: str) -> Path | None:
        r"""The file at that path, including broken links; None if there is none.

        Args:
            text: path as written in the list; absolute, relative to the home folder (~), or relative.

        >>> FileFinder(Path(__file__).parent).find("..\\datasets\\listed_files.py").name
        'listed_files.py'
        """
        if not text or "\0" in text:
            return None
        for spelling in dict.fromkeys([text, text.replace("\\", "/"), clean(text), clean(text).replace("\\", "/")]):
            path = self._folder / at_home(spelling)
            found = path if _is_file(path) else self._in_other_form(path)
            if found is not None:
                if spelling != text or found is not path:
                    self._respelt.append(text)
                return found
        return None

    def notes(self, file: Path) -> list[str]:
        """At most one message about paths that were found under another spelling."""
        if not self._respelt:
            return []
        names = [visible(text) for text in self._respelt]
        return [
            f"{file} spells {number_of(len(names), 'path')} differently from the files ('\\' for '/', another Unicode "
            f"form, invisible characters, the extension's letter case): {listed(names, 3)}"
        ]

    def _in_other_form(self, path: Path) -> Path | None:
        """The only file whose name differs just in the Unicode form, or in the letter case of the extension."""
        found = Path(path.anchor)
        parts = path.parts[1 if path.anchor else 0 :]
        for at, part in enumerate(parts):
            if part != ".." and not os.path.lexists(found / part):
                rest = Path(*parts[at:])
                other = None if ".." in rest.parts else self._files.find(found, rest)
                return other if other is not None and _is_file(other) else None
            found = found / part
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or path.is_symlink()
    except (OSError, ValueError):  # for example a name that is too long
        return False
