"""Reader of safetensors files without memory mapping.

The library maps the file, so the process is terminated (SIGBUS) if another process truncates it. Here bytes are read; a
file that changes is at worst reported as damaged. Names, types and shapes are known before tensors are allocated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from vpt.utils import strict_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER = 16 << 20  # maximum size of the JSON in front of the tensors
MAX_TENSORS = 50_000
MAX_BYTES = 16 << 30  # maximum size of a file


@dataclass(frozen=True)
class Layout:
    """Type and position of a tensor in the file.

    Args:
        dtype: type of its elements.
        shape: number of elements along each axis.
        start: start of its bytes, relative to the first tensor's.
        stop: end of its bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorBytes:
    """An open safetensors file; a context manager.

    Args:
        path: path of the file.

    Raises:
        ValueError: it is not a safetensors file, is truncated, or exceeds the maximum size.
        OSError: it cannot be opened.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> save_file({"x": torch.ones(2, 3)}, path)
    >>> with TensorBytes(path) as file:
    ...     file.layouts["x"].shape, file.read("x").sum().item()
    ((2, 3), 6.0)
    """

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  (closed by __exit__)
        try:
            self._read_header(os.fstat(self._file.fileno()).st_size)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, size: int) -> None:
        if size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 30} GiB")
        length = int.from_bytes(self._file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ValueError("the length of its header is wrong")
        tree = strict_json.loads(self._file.read(length).decode("utf-8"), MAX_HEADER)
        if not isinstance(tree, dict) or len(tree) > MAX_TENSORS + 1:
            raise ValueError("its header has an unexpected form")
        self.metadata = _texts(tree.pop("__metadata__", {}))
        self.layouts: Mapping[str, Layout] = {name: _layout(entry) for name, entry in tree.items()}
        self._first = 8 + length
        end = 0
        for layout in sorted(self.layouts.values(), key=lambda layout: (layout.start, layout.stop)):
            if layout.start != end:
                raise ValueError("its tensors overlap or leave a gap")
            end = layout.stop
        if self._first + end != size:
            raise ValueError("it is truncated, or longer than its header says")

    @property
    def nbytes(self) -> int:
        """Total size of all tensors in bytes."""
        return max((layout.stop for layout in self.layouts.values()), default=0)

    def read(self, name: str) -> Tensor:
        """Read a tensor into its own memory.

        Raises:
            ValueError: the file was truncated after it was opened.
        """
        layout = self.layouts[name]
        data = torch.empty(layout.stop - layout.start, dtype=torch.uint8)
        self._file.seek(self._first + layout.start)
        if self._file.readinto(data.numpy().data) != len(data):
            raise ValueError("it became shorter while it was read")
        if layout.dtype is torch.bool:
            return data.bool().reshape(layout.shape)
        return data.view(layout.dtype).reshape(layout.shape)

    def __enter__(self) -> TensorBytes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("its header has an unexpected form")
    return value


def _layout(entry: Any) -> Layout:
    """Layout of an entry of the header, if its numbers are consistent."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("its header has an unexpected form")
    dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), _sizes(entry["shape"]), _sizes(entry["data_offsets"])
    if dtype is None:
        raise ValueError("it contains an unsupported type of numbers")
    if len(offsets) != 2 or math.prod(max(1, size) for size in shape) >= 2**53:
        raise ValueError("its header has an unexpected form")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor has another size than its header says")
    return Layout(dtype, shape, *offsets)


def _sizes(value: Any) -> tuple[int, ...]:
    """Check a list of integers that can be sizes."""
    if not isinstance(value, list) or len(value) > 16 or not all(type(item) is int and item >= 0 for item in value):
        raise ValueError("its header has an unexpected form")
    return tuple(value)
