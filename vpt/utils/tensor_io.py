"""File format of artifacts, checkpoints and caches: a safetensors file with a JSON header, and a digest of both.

safetensors itself detects few damaged bytes, so the digest covers every tensor's bytes and the header.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from vpt.utils import strict_json
from vpt.utils.atomic_io import write_atomic
from vpt.utils.errors import FileError, UserError
from vpt.utils.safetensors_reader import Layout, TensorBytes

MAX_TEXT = 4 << 20  # maximum number of characters of the header
DAMAGED = "is damaged; take another copy of it, or train again"


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write `tensors` and a JSON-serialisable `header` to `path`, atomically.

    >>> import tempfile, torch
    >>> path = write_tensors(Path(tempfile.mkdtemp()) / "a.safetensors", {"x": torch.ones(2)}, {"step": 3})
    >>> read_tensors(path)[1]["step"]
    3
    """
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    # A single entry: safetensors writes several in random order, and equal content should give equal files.
    metadata = {"vpt": f"{digest_of(plain, text)} {text}"}
    return write_atomic(path, lambda temporary: safetensors.torch.save_file(plain, temporary, metadata))


@dataclass(frozen=True)
class TensorFile:
    """An open file written by `write_tensors`, whose digest has not been checked yet.

    Args:
        path: path of the file.
        text: its header.
        tree: the parsed header.
        layouts: type and shape of each tensor.
    """

    path: Path
    text: str
    tree: Any
    layouts: Mapping[str, Layout]
    _file: TensorBytes
    _digest: str

    @property
    def nbytes(self) -> int:
        """Total size of all tensors in bytes."""
        return self._file.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors into their own memory.

        Raises:
            FileError: the file is damaged according to its digest.
        """
        try:
            tensors = {name: self._file.read(name) for name in self.layouts}
        except (ValueError, OSError) as error:
            raise FileError(self.path, DAMAGED) from error
        if digest_of(tensors, self.text) != self._digest:
            raise FileError(self.path, DAMAGED)
        return tensors


@contextlib.contextmanager
def open_tensors(path: str | Path) -> Iterator[TensorFile]:
    """Open a file written by `write_tensors`. Header and shapes are read, but not the tensors.

    Raises:
        UserError: the file is missing, of another kind or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        raw = TensorBytes(path)
    except (ValueError, OSError) as error:
        raise FileError(path, DAMAGED) from error
    with raw:
        digest, _, text = raw.metadata.get("vpt", "").partition(" ")
        if not text:
            raise FileError(path, "was not written by vpt; if it holds backbone weights, pass it as backbone.weights")
        try:
            tree = strict_json.loads(text, MAX_TEXT)
        except strict_json.RefusedError as error:
            raise FileError(path, f"has a header that is refused: {error}; take another copy of it") from error
        except ValueError as error:
            raise FileError(path, DAMAGED) from error
        yield TensorFile(path, text, tree, raw.layouts, raw, digest)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header of a file written by `write_tensors`.

    Raises:
        UserError: the file is missing, of another kind or damaged.
    """
    with open_tensors(path) as file:
        if not isinstance(file.tree, dict):
            raise FileError(path, DAMAGED)
        return file.tensors(), file.tree


def digest_of(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        # A view as bytes, because numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
