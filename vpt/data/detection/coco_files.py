"""Locations of COCO annotation files and their images, in the layouts of COCO itself, Roboflow, CVAT, Datumaro, Label
Studio and FiftyOne."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

from vpt.data.datasets.entries import is_image, listed
from vpt.data.detection.split_names import UNSPLIT, split_named, split_within
from vpt.data.file_lookup import Files, ancestors, below
from vpt.utils.errors import UserError

# COCO's other files, which contain no object boxes, or the same boxes again.
_OTHERS = ("captions", "image_info", "panoptic", "labels_", "stuff", "person_keypoints")
_IMAGES = ("images", "Images", "data", "JPEGImages", "img", "imgs")


def find_coco(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by split: `SPLIT/_annotations.coco.json`, `annotations/instances_SPLIT*.json`,
    `annotations/SPLIT.json`, `SPLIT.json` and the like; a single file that names no split is for training.

    >>> find_coco(Path("no/such"))
    {}
    """
    return {split: files[0] for split, files in _candidates(folder).items()}


def coco_files(folder: Path) -> dict[str, Path]:
    """Like `find_coco`, but strict.

    Raises:
        UserError: two files for one split.
    """
    found = _candidates(folder)
    for split, files in found.items():
        if len(files) > 1:
            names = listed([str(file) for file in files], 5)
            raise UserError(
                f"{folder} contains {len(files)} COCO files for {split}: {names}; keep one, or give one as data.path"
            )
    return {split: files[0] for split, files in found.items()}


def _candidates(folder: Path) -> dict[str, list[Path]]:
    """The best files of each split; several if none is better."""
    files = [*folder.glob("*.json"), *folder.glob("*/*.json")]
    files += [file for file in folder.glob("*/annotations/*.json") if split_named(file.parent.parent.name)]
    ranked: dict[str, dict[int, list[Path]]] = {}
    unsplit: list[Path] = []
    for file in sorted(set(files)):
        split = _split_of(file, folder)
        if split is None:
            unsplit.append(file)
        elif not file.name.lower().startswith(_OTHERS[:3]):
            ranked.setdefault(split, {}).setdefault(_rank(file, folder), []).append(file)
    found = {}
    for split, ranks in ranked.items():
        for _, equals in sorted(ranks.items()):
            good = [file for file in equals if _is_coco(file)] if len(equals) > 1 else equals
            if good:
                found[split] = good
                break
    if not found:
        good = [file for file in unsplit if _is_coco(file)]
        return {"train": good} if good else {}
    return found


def names_split(file: Path, folder: Path) -> bool:
    """Whether the name of an annotation file, or of a folder above it in the data set, contains a split.

    >>> names_split(Path("set/annotations/instances_val.json"), Path("set")), names_split(Path("a.json"), Path("."))
    (True, False)
    """
    return _split_of(file, folder) is not None


def _split_of(file: Path, folder: Path) -> str | None:
    split = split_within(file.stem)
    if split is not None:
        return split
    for parent in file.parents:
        if parent == folder:
            return None
        if (split := split_named(parent.name)) is not None:
            return split
    return None


def _rank(file: Path, folder: Path) -> int:
    """Lower is better: COCO's own files of objects, then others, then those that repeat their boxes."""
    name = file.name.lower()
    rank = 0 if name.startswith("instances") or name == "_annotations.coco.json" else 1
    if name.startswith(_OTHERS):
        rank = 2
    near = file.parent == folder or "annotation" in file.parent.name.lower() or split_named(file.parent.name)
    return rank if near else rank + 3


def _is_coco(file: Path) -> bool:
    try:
        tree = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and all(isinstance(tree.get(key), list) for key in ("images", "annotations"))


def dataset_folder(file: Path) -> Path:
    """The data set folder of a single annotation file.

    >>> dataset_folder(Path("set/annotations/a.json")).as_posix(), dataset_folder(Path("set/a.json")).as_posix()
    ('set', 'set')
    """
    return file.parent.parent if "annotation" in file.parent.name.lower() else file.parent


def image_folders(file: Path, split: str) -> list[Path]:
    """Folders that may contain the images of an annotation file, most likely first.

    >>> image_folders(Path("no/such.json"), "train")
    []
    """
    top = dataset_folder(file)
    holders = [top / name for name in _IMAGES]
    # For tools that put labels/, annotations/ and images/ side by side.
    beside = [top.parent / name for name in _IMAGES] if top == file.parent else []
    places = [file.parent]
    for holder in (*holders, top, *beside):
        places += [holder / file.stem, holder / file.stem.removeprefix("instances_"), *_of_split(holder, split)]
    return list(dict.fromkeys(place for place in (*places, *holders, top, *beside) if place.is_dir()))


def _of_split(holder: Path, split: str) -> Iterable[Path]:
    if not holder.is_dir():
        return []
    return sorted(place for place in holder.iterdir() if split_named(place.name) == split and place.is_dir())


class Images:
    """Finds the images named by an annotation file, all of them in one folder if possible.

    Args:
        file: the annotation file.
        places: folders that may contain its images, most likely first.
        root: of the data set; files outside it are refused.
        files: finds files.
    """

    def __init__(self, file: Path, places: Sequence[Path], root: Path, files: Files) -> None:
        self._file = file
        self._places = list(places) or [file.parent]
        self._root = root
        self._files = files
        self.outside = 0  # number of paths that lead out of the data set, but end like an image in it

    def locate(self, names: Sequence[str]) -> list[Path]:
        """Paths of the images; missing ones are placed in the first folder.

        Raises:
            UserError: a path that leads out of the data set.
        """
        counts: list[tuple[int, int]] = []
        for number, place in enumerate(self._places):
            found = sum(self._at(place, name) is not None for name in names)
            counts.append((-found, number))
            if found == len(names):
                break
        self._places = [self._places[number] for _, number in sorted(counts)]
        return [self._one(name) for name in names]

    def _one(self, name: str) -> Path:
        for place in self._places:
            if (path := self._at(place, name)) is not None:
                return path
        if not _is_plain(name) and (path := self._by_end(name)) is not None:
            self.outside += 1
            return path
        return self._allowed(name)

    def _at(self, place: Path, name: str) -> Path | None:
        if not _is_plain(name):
            try:
                path = below([self._root, place], place, name, self._file)
            except UserError:
                return None
            top = self._root if path.is_relative_to(self._root) else place
            return self._files.find(top, path.relative_to(top))
        # Windows writes folders with backslashes; elsewhere they may be part of a name.
        found = self._files.find(place, name)
        return self._files.find(place, name.replace("\\", "/")) if found is None and "\\" in name else found

    def _by_end(self, name: str) -> Path | None:
        """The image that the end of a path matches, for paths of the machine on which the file was made."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for end in ancestors(Path(*parts)) if "\0" not in name else ():
            for place in self._places:
                found = self._files.find(place, end)
                if found is not None and is_image(found.name):
                    return found
        return None

    def _allowed(self, name: str) -> Path:
        error: UserError | None = None
        for place in self._places:
            try:
                return below([self._root, place], place, name, self._file)
            except UserError as caught:
                error = error or caught
        assert error is not None
        raise error


def _is_plain(name: str) -> bool:
    """Whether a path is relative and stays below the folder it starts at."""
    path = Path(name)
    leads_out = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).is_absolute()
    return bool(name) and not leads_out and "\0" not in name


def unsplit_note(folder: Path, chosen: Iterable[Path]) -> list[str]:
    """At most one message about files without a split in their name next to files with one, as CVAT writes them."""
    chosen = set(chosen)
    left = [
        str(file.relative_to(folder))
        for file in sorted(folder.glob("annotations/*.json"))
        if file not in chosen and file.stem.removeprefix("instances_").lower() in UNSPLIT
    ]
    return [f"did not read {listed(left)}, which belongs to no split; rename it after one"] if left and chosen else []
