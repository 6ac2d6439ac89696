"""Reads named tensors from the files of other projects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from vpt.utils.errors import UserError
from vpt.utils.torch_reader import read_torch_file

WRAPPERS = ("state_dict", "model", "model_state_dict", "prompter")
RESAVE = (
    "save only its tensors, in the environment where it was created: "
    "import torch; state = torch.load(FILE, map_location='cpu', weights_only=False)  # executes code in the file\n"
    "torch.save({name: value for name, value in state['state_dict'].items()}, 'tensors.pth')"
)


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a file that another project wrote with `torch.save` or safetensors.

    Wrappers such as `state_dict` are unpacked, the prefix `module.` of data-parallel models is removed.

    Raises:
        UserError: a file that is missing, damaged, or contains no named tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(path))
        except Exception as error:  # a damaged header can raise anything
            raise UserError(f"{path} is damaged ({type(error).__name__}); take another copy of it") from error
    state: Any = read_torch_file(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    named = state.items() if isinstance(state, Mapping) else ()
    found = {str(name).removeprefix("module."): value for name, value in named if isinstance(value, Tensor)}
    if not found:
        raise UserError(f"{path} contains no named tensors; {RESAVE}")
    return found
