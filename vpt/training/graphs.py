"""A pass that is recorded once and replayed, so that a GPU does not wait for Python.

A ViT-B starts seven hundred kernels in a training step. A processor can take longer to start them than the GPU to do
them; a CUDA graph starts all of them at once. The price is a second for recording, memory that stays reserved for the
pass, and that the shape must stay the same: other batches, such as a last one that is shorter, take the usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pass = Callable[[Tensor], Tensor]
WARM_UP = 3  # passes that let libraries choose their kernels and take their workspaces


class Replayed:
    """A pass that answers batches shaped like its first one from a recording, on a GPU.

    Whether gradients are wanted must stay as it was then; other calls take the usual way.

    Args:
        run: the pass; what it does must not depend on values that Python looks at.
        learning: parameters that it reads and that learn. They must stay where they are in memory.
        told: hears why recording failed, where it did; the pass then goes on as it is.

    >>> double = Replayed(lambda rows: 2 * rows, [])
    >>> double(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(self, run: Pass, learning: Sequence[Tensor], told: Callable[[str], None] = lambda text: None) -> None:
        self._run = run
        self._learning = list(learning)
        self._told = told
        self._asked: tuple[torch.Size, bool] | None = None
        self._recording: _Recording | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        """What the pass gives for a batch; valid until the next call."""
        if not batch.is_cuda:
            return self._run(batch)
        asked = (batch.shape, torch.is_grad_enabled())
        if self._asked is None:
            self._asked = asked
            try:
                self._recording = _Recording(self._run, self._learning, batch)
            except RuntimeError as error:  # what cannot be recorded, or too little memory
                self._told(f"passes are not replayed from a CUDA graph: {' '.join(str(error).split())[:200]}")
        if self._recording is None or asked != self._asked:
            return self._run(batch)
        found: Tensor = _Replay.apply(self._recording, batch, *self._learning)
        return found


class _Recording:
    """The graphs of a pass and of its way back, and the memory that they read and write."""

    def __init__(self, run: Pass, learning: list[Tensor], batch: Tensor) -> None:
        self.batch = batch.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # A weight that autocast has rounded for one pass would be kept for all replays, so it may keep none. What is
        # drawn for dropout here must not shift what training draws.
        dtype, rounds = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        with (
            torch.random.fork_rng(devices=[batch.device]),
            torch.autocast("cuda", dtype, enabled=rounds, cache_enabled=False),
        ):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    out = run(self.batch)
                    if out.requires_grad:
                        torch.autograd.grad(out, learning, torch.ones_like(out), allow_unused=True)
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            del out
            self.there, self.back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Loader threads pin memory meanwhile; only what this thread does is of interest.
            how: dict[str, Any] = {"stream": stream, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(self.there, **how):
                result = run(self.batch)
            self.learns = result.requires_grad
            self.gradients: tuple[Tensor | None, ...] = ()
            if self.learns:
                self.wanted = torch.empty_like(result)
                with torch.cuda.graph(self.back, pool=self.there.pool(), **how):
                    self.gradients = torch.autograd.grad(result, learning, self.wanted, allow_unused=True)
            self.result = result.detach()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: _Recording, batch: Tensor, *learning: Tensor) -> Tensor:
        ctx.recording = recording
        recording.batch.copy_(batch)
        recording.there.replay()
        out = recording.result.detach()
        if not recording.learns:
            ctx.mark_non_differentiable(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        recording = ctx.recording
        recording.wanted.copy_(gradient)
        recording.back.replay()
        # Copies, for a gradient that is kept and added to must not change with the next replay.
        return None, None, *(None if one is None else one.clone() for one in recording.gradients)
