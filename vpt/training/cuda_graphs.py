"""Passes that are recorded once as a CUDA graph and replayed, so that the GPU does not wait for Python.

A ViT-B launches seven hundred kernels in a training step. Launching them can take the CPU longer than running them
takes the GPU; a CUDA graph launches all of them at once. The cost is a second for recording, memory that stays reserved
for the pass, and a fixed shape: other batches, such as a shorter last one, run without the graph.

torch.cuda.make_graphed_callables would replace _Recording and _Replay, but it returns gradients in buffers that the
next replay overwrites (wrong with train.accumulate), and only recent versions of PyTorch take `capture_error_mode`,
without which threads of data loaders break the recording. Before using it, compare on a GPU: gradients of accumulated
parts, dropout drawn in replays, time of a step, and reserved memory.
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
WARM_UP = 3  # passes in which libraries choose their kernels and allocate their workspaces


class Replayed:
    """A pass that is replayed from a CUDA graph for batches shaped like an example.

    It is recorded on construction: create it before data loaders start threads that use the GPU too. Other batches, and
    calls that need gradients when the recording has none or vice versa, run without the graph.

    Args:
        run: the pass; it must not depend on values that are read in Python.
        learning: trainable parameters that it reads. They must stay at the same address in memory.
        example: a batch of the expected shape.
        warn: called with the reason if recording fails; the pass then runs without a graph.

    >>> double = Replayed(lambda rows: 2 * rows, [], torch.ones(2))
    >>> double(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(
        self,
        run: Pass,
        learning: Sequence[Tensor],
        example: Tensor,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._run = run
        self._learning = list(learning)
        self._fits = (example.shape, torch.is_grad_enabled())
        self._recording: _Recording | None = None
        if example.is_cuda:
            try:
                with _undisturbed(example.device):
                    self._recording = _Recording(run, self._learning, example)
            except RuntimeError as error:  # an operation that cannot be recorded, or too little memory
                warn(f"passes are not replayed from a CUDA graph: {_first(error)}")

    def __call__(self, batch: Tensor) -> Tensor:
        """Result of the pass for a batch; valid until the next call."""
        if self._recording is None or (batch.shape, torch.is_grad_enabled()) != self._fits:
            return self._run(batch)
        found: Tensor = _Replay.apply(self._recording, batch, *self._learning)
        return found


def _first(error: BaseException) -> str:
    """Message of the first error: an error during recording causes another one when recording ends."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:200]


class _Recording:
    """Graphs of a forward pass and its backward pass, and the memory that they read and write."""

    def __init__(self, run: Pass, learning: list[Tensor], batch: Tensor) -> None:
        # An autograd graph that is still referenced ties its parameters to the stream it ran on, and recording would
        # have to wait for that stream.
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
        # Other threads do not affect the recording.
        how: dict[str, Any] = {"stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(self.there, **how):
            result = run(self.batch)
        self.needs_grad = result.requires_grad
        self.gradients: tuple[Tensor | None, ...] = ()
        if self.needs_grad:
            self.wanted = torch.empty_like(result)
            with torch.cuda.graph(self.back, pool=self.there.pool(), **how):
                self.gradients = torch.autograd.grad(result, learning, self.wanted, allow_unused=True)
        self.result = result.detach()


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Context for recording.

    Random numbers drawn for dropout do not affect the state outside, and a failed recording leaves no generator in
    capture mode. The autocast cache is disabled: a weight cast for one pass would be reused in all replays.
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
        if not recording.needs_grad:
            ctx.mark_non_differentiable(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        recording = ctx.recording
        recording.wanted.copy_(gradient)
        recording.back.replay()
        # Copies, because a gradient that is accumulated must not change with the next replay.
        return None, None, *(None if one is None else one.clone() for one in recording.gradients)
