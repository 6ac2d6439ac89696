"""Several processes that train one run, one for each GPU, started by torchrun.

Each step's batch is divided among them, image by image; the gradients of trainable parameters, a megabyte, are summed
once a step, weighted by images, so that the result is that of one process at the same batch, whatever the size of a
last batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from vpt.utils.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process's number, and how many there are."""

    rank: int = 0
    count: int = 1


def ranks() -> Ranks:
    """Where this process stands; 0 of 1 without torchrun.

    >>> ranks()
    Ranks(rank=0, count=1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return Ranks()


def is_first() -> bool:
    """Whether this is the process that speaks and writes files; known before and after they are joined, too."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return ranks().rank == 0 and (ranks().count > 1 or not several or os.environ.get("RANK", "0") == "0")


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes, if torchrun started several."""
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
    """A UserError, if several processes are there for something that takes one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{what} is for one process; start it without torchrun")


def own_device(name: str) -> str:
    """The name of this process's device: of several processes on a machine, each takes a GPU of its own."""
    if ranks().count > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return name


def wait() -> None:
    """Wait until all processes are here."""
    if ranks().count > 1:
        distributed.barrier()


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process does what follows before the others, so that these find what it made."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def told(text: str) -> str:
    """What the first process says, to all.

    >>> told("runs/a")
    'runs/a'
    """
    if ranks().count == 1:
        return text
    said = [text]
    distributed.broadcast_object_list(said, src=0)
    return said[0]


def agreed(number: int | None) -> int | None:
    """A signal that reached any of the processes, for all."""
    if ranks().count == 1:
        return number
    asked = torch.tensor([number or 0], dtype=torch.int64)
    return int(_reduced(asked, distributed.ReduceOp.MAX)) or None


def sum_step(
    parameters: Iterable[Tensor], loss: float, hits: float | None, count: int
) -> tuple[float, float | None, int]:
    """Bring the gradients of the mean loss over this process's images to those over all images, in place.

    Args:
        parameters: what learns; gradients may be missing where there were no images.
        loss: mean over this process's images.
        hits: images told right, or None where that has no meaning.
        count: images of this process.

    Returns:
        Loss, hits and images of all processes.
    """
    learning = list(parameters)
    parts = [
        torch.zeros(p.numel(), device=p.device) if p.grad is None else p.grad.detach().float().flatten() * count
        for p in learning
    ]
    facts = torch.tensor([loss * count, hits or 0.0, float(count)], dtype=torch.float64)
    total_loss, total_hits, total = _sum(facts).tolist()
    summed = _sum(torch.cat(parts)) / total
    at = 0
    for parameter in learning:
        part = summed[at : at + parameter.numel()].view_as(parameter).to(parameter.dtype)
        at += parameter.numel()
        if parameter.grad is None:
            parameter.grad = part.clone()
        else:
            parameter.grad.copy_(part)
    return total_loss / total, None if hits is None else total_hits, int(total)


def gathered(rows: Tensor, index: Tensor) -> Tensor:
    """All processes' rows (N, ...) in the order of `index`, which together numbers them from 0 to N - 1.

    >>> gathered(torch.tensor([10, 20]), torch.tensor([1, 0]))
    tensor([20, 10])
    """
    parts = _all_gathered((rows, index))
    order = torch.cat([numbers for _, numbers in parts]).argsort()
    # A process without a row may not know the shape of one.
    filled = [part for part, _ in parts if len(part)]
    return torch.cat(filled)[order] if filled else rows


def gathered_list(values: Sequence[Value], index: Tensor) -> list[Value]:
    """All processes' values, whatever they are, in the order of `index`, which together numbers them from 0 on.

    >>> gathered_list(["b", "a"], torch.tensor([1, 0]))
    ['a', 'b']
    """
    parts = _all_gathered((list(values), index.tolist()))
    found = {at: value for some, places in parts for at, value in zip(places, some, strict=True)}
    return [found[at] for at in sorted(found)]


def _all_gathered(value: Value) -> list[Value]:
    """The values of all processes, by rank."""
    if ranks().count == 1:
        return [value]
    found: list[Any] = [None] * ranks().count
    distributed.all_gather_object(found, value)
    return found


def _sum(values: Tensor) -> Tensor:
    return _reduced(values, distributed.ReduceOp.SUM)


def _reduced(values: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
    """Reduced over all processes; NCCL takes tensors on GPUs only."""
    on = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    there = values.to(on) if values.device.type != on else values.clone()
    distributed.all_reduce(there, how)
    return there.to(values.device)
