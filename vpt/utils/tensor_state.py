"""Loading of stored tensors into a module; misfits are found before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are missing, unexpected, of another shape, or of another kind of dtype.

    Floating-point tensors may differ in precision; integer tensors must have the same dtype.

    >>> misfits({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(2, dtype=torch.half), "c": torch.ones(1)})
    ['b', 'c']
    """

    def alike(one: Tensor, other: Tensor) -> bool:
        both = one.is_floating_point() and other.is_floating_point()
        return one.shape == other.shape and (both or one.dtype == other.dtype)

    return sorted(set(wanted) ^ set(found)) or [name for name in wanted if not alike(wanted[name], found[name])]


def shown(names: Sequence[str]) -> str:
    """The first few tensor names of a file, for a message."""
    return ", ".join(ascii(name)[1:-1][:100] for name in names[:3])


@torch.no_grad()
def load_into(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Copy tensors into those of a module, in place and with the module's dtypes.

    Args:
        wanted: parameters and buffers of a module.
        found: tensors of the same names and shapes; see `misfits`.

    >>> layer = torch.nn.Linear(1, 1)
    >>> load_into(layer.state_dict(), {"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    >>> layer.weight.tolist()
    [[1.0]]
    """
    for name, value in wanted.items():
        value.copy_(found[name])
