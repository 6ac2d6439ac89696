"""Images with boxes. Boxes are x1, y1, x2, y2 in pixels of the upright image, from its upper left corner."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vpt.data.dataset import Record

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, slots=True)
class BoxRecord(Record):
    """One image with its boxes.

    Args:
        boxes: in pixels of the upright image; `labels` has the class of each.
        crowds: whether each stands for a crowd.
        size: width and height of the upright image, in pixels.
        areas: what the annotations give as each object's area, in pixels; empty where they give none.
        defect: why the image cannot be used, or "".
    """

    boxes: tuple[Box, ...] = ()
    crowds: tuple[bool, ...] = ()
    size: Size = (0, 0)
    areas: tuple[float, ...] = ()
    defect: str = ""

    def identity(self) -> list[Any]:
        """What decides the record, for fingerprints."""
        return [self.name, self.labels, self.boxes, self.crowds]

    def object_areas(self) -> tuple[float, ...]:
        """The area of each object as COCO's size classes take it: the annotated one, else that of its box.

        >>> BoxRecord("a", Path("a"), (0,), ((0.0, 0.0, 4.0, 3.0),), (False,), (8, 8)).object_areas()
        (12.0,)
        """
        return self.areas or tuple((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in self.boxes)

    def problem(self) -> str:
        """Why the image cannot be used, or ""."""
        return self.defect


class RawBox(NamedTuple):
    """A box as an annotation file has it.

    Args:
        label: the name of its class.
        box: x1, y1, x2, y2, in pixels or as fractions of the image's sides.
        crowd: whether it stands for a crowd.
        area: of the object in pixels, where the file gives it.
        at: where in the file it stands, as in "line 3".
    """

    label: str
    box: Box
    crowd: bool = False
    area: float | None = None
    at: str = ""


class BoxEntry(NamedTuple):
    """One image as an annotation file has it.

    Args:
        name: what users are shown.
        source: the image file, whether it exists or not.
        boxes: of the image.
        size: width and height that the annotations state; None where they state none.
        file: the annotation file; None for an image that has none.
        fractions: boxes are fractions of the upright image's sides.
        defect: why the image cannot be used, or "".
    """

    name: str
    source: Path
    boxes: tuple[RawBox, ...]
    size: Size | None
    file: Path | None
    fractions: bool = False
    defect: str = ""


@dataclass
class BoxFound:
    """What a reader found.

    Args:
        splits: entries by split.
        classes: in the data set's own order, or None when training boxes decide.
        notes: sentences for the user.
        folder: of the data set.
        read: files that annotations, lists and descriptions were read from.
        orphans: annotation files whose image is not there, as far as the reader can tell.
        tops: folders whose images are for training because nothing says that they are not.
    """

    splits: dict[str, list[BoxEntry]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    folder: Path = Path()
    read: set[Path] = field(default_factory=set)
    orphans: list[Path] = field(default_factory=list)
    tops: list[Path] = field(default_factory=list)
