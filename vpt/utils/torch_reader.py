"""Reads tensors from files of `torch.save` without importing or calling anything that the file names.

PyTorch's own restricted reader (`weights_only=True`) refuses files that contain more than tensors, such as schedulers,
configurations and random states that training scripts save with their weights. This reader skips them.

File format: a zip archive of uncompressed records, with a pickle in `data.pkl` and the bytes of a storage in
`data/KEY`; before PyTorch 1.6 five pickles one after the other, then the storages, each preceded by its number of
elements. A tensor is `_rebuild_tensor_v2(storage, offset, size, stride, ...)`. A numpy array is `_reconstruct(...)`
with the state (version, shape, dtype, Fortran order, bytes), a dtype is `dtype(code, ...)` whose state contains the
byte order.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vpt.utils.errors import UserError
from vpt.utils.pickle_data import Call, Name, PickleError, Reference, parse

LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # start of a file before PyTorch 1.6
DEPTH = 64  # maximum depth of nested containers
EXPANDED = 1 << 20  # maximum number of elements of a tensor that is larger than its storage
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
    "UntypedStorage": torch.uint8,
}
DTYPES = {f"torch.{name}": dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}


@dataclass(frozen=True)
class Opaque:
    """An object other than a tensor, number, string or container of these; only its name is kept."""

    name: str


def read_torch_file(path: str | Path) -> Any:
    """Read a file of `torch.save`: dicts, lists, tuples, strings, numbers, tensors, and `Opaque` for other objects.

    Numpy arrays of numbers become tensors, sets become tuples, and every mapping becomes a dict.

    Raises:
        UserError: a file that is missing, damaged, or not written by `torch.save`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pth"
    >>> torch.save({"w": torch.ones(2), "optimizer": torch.optim.SGD([torch.ones(1)])}, path)
    >>> read_torch_file(path)
    {'w': tensor([1., 1.]), 'optimizer': Opaque(name='torch.optim.sgd.SGD')}
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            tree, storages = _zipped(file) if start == b"PK\x03\x04" else _legacy(file)
            return _Reader(storages).plain(tree)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} is damaged, or was not written by torch.save ({type(error).__name__}: {reason}); take another copy"
        ) from error


class _Storages:
    """Bytes of storages by key; each is read once."""

    def __init__(self, little: bool) -> None:
        self.little = little
        self.read: dict[str, Tensor] = {}

    def load(self, key: str) -> Tensor:
        raise PickleError(f"the storage '{key}' is missing")

    def typed(self, key: str, dtype: torch.dtype) -> Tensor:
        """Elements of a storage, (N,)."""
        if key not in self.read:
            self.read[key] = self.load(key)
        raw = self.read[key]
        if (sys.byteorder == "little") != self.little and dtype.itemsize > 1:
            width = dtype.itemsize // (2 if dtype.is_complex else 1)
            raw = raw.view(-1, width).flip(1).reshape(-1)
        return raw.view(dtype)


class _ZipStorages(_Storages):
    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int, little: bool) -> None:
        super().__init__(little)
        self.archive, self.folder, self.left = archive, folder, size

    def record(self, name: str) -> bytearray:
        """Read a record. Compressed records, which PyTorch does not write, could be larger than the file; so could
        overlapping records."""
        info = self.archive.getinfo(f"{self.folder}{name}")
        self.left -= info.file_size
        if info.compress_type != zipfile.ZIP_STORED or self.left < 0:
            raise PickleError(f"its record {name} is larger than the file")
        content = bytearray(info.file_size)
        record: Any
        with self.archive.open(info) as record:
            if record.readinto(content) != len(content):
                raise PickleError(f"its record {name} is truncated")
        return content

    def load(self, key: str) -> Tensor:
        content = self.record(f"data/{key}")
        return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _zipped(file: BinaryIO) -> tuple[Any, _Storages]:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError("it contains no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise PickleError("it is a TorchScript program, not the weights alone")
    storages = _ZipStorages(archive, folder, file.seek(0, 2), True)
    if f"{folder}byteorder" in names:
        storages.little = bytes(storages.record("byteorder")) != b"big"
    return parse(io.BytesIO(storages.record("data.pkl"))), storages


def _legacy(file: BinaryIO) -> tuple[Any, _Storages]:
    if (parse(file), parse(file)) != LEGACY:
        raise PickleError("it does not start like a torch.save file")
    system, tree, keys = parse(file), parse(file), parse(file)
    storages = _Storages(bool(system.get("little_endian", True)))
    types = _storage_types(tree)
    end = file.seek(0, 1)
    total = file.seek(0, 2)
    for key in keys:
        file.seek(end)
        count = int.from_bytes(file.read(8), "little", signed=True)
        length = count * types[key].itemsize
        end += 8 + length
        if count < 0 or end > total:
            raise PickleError("it is truncated")
        content = bytearray(file.read(length))
        storages.read[key] = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0).byte()
    return tree, storages


def _storage_types(tree: Any) -> dict[str, torch.dtype]:
    """Type of each storage that a tree refers to."""
    found: dict[str, torch.dtype] = {}
    seen: set[int] = set()
    left = [tree]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Reference):
            key, dtype, _ = _storage(value)
            found[key] = dtype
        elif isinstance(value, Call):
            left += [value.args, value.items, value.elements, value.state]
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
    return found


def _storage(reference: Reference) -> tuple[str, torch.dtype, int]:
    """Key and type of a storage, and the offset of the referenced part in elements."""
    kind, name, key, *_ = reference.id
    if _text(kind) != "storage" or not isinstance(name, Name):
        raise PickleError("it refers to something other than a storage")
    view = reference.id[5] if len(reference.id) > 5 else None
    start = view[1] if view is not None else 0
    return _text(key), STORAGES[name.path.rpartition(".")[2]], start


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


class _Reader:
    """Converts the output of `parse` to plain values."""

    def __init__(self, storages: _Storages) -> None:
        self.storages = storages
        self.made: dict[int, Any] = {}

    def plain(self, value: Any, depth: int = 0) -> Any:
        if not isinstance(value, dict | list | tuple | Call):
            return Opaque(value.path) if isinstance(value, Name) else value
        if id(value) not in self.made:
            self.made[id(value)] = Opaque("too deep") if depth > DEPTH else self._made(value, depth)
        return self.made[id(value)]

    def _made(self, value: Any, depth: int) -> Any:
        if isinstance(value, tuple):
            return tuple(self.plain(each, depth + 1) for each in value)
        if isinstance(value, list):
            # Registered before it is filled, because it may contain itself.
            whole: list[Any] = []
            self.made[id(value)] = whole
            whole += [self.plain(each, depth + 1) for each in value]
            return whole
        if isinstance(value, Call):
            tensor = self._tensor(value)
            if tensor is not None:
                return tensor
            if not _is_mapping(value):
                return self._other(value, depth)
        items = value if isinstance(value, dict) else _items(value)
        found: dict[Any, Any] = {}
        self.made[id(value)] = found
        found.update((key, self.plain(each, depth + 1)) for key, each in items.items())
        return found

    def _other(self, call: Call, depth: int) -> Any:
        match call.path:
            case "_codecs.encode":
                return str(call.args[0]).encode("latin1")
            case "torch.Size" | "builtins.set" | "builtins.frozenset":
                inside = [*(call.args[0] if call.args else ()), *call.elements]
                return tuple(self.plain(each, depth + 1) for each in inside)
        if call.elements:
            return [self.plain(each, depth + 1) for each in call.elements]
        return Opaque(call.path)

    def _tensor(self, call: Call) -> Tensor | None:
        module, _, name = call.path.rpartition(".")
        if call.path == "torch._tensor._rebuild_from_type_v2":
            return self._tensor(Call(call.args[0], call.args[2]))
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return self._tensor(call.args[0]) if isinstance(call.args[0], Call) else None
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            reference, offset, size, stride = call.args[:4]
            key, dtype, start = _storage(reference)
            if name == "_rebuild_tensor_v3":
                dtype = DTYPES[call.args[6].path]
            return view(self.storages.typed(key, dtype), start + offset, _sizes(size), _sizes(stride))
        if module.split(".")[0] == "numpy":
            return _numpy(name, call)
        return None


def view(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """View a storage as a tensor.

    Raises:
        PickleError: a view that exceeds its storage, or repeats few elements very often.

    >>> view(torch.arange(4), 1, (2,), (2,))
    tensor([1, 3])
    """
    count = math.prod(size)
    if min((offset, *size, *stride)) < 0 or count > max(len(flat), EXPANDED):
        raise PickleError("a tensor is larger than its storage")
    try:
        return torch.as_strided(flat, size, stride, offset)
    except RuntimeError as error:
        raise PickleError("a tensor exceeds its storage") from error


def _sizes(value: Any) -> tuple[int, ...]:
    found = tuple(value.args[0]) if isinstance(value, Call) else tuple(value)
    if not all(isinstance(each, int) for each in found):
        raise PickleError("a tensor has no shape of numbers")
    return found


def _is_mapping(call: Call) -> bool:
    name = call.path.rpartition(".")[2]
    return bool(call.items) or name in ("OrderedDict", "defaultdict", "Counter", "dict")


def _items(call: Call) -> dict[Any, Any]:
    given = call.args[0] if call.args else ()
    if isinstance(given, dict):
        return given | call.items
    pairs = given if isinstance(given, list) else []
    return {pair[0]: pair[1] for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2} | call.items


def _numpy(name: str, call: Call) -> Tensor | None:
    """A numpy array or number as a tensor; None if its dtype is not numeric."""
    axes: list[Any] = []
    match name:
        case "_reconstruct" if isinstance(call.state, tuple) and len(call.state) == 5:
            _, shape, kind, fortran, content = call.state
        case "_frombuffer" if len(call.args) in (4, 5):
            content, kind, shape, order, *axes = call.args
            fortran = order == "F"
        case "scalar" if len(call.args) == 2:
            kind, content = call.args
            shape, fortran = (), False
        case _:
            return None
    dtype = _dtype(kind)
    if isinstance(content, Call) and content.path == "_codecs.encode":
        content = str(content.args[0]).encode("latin1")
    if dtype is None or not isinstance(content, bytes | bytearray):
        return None
    flat = np.frombuffer(content, dtype)
    array = flat.reshape(_sizes(shape), order="F" if fortran else "C")
    if axes and axes[0] is not None:
        array = array.transpose(_sizes(axes[0]))
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def _dtype(kind: Any) -> np.dtype[Any] | None:
    if not isinstance(kind, Call) or not kind.args:
        return None
    code, order = str(kind.args[0]), str(kind.state[1]) if isinstance(kind.state, tuple) else "="
    if code[:1] not in ("f", "i", "u", "b", "c") or not code[1:].isdigit():
        return None
    return np.dtype((order if order in "<>" else "=") + code)
