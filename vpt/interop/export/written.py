"""Writes an exported file, which is put in place only after it has run with the results of the original model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from vpt.inference.image_inputs import Picture
from vpt.interop.export.onnx import Format, Program, Run, opened, write
from vpt.utils.atomic_io import write_atomic

T = TypeVar("T")
Check = Picture | Sequence[Picture] | None


class Agreement(NamedTuple):
    """Comparison of a written file with `vpt predict` on photos.

    Args:
        photos: number of photos.
        same: of these, those with the same most confident class.
        difference: largest difference of a score.
    """

    photos: int
    same: int
    difference: float


@dataclass(frozen=True)
class Exported:
    """A written file.

    Args:
        path: path of the file.
        bytes: size of the file.
        difference: largest difference of its scores from the original model's.
        milliseconds: median time of one image.
        boxes: number of compared boxes; None for a classifier.
        pixels: largest difference of box edges; None for a classifier.
        photos: comparison of a classifier with `vpt predict` on photos of several sizes.
        recipe: what must be done to a photo before it is given to the file; "" if nothing.
        equal: fraction of the pixels of photos that get the same class as with `vpt predict`; None but for a segmenter.
        fixed: takes images of one size, although none was requested.
    """

    path: Path
    bytes: int
    difference: float
    milliseconds: float
    boxes: int | None = None
    pixels: float | None = None
    photos: Agreement | None = None
    recipe: str = ""
    equal: float | None = None
    fixed: bool = False


def written(program: Program, format: Format, path: Path, tried: Callable[[Run], T]) -> T:
    """Write a file and return the result of `tried`; a failing file is not put in place, and an existing file stays."""
    given = []

    def fill(temporary: Path) -> None:
        write(program, format, temporary)
        given.append(tried(opened(temporary, format)))

    write_atomic(path, fill)
    return given[0]
