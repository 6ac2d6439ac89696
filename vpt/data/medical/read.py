"""Opening DICOM, NIfTI and NumPy files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vpt.data.medical.files import kind_of, without_slice
from vpt.data.medical.slices import Slice, Unreadable, Volume, named_failures
from vpt.data.pillow_compat import pillow_settings


@contextmanager
def opened(path: str | os.PathLike[str], max_pixels: int) -> Iterator[tuple[Volume, int]]:
    """The volume of a path, and the index of the slice that the path names; without a number it is the middle one.

    Raises:
        Unreadable: a file that cannot be used.
        OSError: a file that cannot be opened.
    """
    kind = kind_of(path)
    file_path, number = without_slice(path)
    status = os.stat(file_path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise Unreadable("it is a pipe, a socket or a device")
    if status.st_size == 0:
        raise Unreadable("the file is empty")
    with open(file_path, "rb") as file, pillow_settings(max_pixels), named_failures(kind):
        volume = _volume(kind)(file, max_pixels)
        if number is not None and number > volume.count:
            raise Unreadable(f"it has {volume.count} slice{'s' * (volume.count != 1)}, no slice {number}")
        yield volume, volume.count // 2 if number is None else number - 1


def read_slice(path: str | os.PathLike[str], max_pixels: int) -> tuple[str, Slice, int]:
    """Kind of a file, the slice that a path names, and the number of slices in the file. Errors as in `opened`."""
    with opened(path, max_pixels) as (volume, index):
        return kind_of(path), volume.read(index), volume.count


def slice_size(path: str | os.PathLike[str], max_pixels: int) -> tuple[int, int]:
    """Width and height of a slice, from the header of its file. Errors as in `opened`."""
    with opened(path, max_pixels) as (volume, _):
        return volume.size


def slices_of(path: Path, max_pixels: int) -> list[Path]:
    """A path for each slice of a file that is not of one value throughout; the path itself if it names a slice, if the
    file has only one, or if it cannot be read, which decoding reports.

    >>> slices_of(Path("a.png"), 100)
    [PosixPath('a.png')]
    """
    if not kind_of(path) or without_slice(path)[1] is not None:
        return [path]
    try:
        with opened(path, max_pixels) as (volume, _):
            if volume.count == 1:
                return [path]
            kept = [index for index in range(volume.count) if not _is_constant(volume, index)]
    except (Unreadable, OSError):
        return [path]
    return [path.with_name(f"{path.name}#{index + 1}") for index in kept] or [path]


def _is_constant(volume: Volume, index: int) -> bool:
    try:
        with named_failures(""):
            values = volume.read(index).values
    except Unreadable:
        return False  # decoding reports it
    return bool((values == values[0, 0]).all())


def _volume(kind: str) -> Callable[[IO[bytes], int], Volume]:
    if kind == "DICOM":
        from vpt.data.medical.dicom import DicomFile

        return DicomFile
    if kind == "NIfTI":
        from vpt.data.medical.nifti import NiftiFile

        return NiftiFile
    from vpt.data.medical.numpy_file import NumpyFile

    return NumpyFile
