"""Arrays in .npy files as images."""

from __future__ import annotations

from typing import IO

import numpy as np

from vpt.data.medical.slices import Slice, Unreadable, Volume, check_size

MOST_CHANNELS = 64
MAGIC = b"\x93NUMPY"


class NumpyFile(Volume):
    """An array (H, W) or (H, W, C) of booleans, integers or floats; nothing is unpickled."""

    def __init__(self, file: IO[bytes], max_pixels: int) -> None:
        self._file = file
        form = np.lib.format
        if file.read(len(MAGIC)) != MAGIC:
            raise Unreadable("it is not a .npy file of NumPy; save it with numpy.save")
        file.seek(0)
        version = form.read_magic(file)
        header = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}.get(version)
        if header is None:
            raise Unreadable("it is a .npy file of named fields; save the array of one image")
        shape, _, dtype = header(file)
        if dtype.hasobject or dtype.kind not in "buif" or dtype.itemsize > 8:
            raise Unreadable("its array is not of booleans, integers or floats of at most 64 bits")
        if len(shape) not in (2, 3) or (len(shape) == 3 and not 1 <= shape[2] <= MOST_CHANNELS):
            raise Unreadable(
                f"its array has the shape {tuple(shape)[:8]}; one image is (H, W) or (H, W, C), with the channels "
                f"that data.channels says, at most {MOST_CHANNELS}: save slices as files of their own"
            )
        check_size(shape[1], shape[0], 1, max_pixels)
        left = file.seek(0, 2) - _position(file, header)
        if left < int(np.prod(shape)) * dtype.itemsize:
            raise Unreadable("the file is truncated")
        self.size, self.count = (shape[1], shape[0]), 1

    def read(self, index: int) -> Slice:
        """The array."""
        self._file.seek(0)
        array = np.lib.format.read_array(self._file, allow_pickle=False)
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        if array.dtype == bool:
            array = array.astype(np.uint8) * 255
        return Slice(array, f"{array.dtype.name}", array.dtype != np.uint8)


def _position(file: IO[bytes], header: object) -> int:
    """Offset of the data."""
    file.seek(0)
    np.lib.format.read_magic(file)
    header(file)  # type: ignore[operator]
    return file.tell()
