"""Layers that torch.compile has fused.

The layers of a tower are alike, so three compilations serve all of them: the first prompted one, those above, and the
last, of which only some rows are read. Compiling the whole pass at once takes several times as long and gains nothing.
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
    """Compiles `Block.forward` for training, at the batch size that comes first; other batches go the usual way, for a
    last batch that is shorter is not worth a compilation.

    Args:
        mode: of torch.compile.
    """

    def __init__(self, mode: str) -> None:
        # What was compiled is kept by code, of one piece of code only so much; every run has a piece of its own.
        own = FunctionType(Block.forward.__code__.replace(), Block.forward.__globals__, "forward")
        own.__defaults__ = Block.forward.__defaults__
        self._compiled: Callable[..., Tensor] = torch.compile(own, mode=mode)
        self._batch: int | None = None

    def run(self, block: Block, rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`block.forward(rows, ...)`."""
        if not torch.is_grad_enabled():
            return Block.forward(block, rows, *args, **kwargs)
        if self._batch is None:
            self._batch = len(rows)
        forward = self._compiled if len(rows) == self._batch else Block.forward
        return forward(block, rows, *args, **kwargs)

    def view(self, block: Block) -> Compiled:
        """The same layer."""
        return Compiled(**block.parts(), plain=block, compiler=self)


@dataclass(frozen=True, kw_only=True)
class Compiled(Block):
    """A layer whose forward pass is compiled."""

    plain: Block
    compiler: Compiler

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.forward."""
        return self.compiler.run(self.plain, x, *args, **kwargs)
