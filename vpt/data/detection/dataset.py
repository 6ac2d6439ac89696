"""Images with boxes. Boxes are x1, y1, x2, y2 in pixels of the upright image, from its upper left corner."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vpt.data.dataset import Record
from vpt.utils.file_names import one_line

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, slots=True)
class BoxRecord(Record):
    """One image with its boxes.

    Args:
        boxes: in pixels of the upright image; `labels` has the class of each.
        crowds: whether each box is a crowd.
        size: width and height of the upright image, in pixels.
        areas: annotated area of each object, in pixels; empty if there are none.
        defect: why the image cannot be used, or "".
    """

    boxes: tuple[Box, ...] = ()
    crowds: tuple[bool, ...] = ()
    size: Size = (0, 0)
    areas: tuple[float, ...] = ()
    defect: str = ""

    def identity(self) -> list[Any]:
        """What identifies the record in fingerprints."""
        return [self.name, self.labels, self.boxes, self.crowds]

    def object_areas(self) -> tuple[float, ...]:
        """Area of each object for COCO's size classes: the annotated one, else that of its box.

        >>> BoxRecord("a", Path("a"), (0,), ((0.0, 0.0, 4.0, 3.0),), (False,), (8, 8)).object_areas()
        (12.0,)
        """
        return self.areas or tuple((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in self.boxes)

    def problem(self) -> str:
        """Why the image cannot be used, or ""."""
        return self.defect


class RawBox(NamedTuple):
    """A box as given in an annotation file.

    Args:
        label: name of its class.
        box: x1, y1, x2, y2, in pixels or as fractions of the image's sides.
        crowd: whether it is a crowd.
        area: of the object in pixels, if the file gives it.
        at: its position in the file, as in "line 3".
    """

    label: str
    box: Box
    crowd: bool = False
    area: float | None = None
    at: str = ""


class BoxEntry(NamedTuple):
    """One image as given in an annotation file.

    Args:
        name: display name.
        source: the image file, which may not exist.
        boxes: boxes of the image.
        size: width and height stated by the annotations, or None.
        file: the annotation file; None for an image without one.
        fractions: whether boxes are fractions of the upright image's sides.
        defect: why the image cannot be used, or "".
    """

    name: str
    source: Path
    boxes: tuple[RawBox, ...]
    size: Size | None
    file: Path | None
    fractions: bool = False
    defect: str = ""

    def printable(self) -> BoxEntry:
        """The entry with names that can be printed."""
        boxes = tuple(raw._replace(label=one_line(raw.label)) for raw in self.boxes)
        return self._replace(name=one_line(self.name), boxes=boxes)


@dataclass
class BoxFound:
    """Result of a reader.

    Args:
        splits: entries by split.
        classes: in the data set's own order, or None if the training boxes determine them.
        notes: messages for the user.
        folder: of the data set.
        read: files that annotations, lists and descriptions were read from.
        orphans: annotation files without image, as far as the reader can tell.
        tops: folders whose images are used for training because nothing assigns them to another split.
    """

    splits: dict[str, list[BoxEntry]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    folder: Path = Path()
    read: set[Path] = field(default_factory=set)
    orphans: list[Path] = field(default_factory=list)
    tops: list[Path] = field(default_factory=list)
