"""Inputs of prediction: a file, a folder, a glob, an address, a PIL image, an array, or a list of these."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpt.config import DataConfig
from vpt.data.datasets.image_folder import hint, images_below
from vpt.data.medical.files import without_slice
from vpt.data.medical.read import slices_of
from vpt.inference.url_image import UrlImage, is_url
from vpt.utils.errors import UserError
from vpt.utils.file_names import printable, shown

Picture = str | Path | np.ndarray | Image.Image


def find_images(images: Picture | Iterable[Picture]) -> list[tuple[str, Any]]:
    """Name and source of every image given by a path, folder, glob, http or https address, image, or a list of them.

    In a folder and below it, images are found as in a data set: see `images_below`. Names are always printable: see
    `vpt.utils.file_names.shown`, and `vpt.utils.file_names.original` for the path of a name.

    Raises:
        UserError: a path that does not exist, a folder without images, a glob without matches.

    >>> find_images(np.zeros((2, 2, 3), dtype=np.uint8))[0][0]
    'image 1'
    """
    several = list(images) if isinstance(images, list | tuple) else [images]
    found: list[tuple[str, Any]] = []
    for number, each in enumerate(several, 1):
        if isinstance(each, np.ndarray | Image.Image):
            found.append((shown(getattr(each, "filename", "") or f"image {number}"), each))
        elif isinstance(each, str) and is_url(each):
            found.append((printable(each), UrlImage(each)))
        elif isinstance(each, str | Path):
            found += [(shown(path), path) for path in _files(each)]
        else:
            raise UserError(f"cannot predict a {type(each).__name__}; use paths, PIL images or uint8 arrays")
    if not found:
        raise UserError("there is nothing to predict; specify a file, a folder or a glob")
    return found


def with_slices(found: Iterable[tuple[str, Any]], data: DataConfig) -> Iterator[tuple[str, Any]]:
    """The same images, with all slices of DICOM and NIfTI files if `data.slices` says so.

    >>> list(with_slices([("a.png", Path("a.png"))], DataConfig(slices="all")))
    [('a.png', PosixPath('a.png'))]
    """
    for name, source in found:
        if data.slices == "all" and isinstance(source, Path):
            yield from ((shown(path), path) for path in slices_of(source, data.max_pixels))
        else:
            yield name, source


def _files(place: str | Path) -> list[Path]:
    path = Path(place)
    if path.is_dir():
        ignored: Counter[str] = Counter()
        files = sorted(images_below(path, ignored))
        if not files:
            raise UserError(f"{path} contains no images; {hint(ignored)}")
        return files
    if without_slice(path)[0].is_file():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(str(place), recursive=True))
    if not matches:
        raise UserError(f"{place}: there is no such file, folder or match")
    return [file for match in matches for file in (_files(match) if match.is_dir() else [match])]
