"""The images of YOLO's splits: folders, and lists of paths as written by Darknet, Ultralytics, CVAT and Datumaro."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vpt.data.annotation_text import printable
from vpt.data.datasets.entries import is_image, number_of
from vpt.data.datasets.image_folder import images_below
from vpt.data.detection.split_names import list_lines, lists_in, split_named
from vpt.data.file_lookup import Files, ancestors, below
from vpt.utils.errors import UserError


class Places:
    """Finds the images that the description of a YOLO data set refers to.

    Args:
        roots: folders that paths may be relative to, most likely first; lists may not refer to files outside them.
        files: finds files.
    """

    def __init__(self, roots: Sequence[Path], files: Files) -> None:
        self.roots = list(dict.fromkeys(roots))
        self.files = files
        self.lists: list[Path] = []  # lists that were read
        self.stripped: Counter[str] = Counter()  # leading folders in lists that do not exist

    def find(self, place: str) -> Path | None:
        """A folder, list or image named in a description; None if it does not exist.

        Some tools export paths that start with "../" but are relative to the folder of the description.
        """
        for text in dict.fromkeys([place, place.replace("\\", "/")]):
            for root in self.roots:
                for form in dict.fromkeys([text, text.removeprefix("../")]):
                    if os.path.exists(root / form):  # Path.exists raises for invalid names
                        return root / form
                    if _is_plain(form) and (found := self.files.find(root, form)) is not None:
                        return found
        return None

    def images(self, place: Path) -> list[Path]:
        """The images of a place: all below a folder, following links; those named in a list; or a single image.

        Raises:
            UserError: it is none of these, or a list refers to files outside the data set.
        """
        if place.is_dir():
            return sorted(images_below(place, Counter()))
        if place.suffix.lower() == ".txt":
            return self.listed(place)
        if is_image(place.name):
            return [place]
        raise UserError(f"{place} is neither a folder of images nor a .txt file that lists images")

    def listed(self, file: Path) -> list[Path]:
        """The images named in a list, whether they exist or not.

        Raises:
            UserError: a path that leads out of the data set.
        """
        self.lists.append(file)
        return [self._of_line(line, file) for line in list_lines(file)]

    def _of_line(self, line: str, file: Path) -> Path:
        for text in dict.fromkeys([line, line.replace("\\", "/")]):
            if (found := self._given(text, file) or self._stripped(text, file)) is not None:
                return found
        return below([*self.roots, file.parent], self.roots[0], line, file)

    def undescribed(self, folder: Path) -> dict[str, list[Path]]:
        """The images by split for data sets whose description names none: from lists named after splits in `folder`, if
        there is one for training; else from folders named after splits; else all for training.

        Raises:
            UserError: a list refers to files outside the data set.
        """
        lists = lists_in(folder)
        if "train" not in lists:
            return self._by_folder(folder)
        return {split: [image for one in files for image in self.listed(one)] for split, files in lists.items()}

    def _by_folder(self, folder: Path) -> dict[str, list[Path]]:
        for top in (folder / "images", folder):
            found: dict[str, list[Path]] = {}
            for inner in sorted(top.iterdir()) if top.is_dir() else ():
                split = split_named(inner.name)
                if split is not None and inner.is_dir() and (images := self.images(inner)):
                    found.setdefault(split, []).extend(images)
            if found:
                return found
            if top.is_dir() and (images := self.images(top)):
                return {"train": images}
        return {}

    def _given(self, text: str, file: Path) -> Path | None:
        """A path as written, relative to the folder of the data set or of the list."""
        bases = [file.parent, *self.roots] if text.startswith("./") else [*self.roots, file.parent]
        for base in bases:
            try:
                path = below([*self.roots, file.parent], base, text, file)
            except UserError:
                continue
            top = next(root for root in (*self.roots, file.parent) if path.is_relative_to(root))
            if (found := self.files.find(top, path.relative_to(top))) is not None:
                return found
        return None

    def _stripped(self, text: str, file: Path) -> Path | None:
        """A path without leading folders that do not exist: Darknet's `data/`, or those of another machine."""
        path = Path(text)
        if ".." in path.parts or "\0" in text:
            return None
        inner = path.relative_to(path.anchor)
        for end in list(ancestors(inner))[0 if path.is_absolute() else 1 :]:
            if len(end.parts) == 1 and (path.is_absolute() or len(inner.parts) > 2):
                return None  # a bare name may match another image
            for root in self.roots:
                if (found := self.files.find(root, end)) is not None and found.is_file():
                    before = text[: len(text) - len(end.as_posix())] if text.endswith(end.as_posix()) else text
                    self.stripped[before] += 1
                    return found
        return None

    def notes(self) -> list[str]:
        """Messages about changed paths of lists, for the user."""
        return [
            f"ignored the leading {printable(before)}, which does not exist, in {number_of(count, 'path')} of lists"
            for before, count in self.stripped.most_common(3)
        ]


def _is_plain(text: str) -> bool:
    path = Path(text)
    return bool(text) and not path.is_absolute() and ".." not in path.parts
