"""The one file format for what we keep: tensors and a JSON header in a safetensors file, with a digest of both.

safetensors alone notices few damaged bytes, so the digest covers every tensor's bytes and the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vpt.errors import UserError
from vpt.files import write_atomic


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write `tensors` and a JSON-able `header` to `path`, atomically.

    >>> import tempfile, torch
    >>> path = write_tensors(Path(tempfile.mkdtemp()) / "a.safetensors", {"x": torch.ones(2)}, {"step": 3})
    >>> read_tensors(path)[1]["step"]
    3
    """
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    # One entry only: safetensors writes several in random order, and equal content should make equal files.
    metadata = {"vpt": f"{_digest(plain, text)} {text}"}
    return write_atomic(path, lambda temporary: safetensors.torch.save_file(plain, temporary, metadata))


def read_header(path: str | Path) -> dict[str, Any]:
    """Only the header of a file; cheap, and unchecked against the digest."""
    return json.loads(_open(Path(path))[0])


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write_tensors` wrote.

    Raises:
        UserError: the file is missing, of another kind or damaged.
    """
    path = Path(path)
    text, digest = _open(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path) from error
    if _digest(tensors, text) != digest:
        raise _damaged(path)
    return tensors, json.loads(text)


def other_format(path: Path | str, header: Mapping[str, Any], current: int) -> str:
    """What to say of a file whose format is not the current one.

    >>> other_format("a.safetensors", {"format": 1, "vpt": "0.1"}, 2)
    'a.safetensors has the old format 1, which told too little of its backbone; train it again'
    """
    if header["format"] > current:
        return f"{path} was written by vpt {header['vpt']}; install that or a newer one"
    return f"{path} has the old format {header['format']}, which told too little of its backbone; train it again"


def _open(path: Path) -> tuple[str, str]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # the header's bytes decide what is raised
        raise _damaged(path) from error
    digest, _, text = metadata.get("vpt", "").partition(" ")
    if not text:
        raise UserError(f"{path} was not written by vpt; if it holds backbone weights, pass it as backbone.weights")
    try:
        json.loads(text)
    except ValueError as error:
        raise _damaged(path) from error
    return text, digest


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged; take another copy of it, or train again")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        # A view as bytes: numpy knows no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
