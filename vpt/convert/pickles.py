"""Reads the tensors of a foreign checkpoint, and nothing else: no class or function that a pickle names is ever run.

PyTorch's restricted reader (`weights_only=True`) refuses files that hold more than tensors: schedulers, configurations,
numpy arrays. Here every such name is answered with an inert class of this module, so that the tensors beside them can
be had. Facts of numpy's pickles: an array is `_reconstruct(ndarray, ...)` whose state is (version, shape, dtype,
Fortran order, bytes); a dtype is `dtype(code, ...)` whose state holds the byte order.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from vpt.errors import UserError

WRAPPERS = ("state_dict", "model", "model_state_dict", "prompter")
RESAVE = (
    "save its tensors alone, where it was made: "
    "import torch; state = torch.load(FILE, map_location='cpu', weights_only=False)  # runs what the file says\n"
    "torch.save({name: value for name, value in state['state_dict'].items()}, 'tensors.pth')"
)


class Inert:
    """Stands for whatever a file names; takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class InertType(Inert):
    """numpy's dtype: a code such as 'f4', and a byte order."""

    def __init__(self, code: Any = "", *args: Any, **kwargs: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        order = str(state[1])
        self.order = order if order in ("<", ">") else "="


class InertArray(Inert):
    """numpy's array, as shape, type and bytes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The array, if it holds numbers."""
        if not (isinstance(self.state, tuple) and len(self.state) == 5):
            return None
        _, shape, kind, fortran, content = self.state
        if not isinstance(kind, InertType) or kind.code[:1] not in ("f", "i", "u") or not isinstance(content, bytes):
            return None
        try:
            flat = np.frombuffer(content, np.dtype(kind.order + kind.code))
            array = flat.reshape(shape, order="F" if fortran else "C")
        except (TypeError, ValueError):  # shape, type and bytes that do not belong together
            return None
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file that another project wrote with `torch.save` or safetensors.

    Wrappers such as `state_dict` are opened, `module.` of data-parallel models is taken off.

    Raises:
        UserError: a file that is missing, damaged, or holds no named tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(path))
        except Exception as error:  # the header's bytes decide what is raised
            raise UserError(f"{path} is damaged ({type(error).__name__}); take another copy of it") from error
    state: Any = _load(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    found: dict[str, Tensor] = {}
    for name, value in state.items() if isinstance(state, Mapping) else ():
        tensor = value.tensor() if isinstance(value, InertArray) else value
        if isinstance(tensor, Tensor):
            found[str(name).removeprefix("module.")] = tensor.detach()
    if not found:
        raise UserError(f"{path} holds no named tensors; {RESAVE}")
    return found


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that numpy has moved since; none of them is looked up
            try:
                unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            except ValueError:  # the format before torch 1.6 cannot be looked through
                unknown = []
            with torch.serialization.safe_globals([_inert(name) for name in unknown]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        reason = " ".join(str(error).split()).split(". ")[0][:160]
        raise UserError(
            f"{path} cannot be read without running what it says ({type(error).__name__}: {reason}). If it is intact "
            f"and you trust it, {RESAVE}"
        ) from error


def _inert(name: str) -> type:
    """A class of our own under a foreign name, by which the reader knows it."""
    module, _, last = name.rpartition(".")
    base = {"_reconstruct": InertArray, "dtype": InertType}.get(last, Inert) if module.startswith("numpy") else Inert
    return type(last, (base,), {"__module__": module, "__qualname__": last})
