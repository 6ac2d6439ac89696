"""Pascal VOC: an XML file an image; lists of images in ImageSets/Main where there are splits."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from vpt.data.boxes.records import BoxEntry, BoxFound, BoxRecord, RawBox
from vpt.data.boxes.sizes import upright_size
from vpt.data.entries import SPLIT_NAMES, is_image, listed
from vpt.data.lists import read_lines
from vpt.data.paths import inside
from vpt.errors import UserError


def find_voc(folder: Path) -> Path | None:
    """The folder of XML files of a VOC data set, or None."""
    for name in ("Annotations", "annotations"):
        if any((folder / name).glob("*.xml")):
            return folder / name
    return folder if any(folder.glob("*.xml")) else None


def read_voc(folder: Path, max_pixels: int) -> BoxFound:
    """Read a data set with XML files in Annotations/ and images in JPEGImages/, images/ or beside them.

    Difficult objects are kept; boxes count pixels from 1, as VOC's do. Without ImageSets all images are for training.
    Where the XML tells no size, that of the image is read.

    Raises:
        UserError: XML that is damaged or lacks a box, images that do not exist, by name.
    """
    annotations = find_voc(folder)
    if annotations is None:
        raise UserError(f"{folder} holds no XML annotations in Annotations/")
    entries: dict[str, BoxEntry] = {}
    missing: list[str] = []
    for file in sorted(annotations.glob("*.xml")):
        entry = _entry(folder, file, max_pixels)
        if entry is None:
            missing.append(file.name)
        else:
            entries[file.stem] = entry
    if missing:
        raise UserError(f"the images of {len(missing)} XML files cannot be found below {folder}: {listed(missing)}")
    found = BoxFound()
    lists = folder / "ImageSets" / "Main"
    for file in sorted(lists.glob("*.txt")) if lists.is_dir() else []:
        split = SPLIT_NAMES.get(file.stem.lower())
        if split is not None:
            names = [line.split()[0] for line in read_lines(file, "check data.path")]
            unknown = [name for name in names if name not in entries]
            if unknown:
                raise UserError(f"{file} lists images without an XML file: {listed(unknown)}")
            found.splits[split] = [entries[name] for name in names]
    if not found.splits:
        found.splits["train"] = list(entries.values())
    return found


def _entry(folder: Path, file: Path, max_pixels: int) -> BoxEntry | None:
    try:
        # ElementTree follows no external entities, and expat limits those that expand.
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as XML: {error}") from None
    boxes = tuple(_box(item, file) for item in root.iter("object"))
    name = (root.findtext("filename") or "").strip()
    path = _image(folder, file, name)
    if path is None:
        return None
    width, height = (
        _pixels(_number(root, place, file)) if root.findtext(place) else 0 for place in ("size/width", "size/height")
    )
    if width <= 0 or height <= 0:
        width, height = upright_size(path, max_pixels) or (1, 1)  # the check of the data tells who cannot be read
    return BoxEntry(path.name, path, boxes, (width, height))


def _box(item: ElementTree.Element, file: Path) -> RawBox:
    label = (item.findtext("name") or "").strip()
    if not label:
        raise UserError(f"{file}: an object has no name")
    x1, y1, x2, y2 = (_number(item, f"bndbox/{key}", file) for key in ("xmin", "ymin", "xmax", "ymax"))
    return RawBox(label, (x1 - 1, y1 - 1, x2, y2))


def _number(item: ElementTree.Element, path: str, file: Path) -> float:
    text = item.findtext(path)
    try:
        return float(text or "")
    except ValueError:
        raise UserError(f"{file}: {path} is '{(text or '')[:60]}', not a number") from None


def _pixels(number: float) -> int:
    """A size in pixels; 0 where the number cannot be one.

    >>> _pixels(8.0), _pixels(float("inf"))
    (8, 0)
    """
    return int(number) if math.isfinite(number) else 0


def _image(folder: Path, file: Path, name: str) -> Path | None:
    """The image of an XML file: by the name it gives, else the image with its own stem."""
    for place in ("JPEGImages", "images", "Images", "."):
        if name and Path(name).name == name:
            path = inside(folder / place, name, file)
            if os.path.isfile(path):
                return path
    for place in ("JPEGImages", "images", "Images", "."):
        for path in sorted((folder / place).glob(f"{file.stem}.*")):
            if is_image(path.name):
                return path
    return None


def to_voc(record: BoxRecord, classes: Sequence[str], name: str) -> str:
    """The XML text of a record whose image is called `name`.

    >>> "<xmin>2</xmin>" in to_voc(
    ...     BoxRecord("a", Path("a.png"), (0,), ((1.0, 2.0, 4.0, 6.0),), (False,), (8, 8)), ["cat"], "a.png"
    ... )
    True
    """
    lines = ["<annotation>", f"  <filename>{escape(name)}</filename>"]
    lines += [f"  <size><width>{record.size[0]}</width><height>{record.size[1]}</height><depth>3</depth></size>"]
    for label, (x1, y1, x2, y2) in zip(record.labels, record.boxes, strict=True):
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        inner = "".join(f"<{key}>{value:g}</{key}>" for key, value in corners.items())
        lines.append(f"  <object><name>{escape(classes[label])}</name><bndbox>{inner}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])
