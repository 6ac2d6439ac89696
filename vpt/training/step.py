"""What an optimiser step takes and gives: batches, the objective, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vpt.models.base import Prompted
from vpt.utils.device import Autocast
from vpt.utils.distributed import sum_step


class AnyBatch(Protocol):
    """What a step needs of a batch: images, labels, indices of the records, in parts and on a device."""

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
    """What training needs of a loader."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]: ...


Forward = Callable[[Tensor], Tensor]  # a batch's images, or features computed before, to logits
# The same and labels, to the mean loss and the number of correct images, where that has a meaning.
Objective = Callable[[Any, Any], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class StepOutput:
    """What the forward and backward passes over a batch give beside gradients.

    Args:
        loss: mean over the batch.
        hits: correct images, or None where that has no meaning.
        count: images of the batch.
    """

    loss: Tensor
    hits: Tensor | None
    count: int


@dataclass(frozen=True)
class StepFigures:
    """A step that was taken, for the log.

    Args:
        step: its number, counted from 1.
        loss: mean over the batch.
        hits: correct images, or None where that has no meaning.
        count: images of the batch.
        rates: learning rates by role.
    """

    step: int
    loss: float
    hits: float | None
    count: int
    rates: dict[str, float]


class UnreadStep:
    """A step whose figures are on their way from a GPU, so that the next step need not wait for them.

    Args:
        output: of the step.
        step: its number, counted from 1.
        rates: learning rates by role.
        index: of the images.
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
        """The figures, waited for where they are not here yet.

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
    """A 63-bit seed for the dropout of one pass in one process.

    >>> step_seed(0, 1) == step_seed(0, 1)
    True
    """
    return int(
        np.random.SeedSequence((4, seed, step, part, *([rank] if rank else []))).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


def where(step: int, rates: dict[str, float], what: str) -> str:
    """Where a training diverged, and at which learning rates.

    >>> where(3, {"head": 0.1}, "validation")
    ' at step 3 (learning rates: head 0.1; validation); the last good state is kept'
    """
    shown = ", ".join(f"{role} {rate:g}" for role, rate in rates.items())
    return f" at step {step} (learning rates: {shown}; {what}); the last good state is kept"


def sum_over_processes(output: StepOutput, model: Prompted) -> StepOutput:
    """Sum the gradients of all processes in place, weighted by their images, and their figures."""
    hits = None if output.hits is None else float(output.hits)
    trainable = (parameter for _, _, parameter in model.trainable())
    loss, hits, count = sum_step(trainable, float(output.loss), hits, output.count)
    whole = torch.tensor(loss, dtype=torch.float64)
    return StepOutput(whole, None if hits is None else torch.tensor(hits, dtype=torch.float64), count)


def blank_passes(
    batch: AnyBatch, objective: Objective, passes: int, model: Prompted, device: torch.device, autocast: Autocast
) -> None:
    """Passes over a blank image that change nothing: all processes of a sharded backbone must take the same number of
    passes."""
    trainable = [parameter for _, _, parameter in model.trainable()]
    for _ in range(passes):
        blank = batch.blank().to(device)
        with autocast():
            loss, _ = objective(blank.images, blank.labels)
        torch.autograd.grad(loss, trainable, allow_unused=True)
