"""Layers compiled with torch.compile.

The layers of a tower are alike, so three compilations cover them all: the first prompted layer, those above, and the
last, of which only some tokens are read. Compiling the whole pass at once takes several times as long without benefit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.block import Block


class Compiler:
    """Compiles `Block.forward` for training, at the first batch size it sees. Other batch sizes run uncompiled, because
    a shorter last batch is not worth another compilation.

    Args:
        mode: mode of torch.compile.
    """

    def __init__(self, mode: str) -> None:
        # torch.compile caches per code object, with a limit for each; so every run gets its own code object.
        own = FunctionType(Block.forward.__code__.replace(), Block.forward.__globals__, "forward")
        own.__defaults__ = Block.forward.__defaults__
        self._compiled: Callable[..., Tensor] = torch.compile(own, mode=mode)
        self._batch: int | None = None

    def run(self, block: Block, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`block.forward(tokens, ...)`."""
        if not torch.is_grad_enabled():
            return Block.forward(block, tokens, *args, **kwargs)
        if self._batch is None and len(tokens) > 1:  # a single sequence may be that of a prompt
            self._batch = len(tokens)
        forward = self._compiled if len(tokens) == self._batch else Block.forward
        return forward(block, tokens, *args, **kwargs)

    def view(self, block: Block) -> Compiled:
        """A compiled view of the same layer."""
        return Compiled(**block.parts(), plain=block, compiler=self)


@dataclass(frozen=True, kw_only=True)
class Compiled(Block):
    """A layer whose forward pass is compiled."""

    plain: Block
    compiler: Compiler

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.forward."""
        return self.compiler.run(self.plain, x, *args, **kwargs)
