"""Images with boxes. Boxes are x1, y1, x2, y2 in pixels of the upright image, from its upper left corner."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vpt.data.entries import listed, number_of
from vpt.data.records import Record

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class BoxRecord(Record):
    """One image with its boxes; `labels` has the class of each box, `crowds` whether it stands for a crowd."""

    boxes: tuple[Box, ...] = ()
    crowds: tuple[bool, ...] = ()
    size: tuple[int, int] = (0, 0)  # width and height of the image, in pixels

    def identity(self) -> list[Any]:
        """What decides the record, for fingerprints."""
        return [self.name, self.labels, self.boxes, self.crowds]


class RawBox(NamedTuple):
    """A box as a file has it, with the name of its class."""

    label: str
    box: Box
    crowd: bool = False


class BoxEntry(NamedTuple):
    """One image as a file has it."""

    name: str
    source: Path
    boxes: tuple[RawBox, ...]
    size: tuple[int, int]


@dataclass
class BoxFound:
    """Entries by split; the classes in the data set's own order, or None when training boxes decide."""

    splits: dict[str, list[BoxEntry]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


def mended(entries: Sequence[BoxEntry], notes: list[str]) -> list[BoxEntry]:
    """Entries whose boxes lie within their images and have an area; what was done goes to `notes`, by name.

    Images without boxes stay. Boxes that reach beyond the image are cut at its edge. Boxes without area, those wholly
    outside, and those with numbers that are not finite are left out.
    """
    cut: list[str] = []
    lost: list[str] = []
    kept = []
    for entry in entries:
        width, height = entry.size
        boxes = []
        for raw in entry.boxes:
            x1, y1, x2, y2 = raw.box
            if not all(map(math.isfinite, raw.box)):
                lost.append(f"{entry.name} (a number that is not finite)")
                continue
            inside = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
            if inside[2] - inside[0] <= 0 or inside[3] - inside[1] <= 0:
                lost.append(f"{entry.name} ({x1:g}, {y1:g}, {x2:g}, {y2:g})")
                continue
            # A pixel of rounding is everyday; more is worth a word.
            if max(abs(one - other) for one, other in zip(inside, raw.box, strict=True)) > 1.5:
                cut.append(entry.name)
            boxes.append(raw._replace(box=inside))
        kept.append(entry._replace(boxes=tuple(boxes)))
    empty = [entry.name for entry in kept if not entry.boxes]
    if empty:
        notes.append(f"{number_of(len(empty), 'image')} without boxes, of background alone: {listed(empty, 5)}")
    if lost:
        notes.append(f"left out {number_of(len(lost), 'box')} without area inside the image: {listed(lost, 5)}")
    if cut:
        names = list(Counter(cut))
        notes.append(f"cut {number_of(len(cut), 'box')} at the image's edge: {listed(names, 5)}")
    return kept
