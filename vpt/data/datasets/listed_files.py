r"""Finds files named by a list that was written on another system: "\" for "/", accents in Unicode's other
normalisation form, invisible characters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vpt.data.class_names import clean, visible
from vpt.data.datasets.entries import listed, number_of
from vpt.data.decode import EXTENSIONS
from vpt.data.medical.files import extension, without_slice
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


def elsewhere(folder: Path, texts: Sequence[str]) -> str | None:
    """Where the images are if none is at its listed path: below one folder next to the list, or with an extension that
    the list leaves out, as Kaggle publishes data. None if that is not clear.

    Returns:
        A pattern for the path, as in "train/{}.jpg".

    >>> elsewhere(Path(__file__).parent, ["csv.py"]), elsewhere(Path(__file__).parent.parent, ["csv.py"])
    (None, 'datasets/{}')
    """
    some = [text for text in texts if text and "\0" not in text][:: max(1, len(texts) // 20)]
    if not some or any(os.path.isabs(text) for text in some) or any(_is_file(folder / text) for text in some):
        return None
    bare = not any(extension(text) in EXTENSIONS for text in some)
    endings = ["", *sorted(EXTENSIONS)] if bare else [""]
    try:
        folders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name.isprintable())
    except OSError:
        return None
    counts = {
        (place, ending): sum(_is_file(folder / place / f"{text}{ending}") for text in some)
        for place in ["", *folders[:100]]
        for ending in endings
    }
    best = max(counts.values())
    chosen = [key for key, count in counts.items() if count == best]
    if not best or len(chosen) > 1:
        return None
    place, ending = (part.replace("{", "{{").replace("}", "}}") for part in chosen[0])
    return f"{place}/{{}}{ending}" if place else f"{{}}{ending}"


def _is_file(path: Path) -> bool:
    try:
        path = without_slice(path)[0]
        return path.is_file() or path.is_symlink()
    except (OSError, ValueError):  # for example a name that is too long
        return False
