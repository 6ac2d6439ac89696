"""Writes an exported file, which is put in place only after it has run with the results of the original model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from vpt.inference.image_inputs import Picture
from vpt.interop.export.formats import FORMATS, opened, write
from vpt.interop.export.program import Program, Run
from vpt.interop.export.target import Target
from vpt.utils.atomic_io import write_atomic, writing
from vpt.utils.errors import UserError
from vpt.utils.file_names import cut

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


class Accuracy(NamedTuple):
    """A written file and prediction on labelled images.

    Args:
        metric: name of the metric.
        value: of the file, from 0 to 1.
        reference: of prediction, in full precision.
        agreement: fraction of classes, boxes or pixels in which they agree.
        images: number of images.
        split: the split that they are from.
        unit: what agrees: images, boxes or pixels.
    """

    metric: str
    value: float
    reference: float
    agreement: float
    images: int
    split: str
    unit: str


@dataclass(frozen=True)
class Exported:
    """A written file.

    Args:
        path: path of the file.
        bytes: size of the file.
        difference: largest difference of its scores from the original model's; nan in reduced precision.
        milliseconds: median time of one image.
        boxes: number of compared boxes; None for a classifier.
        pixels: largest difference of box edges; None for a classifier.
        photos: comparison of a classifier with `vpt predict` on photos of several sizes.
        recipe: what must be done to a photo before it is given to the file; "" if nothing.
        equal: fraction of the pixels of photos that get the same class as with `vpt predict`; None but for a segmenter.
        fixed: takes images of one size, although none was requested.
        accuracy: of a file in reduced precision.
        compared: whether the file was run and compared.
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
    accuracy: Accuracy | None = None
    compared: bool = True


def written(program: Program, target: Target, path: Path, tried: Callable[[Run | None], T]) -> T:
    """Write a file, or a folder, and return the result of `tried`; what fails is not put in place, and what was there
    stays. `tried` is given None if the format does not run on this machine.

    Raises:
        UserError: a folder with that name that was not exported, or an error of the disk.
    """
    given = []

    def fill(temporary: Path) -> None:
        write(program, target, temporary)
        given.append(tried(opened(temporary, target) if FORMATS[target.format].runs_here() else None))

    if FORMATS[target.format].folder:
        _write_folder(path, fill)
    else:
        write_atomic(path, fill)
    return given[0]


def _write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    if path.exists() and not (path / "vpt.json").is_file():
        raise UserError(f"{path} exists and is not an exported model; choose another --output")
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{cut(path.name)}-") as beside:
        made = Path(beside) / path.name
        made.mkdir()
        fill(made)
        if path.exists():
            path.rename(Path(beside) / "old")
        made.rename(path)


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder.

    >>> size_of(Path(__file__)) > 1000
    True
    """
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
