"""Several processes that train one run, one for each GPU, started by torchrun.

Each step's batch is dealt out, image by image; gradients of what learns, a megabyte, are summed once a step, weighted
by images, so that the result is that of one process at the same batch, whatever is left over in a last batch. Nothing
is pickled between the processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from vpt.utils.errors import UserError


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
    data = text.encode() if is_first() else b""
    length = _sum(torch.tensor([len(data)], dtype=torch.int64))
    letters = torch.zeros(int(length), dtype=torch.int64)
    letters[: len(data)] = torch.tensor(list(data), dtype=torch.int64)
    return bytes(_sum(letters).tolist()).decode()


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
    """All processes' rows (N, ...) in the order of `index`, which together numbers them from 0 to N - 1."""
    count = int(_sum(torch.tensor([len(index)], dtype=torch.int64)))
    # Processes without a row know the shape of one from the others.
    shape = torch.zeros(8, dtype=torch.int64)
    shape[: rows.ndim - 1] = torch.tensor(rows.shape[1:], dtype=torch.int64)
    wide = [side for side in _reduced(shape, distributed.ReduceOp.MAX).tolist() if side]
    whole = torch.zeros(count, *wide, dtype=rows.dtype)
    if len(index):
        whole[index] = rows
    return _sum(whole) if count else whole


def gathered_lists(lists: Sequence[Tensor], index: Tensor, like: Tensor) -> list[Tensor]:
    """All processes' lists of rows, each (n, ...) with an n of its own, in the order of `index`.

    Args:
        lists: of this process; maybe none.
        index: (len(lists),) int64, which together numbers the lists of all processes from 0 on.
        like: a list without rows, of the type and shape of the others.

    >>> [len(rows) for rows in gathered_lists([torch.ones(2), torch.ones(0)], torch.tensor([1, 0]), torch.ones(0))]
    [0, 2]
    """
    if ranks().count == 1:
        return [lists[at] for at in index.argsort().tolist()]
    counts = gathered(torch.tensor([len(rows) for rows in lists], dtype=torch.int64), index)
    starts = counts.cumsum(0) - counts
    places = [torch.arange(len(rows)) + starts[at] for rows, at in zip(lists, index.tolist(), strict=True)]
    rows = gathered(torch.cat([like, *lists]), torch.cat([torch.zeros(0, dtype=torch.int64), *places]))
    return list(rows.split(counts.tolist()))


def _sum(values: Tensor) -> Tensor:
    return _reduced(values, distributed.ReduceOp.SUM)


def _reduced(values: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
    """Reduced over all processes; NCCL takes tensors on GPUs only."""
    on = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    there = values.to(on) if values.device.type != on else values.clone()
    distributed.all_reduce(there, how)
    return there.to(values.device)
