"""Pascal VOC: one XML file per image, and optional lists of images for the splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from vpt.data.annotation_text import number, one_form, printable, whole_number
from vpt.data.datasets.entries import is_image, listed, number_of
from vpt.data.detection.dataset import Box, BoxEntry, BoxFound, BoxRecord, RawBox, Size
from vpt.data.detection.split_names import split_named
from vpt.data.detection.voc_files import Part, split_lists, voc_parts, xml_below
from vpt.data.file_lookup import Files, below
from vpt.utils.errors import UserError
from vpt.utils.file_names import shown


def read_voc(folder: Path) -> BoxFound:
    """Read a data set with XML files in Annotations/ and images in JPEGImages/, images/ or next to them, or both in
    folders named after the splits.

    An XML file belongs to the image with the same name or, if there is none, to the one in its <filename>. Difficult
    objects are kept. Box coordinates count pixels from 1, as in VOC, unless the file was written by CVAT, Datumaro or
    Label Studio, which count from 0. Two equal corners are a box without area, as most tools mean it, and not a box of
    one pixel. Without lists all images are for training.

    Raises:
        UserError: XML that is damaged or lacks a box, two XML files for one image, a list whose purpose is unclear.
    """
    parts = voc_parts(folder)
    if not parts:
        raise UserError(f"{folder} contains no XML annotations in Annotations/")
    found = BoxFound(folder=folder)
    files = Files()
    for part in parts:
        entries = _entries(folder, part, files, found)
        if part.split is not None:
            splits = {part.split: list(entries)}
        else:
            splits, lists = split_lists(folder, entries, found.notes)
            if not splits:
                splits = _by_folder(entries)
                found.tops += part.images
            found.read |= set(lists)
        for split, keys in splits.items():
            found.splits.setdefault(split, []).extend(entries[key] for key in keys)
    return found


def _by_folder(keys: Iterable[str]) -> dict[str, list[str]]:
    """The keys by their top folder, if each is in one named after a split; else all for training."""
    found: dict[str, list[str]] = {}
    for key in keys:
        top, slash, _ = key.partition("/")
        split = split_named(top) if slash else None
        if split is None:
            return {"train": list(keys)}
        found.setdefault(split, []).append(key)
    return found


class _Annotation(NamedTuple):
    """Contents of one XML file. `key` is its path below the folder of XML files, without extension."""

    key: str
    file: Path
    filename: str
    size: Size | None
    boxes: tuple[RawBox, ...]
    from_zero: bool
    swapped: int


def _entries(folder: Path, part: Part, files: Files, found: BoxFound) -> dict[str, BoxEntry]:
    """The images of a folder of XML files, by key."""
    annotations = [_parsed(file, part.annotations) for file in xml_below(part.annotations, part.annotations != folder)]
    found.read |= {one.file for one in annotations}
    own = {one.key: image for one in annotations if (image := _own(one, part, files)) is not None}
    taken = set(own.values())
    named: dict[Path, _Annotation] = {}
    others, entries = [], {}
    for one in annotations:
        image = own.get(one.key)
        stated = _named(one, part, folder, files)
        if image is not None:
            if stated is not None and stated != image:
                others.append(f"{one.file.name} (names {printable(one.filename)})")
        elif stated is None or stated in taken:
            found.orphans.append(one.file)
        elif stated in named:
            raise UserError(
                f"{named[stated].file} and {one.file} both name the image {stated}; keep one annotation of each image"
            )
        else:
            image = stated
            named[image] = one
        if image is None:
            suffix = Path(one.filename).suffix if is_image(Path(one.filename).name) else ""
            image = part.images[0] / f"{one.key}{suffix}"
        entries[one.key] = BoxEntry(_name(image, folder, part), image, one.boxes, one.size, one.file)
    if others:
        found.notes.append(
            f"{number_of(len(others), 'XML file')} whose <filename> differs from the image with the name of the XML "
            f"file, which is used: {listed(others, 5)}"
        )
    if left := _without_xml(own, named, files):
        found.notes.append(f"left out {number_of(len(left), 'image')} without an XML file: {listed(left, 5)}")
    from_zero = [one.file.name for one in annotations if one.from_zero and one.boxes]
    if from_zero:
        found.notes.append(
            f"the boxes of {number_of(len(from_zero), 'XML file')} count pixels from 0, as in the tool that wrote "
            f"them: {listed(from_zero, 3)}"
        )
    swapped = [one.file.name for one in annotations if one.swapped]
    if swapped:
        count = sum(one.swapped for one in annotations)
        found.notes.append(f"swapped the corners of {number_of(count, 'box')}: {listed(swapped, 5)}")
    return entries


def _without_xml(own: Mapping[str, Path], named: Mapping[Path, object], files: Files) -> list[str]:
    """Images without an XML file, in folders that contain images with one."""
    there = {*own.values(), *named}
    folders = sorted({image.parent for image in there})
    return [shown(image.name) for folder in folders for image in files.all_images(folder) if image not in there]


def _name(image: Path, folder: Path, part: Part) -> str:
    """Display name of an image: its path in the folder of images, or in the data set if splits have folders."""
    tops = [folder] if part.split is not None else part.images
    top = next((top for top in tops if image.is_relative_to(top)), None)
    return shown(image.relative_to(top) if top is not None else image)


def _own(one: _Annotation, part: Part, files: Files) -> Path | None:
    """The image with the name of the XML file."""
    key = Path(one.key)
    for place in part.images:
        images = files.images(place / key.parent, key.name)
        if len(images) > 1:
            filename = one_form(Path(one.filename.replace("\\", "/")).name)
            images = [image for image in images if one_form(image.name) == filename]
            if len(images) != 1:
                raise UserError(
                    f"several images in {place / key.parent} have the name of {one.file}, and its <filename> "
                    f"{printable(one.filename)} does not tell which one is meant; rename one"
                )
        if images:
            return images[0]
    return None


def _named(one: _Annotation, part: Part, folder: Path, files: Files) -> Path | None:
    """The image in <filename>, by its path below a folder of images, else by its name only."""
    name = one.filename.replace("\\", "/")
    for text in dict.fromkeys([name, name.rpartition("/")[2]]):
        for place in part.images:
            if text and (path := _below(folder, place, text, one.file)) is not None:
                image = files.find(folder, path.relative_to(folder))
                if image is not None and is_image(image.name):
                    return image
    return None


def _below(folder: Path, place: Path, text: str, file: Path) -> Path | None:
    try:
        return below([folder], place, text, file)
    except UserError:  # a path on the annotator's machine, as many tools write
        return None


def _parsed(file: Path, top: Path) -> _Annotation:
    try:
        # ElementTree does not follow external entities, and expat limits the expansion of others.
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{file} cannot be read as XML: {error}; use another copy of it, or move it elsewhere"
        ) from None
    if root.tag != "annotation":
        raise UserError(
            f"{file} is not Pascal VOC: its root is {printable(root.tag)}, not 'annotation'; export it as Pascal VOC, "
            "or move it elsewhere"
        )
    from_zero = _counts_from_zero(root)
    boxes, swapped = [], 0
    for at, item in enumerate(root.findall("object"), 1):
        raw, is_swapped = _box(item, f"{file}: object {at}", from_zero)
        boxes.append(raw._replace(at=f"object {at}"))
        swapped += is_swapped
    return _Annotation(
        one_form(file.relative_to(top).with_suffix("").as_posix()),
        file,
        (root.findtext("filename") or "").strip(),
        _size(root, file),
        tuple(boxes),
        from_zero,
        swapped,
    )


def _counts_from_zero(root: ElementTree.Element) -> bool:
    """Whether the file was written by a tool that counts pixels from 0: Label Studio names itself as the owner,
    Datumaro and CVAT give the source as unknown three times."""
    source = [root.findtext(f"source/{key}") for key in ("database", "annotation", "image")]
    return root.findtext("owner/name") == "Label Studio" or source == ["Unknown"] * 3


def _box(item: ElementTree.Element, place: str, from_zero: bool) -> tuple[RawBox, bool]:
    """A box, and whether its corners were in the wrong order."""
    label = one_form((item.findtext("name") or "").strip())
    if not label:
        raise UserError(f"{place} has no name")
    if item.find("bndbox") is None:
        raise UserError(f"{place} ({label}) has no bndbox; give it one")
    x1, y1, x2, y2 = (_number(item, key, place) for key in ("xmin", "ymin", "xmax", "ymax"))
    box: Box = (x1, y1, x2, y2)
    swapped = (x1 > x2 or y1 > y2) and all(map(math.isfinite, box))
    if swapped:
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    if not from_zero and box[0] != box[2] and box[1] != box[3]:
        box = (box[0] - 1, box[1] - 1, box[2], box[3])
    return RawBox(label, box), swapped


def _number(item: ElementTree.Element, key: str, place: str) -> float:
    text = item.findtext(f"bndbox/{key}")
    value = number(text or "")
    if value is None:
        raise UserError(f"{place}: {key} is {printable(text or '')}, not a number")
    return value


def _size(root: ElementTree.Element, file: Path) -> Size | None:
    """The stated size; None if it is missing or zero."""
    sides = []
    for key in ("width", "height"):
        text = (root.findtext(f"size/{key}") or "").strip()
        side = whole_number(text) if text else 0
        if side is None:
            raise UserError(f"{file}: size/{key} is {printable(text)}, not a whole number of pixels")
        sides.append(side)
    return (sides[0], sides[1]) if min(sides) > 0 else None


def is_too_thin(box: Box) -> bool:
    """Whether VOC cannot hold a box: its corners are pixels inside it, which are equal, or in the wrong order, in a box
    at most one pixel wide or high.

    >>> is_too_thin((3.0, 3.0, 4.0, 9.0)), is_too_thin((3.0, 3.0, 5.0, 9.0))
    (True, False)
    """
    return float(f"{box[0] + 1:.8g}") >= float(f"{box[2]:.8g}") or float(f"{box[1] + 1:.8g}") >= float(f"{box[3]:.8g}")


def to_voc(record: BoxRecord, classes: Sequence[str], name: str) -> str:
    """The XML text of a record whose image is called `name`.

    Crowds, and boxes of one pixel (see `is_too_thin`), are left out, because VOC has none.

    >>> "<xmin>2</xmin>" in to_voc(
    ...     BoxRecord("a", Path("a.png"), (0,), ((1.0, 2.0, 4.0, 6.0),), (False,), (8, 8)), ["cat"], "a.png"
    ... )
    True
    """
    lines = ["<annotation>", f"  <filename>{escape(name)}</filename>"]
    lines += [f"  <size><width>{record.size[0]}</width><height>{record.size[1]}</height><depth>3</depth></size>"]
    for label, (x1, y1, x2, y2), crowd in zip(record.labels, record.boxes, record.crowds, strict=True):
        if not crowd and not is_too_thin((x1, y1, x2, y2)):
            corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
            inner = "".join(f"<{key}>{value:.8g}</{key}>" for key, value in corners.items())
            lines.append(f"  <object><name>{escape(classes[label])}</name><bndbox>{inner}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])
