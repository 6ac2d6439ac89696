"""A pass that is recorded once and replayed, so that a GPU does not wait for Python.

A ViT-B starts seven hundred kernels in a training step. A processor can take longer to start them than the GPU to do
them; a CUDA graph starts all of them at once. The price is a second for recording, memory that stays reserved for the
pass, and that the shape must stay the same: other batches, such as a last one that is shorter, take the usual way.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pass = Callable[[Tensor], Tensor]
WARM_UP = 3  # passes that let libraries choose their kernels and take their workspaces


class Replayed:
    """A pass that answers batches shaped like an example from a recording, on a GPU.

    It is recorded here and now: make it before loaders have threads that talk to the GPU too. Other batches, and calls
    that want gradients where the recording has none or the other way round, take the usual way.

    Args:
        run: the pass; what it does must not depend on values that Python looks at.
        learning: parameters that it reads and that learn. They must stay where they are in memory.
        example: a batch of the shape that is to come.
        told: hears why recording failed, where it did; the pass then goes on as it is.

    >>> double = Replayed(lambda rows: 2 * rows, [], torch.ones(2))
    >>> double(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(
        self,
        run: Pass,
        learning: Sequence[Tensor],
        example: Tensor,
        told: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._run = run
        self._learning = list(learning)
        self._fits = (example.shape, torch.is_grad_enabled())
        self._recording: _Recording | None = None
        if example.is_cuda:
            try:
                with _undisturbed(example.device):
                    self._recording = _Recording(run, self._learning, example)
            except RuntimeError as error:  # what cannot be recorded, or too little memory
                told(f"passes are not replayed from a CUDA graph: {_first(error)}")

    def __call__(self, batch: Tensor) -> Tensor:
        """What the pass gives for a batch; valid until the next call."""
        if self._recording is None or (batch.shape, torch.is_grad_enabled()) != self._fits:
            return self._run(batch)
        found: Tensor = _Replay.apply(self._recording, batch, *self._learning)
        return found


def _first(error: BaseException) -> str:
    """What went wrong first: an error while recording brings another when recording ends."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:200]


class _Recording:
    """The graphs of a pass and of its way back, and the memory that they read and write."""

    def __init__(self, run: Pass, learning: list[Tensor], batch: Tensor) -> None:
        # A pass that is still kept somewhere ties its parameters to the stream it ran on, and recording would have to
        # wait for that.
        gc.collect()
        self.batch = batch.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                out = run(self.batch)
                if out.requires_grad:
                    torch.autograd.grad(out, learning, torch.ones_like(out), allow_unused=True)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        del out
        self.there, self.back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Other threads are none of its business.
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


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """A place to record in.

    What is drawn for dropout shifts nothing outside, and a recording that fails leaves no generator behind that still
    waits for its end. A weight that autocast has rounded for one pass would be kept for all replays, so it keeps none.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator: Any = torch.cuda.default_generators[index]
    before, state = generator.clone_state(), generator.get_state()
    dtype, rounds = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    try:
        with torch.autocast("cuda", dtype, enabled=rounds, cache_enabled=False):
            yield
    except RuntimeError:
        generator.graphsafe_set_state(before)
        raise
    generator.set_state(state)


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
