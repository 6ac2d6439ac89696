"""Locations of the XML files, images and lists of a Pascal VOC data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from vpt.data.annotation_text import one_form, printable
from vpt.data.datasets.entries import EXTENSIONS, SPLIT_NAMES, listed, number_of
from vpt.data.detection.split_names import HELD_OUT, JOINED, UNSPLIT, list_lines, lists_in, rest, split_named
from vpt.utils.errors import UserError

_ANNOTATIONS = ("Annotations", "annotations", "Annotation", "annotation", "labels", "xmls", "xml")
_IMAGES = ("JPEGImages", "images", "Images", "data", "imgs", "img", ".")


class Part(NamedTuple):
    """A folder of XML files.

    Args:
        annotations: the folder.
        images: folders that may contain its images.
        split: the split that the folder is named after, or None.
    """

    annotations: Path
    images: tuple[Path, ...]
    split: str | None


def find_voc(folder: Path) -> Path | None:
    """The folder of XML files of a VOC data set, or the first of several; None if there is none.

    >>> find_voc(Path("no/such")) is None
    True
    """
    return next((part.annotations for part in voc_parts(folder)), None)


def voc_parts(folder: Path) -> list[Part]:
    """The folders of XML files: `Annotations/`, XML next to the images, or either of them in `train/`, `valid/`, ...

    >>> voc_parts(Path("no/such"))
    []
    """
    whole = _part(folder, None)
    if whole is not None:
        return [whole]
    if not folder.is_dir():
        return []
    splits = ((inner, split_named(inner.name)) for inner in sorted(folder.iterdir()) if inner.is_dir())
    parts = [_part(inner, split) for inner, split in splits if split is not None]
    return [part for part in parts if part is not None]


def _part(folder: Path, split: str | None) -> Part | None:
    for name in _ANNOTATIONS:
        if any(xml_below(folder / name)):
            return Part(folder / name, tuple(folder / place for place in _IMAGES), split)
    if folder.is_dir() and any(_is_xml(file.name) for file in folder.iterdir()):
        return Part(folder, tuple(folder / place for place in (".", *_IMAGES[:-1])), split)
    return None


def xml_below(folder: Path, deep: bool = True) -> Iterator[Path]:
    """The XML files in a folder and, if `deep`, its subfolders, in order, following links.

    >>> list(xml_below(Path("no/such")))
    []
    """
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen or not deep:
            folders.clear()
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if _is_xml(name))


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")


def split_lists(folder: Path, keys: Mapping[str, object], notes: list[str]) -> tuple[dict[str, list[str]], list[Path]]:
    """The keys of each split according to the lists of a data set, and the lists that were read; empty without lists.

    Lists are in `ImageSets/Main`, in another folder of `ImageSets`, or next to the images. If only validation or test
    images are listed, the other images are for training.

    Args:
        folder: of the data set.
        keys: every image that has an XML file, by its name without extension.
        notes: list to which messages for the user are appended.

    Raises:
        UserError: a list names an image without an XML file, or its purpose is unclear from its name.
    """
    for place in _list_folders(folder):
        found, files = _lists(place, keys)
        if found:
            return _finished(found, keys, place, notes), files
    return {}, []


def _list_folders(folder: Path) -> Iterator[Path]:
    sets = next((folder / name for name in ("ImageSets", "imagesets", "ImageSet") if (folder / name).is_dir()), None)
    if sets is not None:
        yield from (sets / name for name in ("Main", "main") if (sets / name).is_dir())
        yield sets
        yield from sorted(inner for inner in sets.iterdir() if inner.is_dir() and inner.name.lower() != "main")
    yield from (folder / name for name in ("splits", "lists") if (folder / name).is_dir())
    yield folder


def _lists(place: Path, keys: Mapping[str, object]) -> tuple[dict[str, list[str]], list[Path]]:
    """The keys by split, including "trainval" and "default", according to the lists of one folder; and those lists."""
    files = {file.stem.lower(): file for file in sorted(place.glob("*.txt"))}
    chosen = lists_in(place)
    for name in (JOINED, *UNSPLIT):
        if name in files:
            chosen[name] = [files[name]]
    if not chosen:  # VOC's lists per class, if there are no others
        for stem, file in files.items():
            split = stem.rpartition("_")[2]
            if split != stem and (split in SPLIT_NAMES or split == JOINED):
                chosen.setdefault(SPLIT_NAMES.get(split, split), []).append(file)
    found = {
        split: list(dict.fromkeys(key for file in lists for key in _keys(file, keys)))
        for split, lists in chosen.items()
    }
    known = [file for lists in chosen.values() for file in lists]
    if place.name.lower().startswith("imageset") or place.parent.name.lower().startswith("imageset"):
        _refuse_unclear([file for file in files.values() if file not in known], found, keys)
    return found, known


def _refuse_unclear(files: list[Path], found: Mapping[str, list[str]], keys: Mapping[str, object]) -> None:
    """Refuse lists whose names do not tell their purpose, because their images might be held out."""
    known = {key for names in found.values() for key in names}
    for file in files:
        suffix = file.stem.lower().rpartition("_")
        if suffix[1] and (suffix[2] in SPLIT_NAMES or suffix[2] in (JOINED, *UNSPLIT)):  # list of one class
            continue
        names = set(_keys(file, keys))
        if names and not names <= known and names != set(keys):
            raise UserError(
                f"{file} lists {number_of(len(names), 'image')}, but its name does not tell the purpose; rename it to "
                "train.txt, val.txt or test.txt, or move it elsewhere"
            )


def _finished(
    found: dict[str, list[str]], keys: Mapping[str, object], place: Path, notes: list[str]
) -> dict[str, list[str]]:
    """The final splits, derived from the lists."""
    held = {split: found[split] for split in HELD_OUT if split in found}
    train = found.get("train")
    if train is None and JOINED in found:
        train = rest(found[JOINED], held)
    if train is None:
        train = next((rest(found[name], held) for name in UNSPLIT if name in found), None)
    if train is None:
        train = rest(keys, held)
        if train:
            notes.append(
                f"{place} lists no training images, so {number_of(len(train), 'image')} in none of its lists are used"
            )
    left = rest(keys, {"train": train, **held})
    if left:
        notes.append(
            f"left out {number_of(len(left), 'image')} that the lists of {place} assign to no split: {listed(left, 5)}"
        )
    return {split: names for split, names in (("train", train), *held.items()) if names}


def _keys(file: Path, keys: Mapping[str, object]) -> list[str]:
    """The keys named in a list."""
    found, unknown = [], []
    for line in list_lines(file):
        key = next((form for form in _forms(line) if form in keys), None)
        if key is None:
            unknown.append(printable(line))
        else:
            found.append(key)
    if unknown:
        raise UserError(
            f"{file} lists images without an XML file: {listed(unknown)}; add the XML files, or correct those lines"
        )
    return list(dict.fromkeys(found))


def _forms(line: str) -> Iterator[str]:
    """Possible meanings of a line: a name, perhaps with an extension, a leading folder, or a trailing number."""
    line = one_form(line.replace("\\", "/"))
    words = line.split()
    for text in dict.fromkeys([line, line.rpartition(" ")[0].strip(), words[0]]):
        if not text:
            continue
        path = Path(text.strip('"').removeprefix("./"))
        yield path.as_posix()
        if path.suffix.lower() in EXTENSIONS or path.suffix.lower() == ".xml":
            path = path.with_suffix("")
            yield path.as_posix()
        for start in range(1, len(path.parts)):
            yield Path(*path.parts[start:]).as_posix()
