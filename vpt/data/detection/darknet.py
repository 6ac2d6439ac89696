"""YOLO data sets without a data.yaml: Darknet's obj.data (CVAT's "YOLO 1.1"), Roboflow's _darknet.labels, and the
classes.txt of Label Studio and labelImg."""

from __future__ import annotations

from pathlib import Path

from vpt.data.detection.dataset import BoxFound
from vpt.data.detection.split_names import list_lines, split_named
from vpt.data.detection.yolo import read_images
from vpt.data.detection.yolo_images import Places
from vpt.data.detection.yolo_yaml import class_names
from vpt.data.file_lookup import Files, ancestors
from vpt.utils.errors import UserError

_NAMES = ("obj.names", "classes.txt", "_darknet.labels", "classes.names", "labels/classes.txt")


def find_darknet(folder: Path) -> Path | None:
    """The file that describes a YOLO data set without a data.yaml: obj.data, or class names next to label files; or
    None.

    >>> find_darknet(Path("no/such")) is None
    True
    """
    data = sorted(file for file in folder.glob("*.data") if file.is_file())
    if data:
        return data[0]
    for names in (*(folder / name for name in _NAMES), *sorted(folder.glob("*/_darknet.labels"))):
        if names.is_file() and _has_labels(folder, names):
            return names
    return None


def _has_labels(folder: Path, names: Path) -> bool:
    """Whether there are text files that may be labels: in labels/, or next to images."""
    places = [folder / "labels", folder, *(inner for inner in folder.iterdir() if inner.is_dir())]
    for place in places:
        for file in place.rglob("*.txt") if place.name == "labels" else place.glob("*.txt"):
            if file != names and file.stem not in ("classes", "README") and split_named(file.stem) is None:
                return True
    return False


def read_darknet(file: Path, folder: Path) -> BoxFound:
    """Read the data set described by obj.data or a list of class names.

    Splits are those of the lists that obj.data names, else those found by `Places.undescribed`.

    Raises:
        UserError: a file that is missing or has an invalid line, with its name.
    """
    places = Places([folder], Files())
    found = BoxFound(folder=folder, read={file})
    lists: dict[str, list[Path]] = {}
    if file.suffix == ".data":
        names_file, lists = _described(file, folder, places)
    else:
        names_file = file
    found.read.add(names_file)
    found.classes = class_names(list_lines(names_file), names_file)
    images = {split: [image for one in files for image in places.listed(one)] for split, files in lists.items()}
    if not images:
        images = places.undescribed(folder)
        found.tops += [folder / "images", folder]
    if not any(images.values()):
        raise UserError(f"{folder} contains no images; export the data set with its images")
    read_images({split: paths for split, paths in images.items() if paths}, found.classes, None, places, found)
    return found


def _described(file: Path, folder: Path, places: Places) -> tuple[Path, dict[str, list[Path]]]:
    """The list of class names and the lists of images that an obj.data names."""
    said: dict[str, str] = {}
    for line in list_lines(file):
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            said[key.strip()] = value.strip()
    lists: dict[str, list[Path]] = {}
    for key, value in said.items():
        split = split_named(key)
        if split is not None and value:
            lists.setdefault(split, []).append(_named(value, folder, file, places))
    if "names" not in said:
        raise UserError(f"{file} does not name a list of class names; add 'names = obj.names'")
    return _named(said["names"], folder, file, places), lists


def _named(value: str, folder: Path, file: Path, places: Places) -> Path:
    """A file named by obj.data; leading folders that do not exist, such as `data/`, are ignored."""
    path = Path(value)
    inner = path.relative_to(path.anchor)
    for end in ancestors(inner):
        found = places.files.find(folder, end) if ".." not in end.parts and "\0" not in value else None
        if found is not None and found.is_file():
            return found
    raise UserError(f"{file} names {value}, which does not exist; correct the path")
