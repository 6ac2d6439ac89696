"""Reads local weight files in the formats that trainers and hubs write, without running anything in them.

The format is detected from the content: PyTorch's archives and its older format, safetensors, an index of shards
(`model.safetensors.index.json`), numpy's `.npz`. For other files the error says what they are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from vpt.utils.atomic_io import read_json
from vpt.utils.errors import UserError
from vpt.utils.torch_reader import Opaque, read_torch_file

# Keys under which checkpoints store a model's weights; the first one is used: averaged weights first, as in timm.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "teacher", "encoder", "module")
AVERAGED = ("state_dict_ema", "model_ema")
INDEX = ".index.json"


def read_weights(path: Path, notes: list[str] | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a local file, removing the wrappers that trainers add.

    Args:
        path: the file.
        notes: list to which messages for the user are appended.

    Raises:
        UserError: a file that is missing, damaged, without weights, or of another format, which is named.

    >>> read_weights(Path("no/such.pth"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: backbone.weights=no/such.pth: there is no such file
    """
    path = weight_file(path)
    if path.name.endswith(INDEX):
        return _sharded(path)
    if not path.is_file():
        raise UserError(f"backbone.weights={path}: there is no such file")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"backbone.weights={path} cannot be read: {error.strerror}") from None
    if (other := _other_kind(path, head)) is not None:
        raise UserError(f"backbone.weights={path} {other}")
    state: Any = _safetensors(path) if _is_safetensors(head) else read_torch_file(path)
    return _named(state, path, notes if notes is not None else [])


def weight_file(path: Path) -> Path:
    """The weights in a folder that `save_pretrained` of transformers wrote; another path as it is.

    >>> weight_file(Path("weights.pth"))
    PosixPath('weights.pth')
    """
    found = [path / name for name in ("model.safetensors", f"model.safetensors{INDEX}") if path.is_dir()]
    return next((file for file in found if file.is_file()), path)


def is_npz(path: Path) -> bool:
    """Whether a file is an archive of numpy arrays, the format of Google's vision transformers.

    >>> is_npz(Path("no/such.npz"))
    False
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays in a `.npz` file, read from their headers only.

    Raises:
        UserError: a damaged file, arrays that are not numeric, or headers that do not match the content.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                    content = info.file_size - file.tell()
                if dtype.hasobject or content != dtype.itemsize * int(np.prod(shape, dtype=object)):
                    raise ValueError(f"'{info.filename}' is not an array of numbers, or is truncated")
                shapes[info.filename.removesuffix(".npy")] = tuple(int(side) for side in shape)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"backbone.weights={path} is damaged ({error}); use another copy") from None
    return shapes


def _named(state: Any, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Tensors of the innermost wrapper, by name."""
    while isinstance(state, Mapping):
        there = [name for name in WRAPPERS if _has_tensors(state.get(name))]
        if not there:
            break
        if there[1:] and there[0] in AVERAGED:
            notes.append(f"{path}: using the averaged weights ({there[0]}), as timm does, not {there[1]}")
        state = state[there[0]]
    named = state.items() if isinstance(state, Mapping) else ()
    found = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if found:
        return found
    whole = state if isinstance(state, Opaque) else None
    if isinstance(state, Mapping):
        whole = next((state[name] for name in WRAPPERS if isinstance(state.get(name), Opaque)), None)
    if whole is not None:
        raise UserError(
            f"backbone.weights={path} contains a whole object ({whole.name or 'computed'}), which cannot be loaded "
            "without running code in the file; save its weights where it was made: "
            "torch.save(model.state_dict(), 'weights.pth')"
        )
    keys = f": its keys are {', '.join(str(key) for key in list(state)[:6])}" if isinstance(state, Mapping) else ""
    raise UserError(f"backbone.weights={path} contains no named weights{keys}; give a model's state dict")


def _has_tensors(value: Any, depth: int = 0) -> bool:
    """Whether a mapping contains tensors, or a mapping that does."""
    if not isinstance(value, Mapping) or depth > 3:
        return False
    return any(isinstance(each, Tensor) or _has_tensors(each, depth + 1) for each in value.values())


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # depending on the header's bytes anything can be raised
        raise UserError(f"backbone.weights={path} is damaged ({error}); use another copy") from error


def _sharded(path: Path) -> dict[str, Tensor]:
    """Tensors of the files named by an index, which must be in the same folder."""
    if not path.is_file():
        raise UserError(f"backbone.weights={path}: there is no such file")
    tree = read_json(path, "use another copy")
    places = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"backbone.weights={path} is not an index of shards: it needs a weight_map of names and files")
    files = sorted(set(places.values()))
    if wrong := next((file for file in files if file.endswith(INDEX) or Path(file).name != file), None):
        raise UserError(f"backbone.weights={path} names the shard {wrong[:100]!r}; shards must be in its own folder")
    found: dict[str, Tensor] = {}
    for file in files:
        if not (path.parent / file).is_file():
            raise UserError(f"backbone.weights={path} names the shard {file}, which is not next to it; download it too")
        found |= {name: value for name, value in read_weights(path.parent / file).items() if places.get(name) == file}
    if lost := sorted(set(places) - set(found)):
        raise UserError(
            f"backbone.weights={path}: its shards are missing {len(lost)} of {len(places)} tensors, such as {lost[0]}"
        )
    return found


def _other_kind(path: Path, head: bytes) -> str | None:
    """Description of a file that contains no readable weights, with the remedy; None if it may contain some."""
    if not head:
        return "is empty; use another copy"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer instead of the file; download it with: git lfs pull"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, probably from a failed download; download the file again"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file, as written by Keras; convert it to PyTorch first"
    if head[257:262] == b"ustar" or head.startswith(b"\x1f\x8b"):
        return "is an archive; unpack it, and give the weight file in it"
    if not head.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return "is damaged or truncated; use another copy"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return (
            "is a TorchScript archive (a program), as OpenAI publishes its CLIP models. vpt does not run it; if you "
            'trust it, convert its weights once, with: python -c "import torch; '
            f"torch.save(torch.jit.load('{path}', 'cpu').state_dict(), 'weights.pth')\", and give that file. For an "
            "OpenAI model whose weights open_clip downloads itself: backbone=open_clip:ViT-B-32-quickgelu "
            "backbone.pretrained=openai"
        )
    if not any(name.endswith("data.pkl") for name in names):
        return "is a zip archive without weights; unpack it, and give the weight file in it"
    return None
