r"""Files that a list names, found where the list was written on another system: "\" for "/", accents in Unicode's other
form, characters that cannot be seen."""

from __future__ import annotations

import os
from pathlib import Path

from vpt.data.class_names import clean, visible
from vpt.data.datasets.entries import listed, number_of
from vpt.utils.atomic_io import at_home


class Located:
    """Finds files below a folder, and remembers which it found under another spelling.

    Args:
        folder: that relative paths start at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        from vpt.data.detection.file_lookup import Files

        self._files = Files()
        self._respelt: list[str] = []

    def find(self, text: str) -> Path | None:
        r"""The file of that path, a broken link too; None where there is none.

        Args:
            text: as the list has it; absolute, from the home folder, or relative.

        >>> Located(Path(__file__).parent).find("..\\datasets\\listed_files.py").name
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
        """At most one sentence about paths that were found under another spelling."""
        if not self._respelt:
            return []
        names = [visible(text) for text in self._respelt]
        return [
            f"{file} spells {number_of(len(names), 'path')} otherwise than the files are called ('\\' for '/', another "
            f"Unicode form, characters that cannot be seen, the extension's letter case): {listed(names, 3)}"
        ]

    def _in_other_form(self, path: Path) -> Path | None:
        """The only file that is called so but for the Unicode form, or the letter case of the extension."""
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
    except (OSError, ValueError):  # a name that is too long, say
        return False
