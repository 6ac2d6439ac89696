"""Inputs and outputs of an optimiser step: batches, the objective, and its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vpt.models.base import Prompted
from vpt.utils.distributed import sum_step


class AnyBatch(Protocol):
    """Interface of a batch: images, labels and indices of the records, split into parts and moved to a device."""

    @property
    def images(self) -> Any: ...
    @property
    def labels(self) -> Any: ...
    @property
    def index(self) -> Tensor: ...
    def parts(self, count: int) -> Sequence[AnyBatch]: ...
    def blank(self) -> AnyBatch: ...
    def to(self, device: torch.device) -> AnyBatch: ...


class Batches(Protocol):
    """Interface of a training loader."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]: ...


Forward = Callable[[Tensor], Tensor]  # maps images of a batch, or cached features, to logits
# Maps the same and labels to the mean loss and the number of correct images, or None if that is undefined.
Objective = Callable[[Any, Any], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class StepOutput:
    """Result of the forward and backward passes over a batch, besides gradients.

    Args:
        loss: mean over the batch.
        hits: number of correct images; None if that is undefined.
        count: number of images.
    """

    loss: Tensor
    hits: Tensor | None
    count: int


@dataclass(frozen=True)
class StepFigures:
    """Loss and counts of a finished step, for the log.

    Args:
        step: number of the step, counted from 1.
        loss: mean over the batch.
        hits: number of correct images; None if that is undefined.
        count: number of images.
        rates: learning rates by role.
    """

    step: int
    loss: float
    hits: float | None
    count: int
    rates: dict[str, float]


class UnreadStep:
    """A step whose results are still being copied from the GPU, so that the next step need not wait for them.

    Args:
        output: result of the step.
        step: number of the step, counted from 1.
        rates: learning rates by role.
        index: indices of the images.
    """

    def __init__(self, output: StepOutput, step: int, rates: dict[str, float], index: Tensor) -> None:
        self.index = index
        self._step, self._rates, self._count = step, rates, output.count
        parts = (output.loss,) if output.hits is None else (output.loss, output.hits)
        figures = torch.stack([part.detach().double() for part in parts])
        self._event: torch.cuda.Event | None = None
        if figures.is_cuda:
            figures = figures.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        self._figures = figures

    def read(self) -> StepFigures:
        """Wait for the results and return them.

        >>> output = StepOutput(torch.tensor(0.5), torch.tensor(3.0), count=4)
        >>> figures = UnreadStep(output, 1, {"head": 0.1}, torch.arange(4)).read()
        >>> figures.loss, figures.hits
        (0.5, 3.0)
        """
        if self._event is not None:
            self._event.synchronize()
        loss, *hits = self._figures.tolist()
        return StepFigures(self._step, loss, hits[0] if hits else None, self._count, self._rates)


def step_seed(seed: int, step: int, part: int = 0, rank: int = 0) -> int:
    """63-bit seed for the dropout of one pass in one process.

    >>> step_seed(0, 1) == step_seed(0, 1)
    True
    """
    return int(
        np.random.SeedSequence((4, seed, step, part, *([rank] if rank else []))).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


def where(step: int, rates: dict[str, float], what: str) -> str:
    """Message text: the step at which training diverged, and its learning rates.

    >>> where(3, {"head": 0.1}, "validation")
    ' at step 3 (learning rates: head 0.1; validation); the last good state is kept'
    """
    shown = ", ".join(f"{role} {rate:g}" for role, rate in rates.items())
    return f" at step {step} (learning rates: {shown}; {what}); the last good state is kept"


def sum_over_processes(output: StepOutput, model: Prompted) -> StepOutput:
    """All-reduce gradients in place, weighted by the number of images per process, and the results of the step."""
    hits = None if output.hits is None else float(output.hits)
    trainable = (parameter for _, _, parameter in model.trainable())
    loss, hits, count = sum_step(trainable, float(output.loss), hits, output.count)
    whole = torch.tensor(loss, dtype=torch.float64)
    return StepOutput(whole, None if hits is None else torch.tensor(hits, dtype=torch.float64), count)
