"""Images with masks. A mask is (H, W) uint8 in pixels of the upright image: class indices, and `IGNORE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vpt.data.dataset import Record
from vpt.data.decode import BadImage

Size = tuple[int, int]  # width and height in pixels
IGNORE = 255  # pixels that count neither in the loss nor in a metric
UNKNOWN = 254  # values of a file that are no class; the validation refuses them
MOST_CLASSES = 254


class MaskSource(Protocol):
    """Where the mask of an image comes from."""

    @property
    def file(self) -> Path:
        """The file that contains it."""

    def size(self, max_pixels: int) -> Size | None:
        """Width and height of the mask; None if it is drawn at the size of the image.

        Raises:
            UserError: a file that cannot be read.
        """

    def read(self, size: Size) -> np.ndarray:
        """The mask (H, W) uint8 of an image of that width and height.

        Raises:
            UserError: a file that cannot be read, or has another size.
        """

    def unknown(self, size: Size) -> list[str]:
        """The values, or colours, of the file that are no class."""


@dataclass(frozen=True, slots=True)
class MaskRecord(Record):
    """One image with its mask; `labels` are the classes that occur in it.

    Args:
        mask: where the mask comes from.
        size: width and height of the upright image, in pixels.
        digest: of the mask's pixels.
        defect: why the image cannot be used, or "".
    """

    mask: MaskSource | None
    size: Size = (0, 0)
    digest: str = ""
    defect: str = ""

    def identity(self) -> list[Any]:
        """What identifies the record in fingerprints."""
        return [self.name, self.labels, self.digest]

    def read_mask(self, size: Size) -> np.ndarray:
        """The mask (H, W) uint8 of the image, whose width and height are given.

        Raises:
            BadImage: there is none, it cannot be read, or it has another size.
        """
        if self.mask is None:
            raise BadImage(self.name, self.defect or "it has no mask")
        return self.mask.read(size)

    def problem(self) -> str:
        """Why the image cannot be used, or ""."""
        return self.defect


@dataclass(frozen=True)
class Renumbered:
    """A mask whose classes get other indices.

    Args:
        mask: the mask.
        table: new index of each value, 256 bytes.
    """

    mask: MaskSource
    table: bytes

    @property
    def file(self) -> Path:
        """The file that contains it."""
        return self.mask.file

    def size(self, max_pixels: int) -> Size | None:
        """Width and height of the mask."""
        return self.mask.size(max_pixels)

    def read(self, size: Size) -> np.ndarray:
        """The mask (H, W) uint8."""
        return np.frombuffer(self.table, np.uint8)[self.mask.read(size)]

    def unknown(self, size: Size) -> list[str]:
        """The values of the file that are no class."""
        return self.mask.unknown(size)


class MaskEntry(NamedTuple):
    """One image as found by a reader; `mask` is None if it has none."""

    name: str
    source: Path
    mask: MaskSource | None


@dataclass
class MaskFound:
    """Result of a reader.

    Args:
        splits: entries by split.
        classes: names, in the order of the indices in masks.
        notes: messages for the user.
        remedy: what to do about an image without a mask, as the end of a sentence.
    """

    splits: dict[str, list[MaskEntry]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    remedy: str = "give it a mask of the same name"

    def with_classes(self, classes: Sequence[str]) -> MaskFound:
        """The same images with masks in the indices of other classes, matched by name; pixels of classes that are not
        among these are ignored.

        >>> MaskFound(classes=("car",)).with_classes(["road", "car"]).classes
        ('road', 'car')
        """
        if tuple(classes) == self.classes:
            return self
        table = np.full(256, IGNORE, np.uint8)
        table[UNKNOWN] = UNKNOWN
        for label, name in enumerate(self.classes):
            if name in classes:
                table[label] = list(classes).index(name)
        splits = {
            split: [
                entry._replace(mask=None if entry.mask is None else Renumbered(entry.mask, table.tobytes()))
                for entry in entries
            ]
            for split, entries in self.splits.items()
        }
        return MaskFound(splits, tuple(classes), self.notes, self.remedy)
