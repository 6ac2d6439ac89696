r"""Files that a list names, found where the list was written on another system: "\" for "/", accents in Unicode's other
form, characters that cannot be seen."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from vpt.data.entries import listed, number_of
from vpt.data.labels import clean, visible
from vpt.files import at_home


class Located:
    """Finds files below a folder, and remembers which it found under another spelling.

    Args:
        folder: that relative paths start at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Path, dict[str, list[str]]] = {}  # of each folder, by their composed form
        self._respelt: list[str] = []

    def find(self, text: str) -> Path | None:
        r"""The file of that path, a broken link too; None where there is none.

        Args:
            text: as the list has it; absolute, from the home folder, or relative.

        >>> Located(Path(__file__).parent).find("..\\data\\located.py").name
        'located.py'
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
        """At most one sentence about paths that were found under another spelling."""
        if not self._respelt:
            return []
        names = [visible(text) for text in self._respelt]
        return [
            f"{file} spells {number_of(len(names), 'path')} otherwise than the files are called ('\\' for '/', another "
            f"Unicode form, characters that cannot be seen): {listed(names, 3)}"
        ]

    def _in_other_form(self, path: Path) -> Path | None:
        """The only file whose path is equal in Unicode's composed form."""
        found = Path(path.anchor)
        for part in path.parts[1 if path.anchor else 0 :]:
            if part == ".." or os.path.lexists(found / part):
                found = found / part
                continue
            names = self._listing(found).get(unicodedata.normalize("NFC", part), [])
            if len(names) != 1:
                return None
            found = found / names[0]
        return found if _is_file(found) else None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
            except OSError:
                pass  # then the file is missing
            self._names[folder] = names
        return self._names[folder]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or path.is_symlink()
    except (OSError, ValueError):  # a name that is too long, say
        return False
