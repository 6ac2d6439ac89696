"""Axial slices of NIfTI volumes. The header is parsed by nibabel, without its checks, which print what they find."""

from __future__ import annotations

import gzip
import math
from typing import IO, Any

import numpy as np

from vpt.data.medical.slices import Slice, Unreadable, Volume, check_size

MOST_BYTES = 1 << 31  # of a volume; to reach a slice of a compressed file, all of it before the slice is decompressed
_MOST_OFFSET = 1 << 26  # of the values in the file: header and extensions before them


class NiftiFile(Volume):
    """A volume of NIfTI 1 or 2 (.nii, .nii.gz). Slices are numbered from the feet to the head, and shown as DICOM
    viewers show them: front at the top, the patient's right side at the left."""

    def __init__(self, file: IO[bytes], max_pixels: int) -> None:
        import nibabel

        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        source: Any = gzip.GzipFile(fileobj=file) if packed else file
        start = source.read(4)
        source.seek(0)
        sizes = {start == number.to_bytes(4, end): number for number in (348, 540) for end in ("little", "big")}
        if True not in sizes:
            raise Unreadable("it is not a NIfTI file")
        kind: Any = nibabel.Nifti1Header if sizes[True] == 348 else nibabel.Nifti2Header
        header = kind.from_fileobj(source, check=False)
        if bytes(header["magic"])[:2] != b"n+":
            raise Unreadable("its values are in another file (.hdr and .img); convert both to one .nii file")
        shape = tuple(int(side) for side in header.get_data_shape())
        dtype, offset = header.get_data_dtype(), float(header["vox_offset"])
        if dtype.kind not in "uif" or dtype.itemsize > 8:
            raise Unreadable("its values are colours or complex numbers; convert them to integers or floats")
        if len(shape) < 2 or any(side != 1 for side in shape[3:]):
            raise Unreadable(f"it has {len(shape)} dimensions; save a file for each volume of a series")
        shape = (*shape[:3], 1)[:3]
        if min(shape) < 1 or math.prod(shape) * dtype.itemsize > MOST_BYTES:
            raise Unreadable(f"its volume of {'x'.join(map(str, shape))} values is empty, or larger than 2 GiB")
        if not 0 <= offset <= _MOST_OFFSET:
            raise Unreadable("it is a damaged NIfTI file")
        # For each axis of the file: the axis of the body (0 left to right, 1 back to front, 2 feet to head), and -1 if
        # it runs the other way.
        self._axes = nibabel.io_orientation(header.get_best_affine())
        if not np.isfinite(self._axes).all():
            raise Unreadable("its orientation cannot be determined; save it again with a valid affine")
        sides = {int(body): shape[at] for at, (body, _) in enumerate(self._axes)}
        check_size(sides[0], sides[1], sides[2], max_pixels)
        self.size, self.count = (sides[0], sides[1]), sides[2]
        slope, inter = header.get_slope_inter()
        spec = (shape, dtype, int(offset), 1.0 if slope is None else slope, 0.0 if inter is None else inter)
        self._values = nibabel.arrayproxy.ArrayProxy(source, spec, mmap=False)

    def read(self, index: int) -> Slice:
        """The slice at an index from the feet."""
        where: list[Any] = [slice(None)] * 3
        for at, (body, direction) in enumerate(self._axes):
            if body == 2:
                where[at] = index if direction > 0 else self.count - 1 - index
        plane = np.asarray(self._values[tuple(where)])
        (first, run), (_, other) = [axis for axis in self._axes if axis[0] != 2]
        plane = plane[:: -int(run), :: -int(other)]  # from right to left, from front to back
        plane = plane.T if first == 0 else plane
        return Slice(np.ascontiguousarray(plane), plane.dtype.name, True)
