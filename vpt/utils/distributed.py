"""Data parallelism: several processes train one run, one for each GPU, started by torchrun.

The batch of each step is divided by images; the gradients of trainable parameters, about a megabyte, are summed once
per step, weighted by images, so the result equals that of one process with the same batch, even if the last batch is
uneven.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed

from vpt.utils.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, and number of processes."""

    rank: int = 0
    count: int = 1


def ranks() -> Ranks:
    """Rank of this process; 0 of 1 without torchrun.

    >>> ranks()
    Ranks(rank=0, count=1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return Ranks()


def is_first() -> bool:
    """Whether this process prints messages and writes files; also valid without a process group."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return ranks().rank == 0 and (ranks().count > 1 or not several or os.environ.get("RANK", "0") == "0")


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group if torchrun started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or ranks().count > 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def refuse(what: str) -> None:
    """Raise a UserError if there are several processes, for operations that support only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{what} is for one process; start it without torchrun")


def own_device(name: str) -> str:
    """Name of this process's device: each process on a machine uses a separate GPU."""
    if ranks().count > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return name


def wait() -> None:
    """Wait for all processes (barrier)."""
    if ranks().count > 1:
        distributed.barrier()


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """Run the block in the first process before the others, so that these find its results."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def broadcast(text: str) -> str:
    """Broadcast a string of the first process to all.

    >>> broadcast("runs/a")
    'runs/a'
    """
    values = [text]
    if ranks().count > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def all_reduce(numbers: Sequence[float], how: Literal["sum", "max"] = "sum") -> list[float]:
    """Sums, or maxima, of numbers over all processes.

    >>> all_reduce([1, 2.5])
    [1.0, 2.5]
    """
    values = torch.tensor(numbers, dtype=torch.float64)
    return _reduced(values, how).tolist() if ranks().count > 1 else values.tolist()


def agreed(number: int | None) -> int | None:
    """A signal received by any of the processes, in all of them."""
    return int(all_reduce([number or 0], "max")[0]) or None


def sum_step(
    parameters: Iterable[Tensor], loss: float, hits: float | None, count: int
) -> tuple[float, float | None, int]:
    """Convert gradients of the mean loss over this process's images to those over all images, in place.

    Args:
        parameters: trainable parameters; gradients may be missing if there were no images.
        loss: mean over this process's images.
        hits: number of correctly classified images, or None if that is not defined.
        count: number of images of this process.

    Returns:
        Loss, hits and number of images of all processes.
    """
    learning = list(parameters)
    total_loss, total_hits, total = all_reduce([loss * count, hits or 0.0, count])
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    summed = _reduced(torch.cat([each.float().flatten() * count for each in gradients]), "sum") / total
    for parameter, part in zip(learning, summed.split([p.numel() for p in learning]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
    return total_loss / total, None if hits is None else total_hits, int(total)


def gathered(rows: Tensor, index: Tensor) -> Tensor:
    """Gather the rows (N, ...) of all processes, ordered by `index`, which numbers them from 0 to N - 1 in total.

    >>> gathered(torch.tensor([10, 20]), torch.tensor([1, 0]))
    tensor([20, 10])
    """
    parts = _all_gathered((rows, index))
    order = torch.cat([numbers for _, numbers in parts]).argsort()
    # A process without rows may not know their shape.
    filled = [part for part, _ in parts if len(part)]
    return torch.cat(filled)[order] if filled else rows


def gathered_list(values: Sequence[Value], index: Tensor) -> list[Value]:
    """Gather arbitrary values of all processes, ordered by `index`, which numbers them from 0 in total.

    >>> gathered_list(["b", "a"], torch.tensor([1, 0]))
    ['a', 'b']
    """
    parts = _all_gathered((list(values), index.tolist()))
    found = {at: value for some, places in parts for at, value in zip(places, some, strict=True)}
    return [found[at] for at in sorted(found)]


def _all_gathered(value: Value) -> list[Value]:
    """Values of all processes, by rank."""
    if ranks().count == 1:
        return [value]
    found: list[Any] = [None] * ranks().count
    distributed.all_gather_object(found, value)
    return found


def _reduced(values: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """All-reduce a tensor; NCCL supports tensors on GPUs only."""
    there = values.to("cuda" if distributed.get_backend() == "nccl" else "cpu", copy=True)
    distributed.all_reduce(there, distributed.ReduceOp.SUM if how == "sum" else distributed.ReduceOp.MAX)
    return there.to(values.device)


def all_summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes.

    >>> all_summed(torch.ones(2))
    tensor([1., 1.])
    """
    return _reduced(values, "sum") if ranks().count > 1 else values


class DividedSum:
    """Sums over the processes that a batch is divided across, whose gradients are those that `sum_step` expects.

    `images`, the number of images of this process, is set before every pass; 0 if it computes a blank one instead. All
    processes call it equally often, forwards and backwards.

    >>> DividedSum()(torch.tensor([1.0, 2.0]))  # of a single process
    tensor([1., 2.])
    """

    images = 0

    def __call__(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if ranks().count == 1:
            return values
        total: Tensor = _Summed.apply(values, self.images)
        return total


class _Summed(torch.autograd.Function):
    """`sum_step` weights the gradients of each process by its number of images, which is taken into account here."""

    @staticmethod
    def forward(context: Any, values: Tensor, images: int) -> Tensor:
        context.images = images
        return _reduced(values if images else torch.zeros_like(values), "sum")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = _reduced(gradient * context.images, "sum")
        return (summed / context.images if context.images else torch.zeros_like(summed)), None
