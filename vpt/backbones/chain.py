"""Parts of a layer composed of a library's modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Chain:
    """Callables applied one after the other; created by `chain`, which omits None."""

    parts: tuple[Callable[[Tensor], Tensor], ...]

    def __call__(self, tokens: Tensor) -> Tensor:
        for part in self.parts:
            tokens = part(tokens)
        return tokens


IDENTITY = Chain(())


def chain(*parts: Callable[[Tensor], Tensor] | None) -> Chain:
    """Compose modules, omitting None and identities.

    >>> import torch
    >>> chain(nn.Identity(), None, nn.ReLU())(torch.tensor([-1.0]))
    tensor([0.])
    """
    return Chain(tuple(part for part in parts if part is not None and not isinstance(part, nn.Identity)))


@dataclass(frozen=True)
class Gain:
    """A learned scale per channel that the library stores as a bare parameter of `owner`."""

    owner: nn.Module
    name: str

    def __call__(self, tokens: Tensor) -> Tensor:
        return tokens * getattr(self.owner, self.name)
