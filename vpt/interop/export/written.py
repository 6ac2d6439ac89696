"""Writes an exported file, which is put in place only after it has run with the results of the original model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vpt.inference.image_inputs import Picture
from vpt.interop.export.onnx import Format, Program, Run, opened, write
from vpt.utils.atomic_io import write_atomic

T = TypeVar("T")
Check = Picture | Sequence[Picture] | None


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
    """

    path: Path
    bytes: int
    difference: float
    milliseconds: float
    boxes: int | None = None
    pixels: float | None = None


def written(program: Program, format: Format, path: Path, tried: Callable[[Run], T]) -> T:
    """Write a file and return the result of `tried`; a failing file is not put in place, and an existing file stays."""
    given = []

    def fill(temporary: Path) -> None:
        write(program, format, temporary)
        given.append(tried(opened(temporary, format)))

    write_atomic(path, fill)
    return given[0]
