"""`train.batch_size=auto`: the largest batch that fits into memory and, on a CPU, still makes an image cheaper."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from vpt.data.image_cache import available_memory
from vpt.training.context import RunContext
from vpt.training.memory_estimate import estimate, size
from vpt.training.parallelize import prepare_for_training
from vpt.training.run_results import OPTIMIZER_STATE
from vpt.training.tasks import task_of
from vpt.training.trainer import build_model
from vpt.utils.console import Console
from vpt.utils.distributed import ranks
from vpt.utils.errors import UserError
from vpt.utils.resource_usage import Usage

GPU, CPU = 0.85, 0.5  # fraction of the free memory that a pass may take
GAIN = 0.9  # on a CPU, twice as many images must take less than this fraction of the time per image
LEAST, MOST = 8, 1024  # images per step; below the first, time is no reason to stop
STEPS = 10  # at least so many steps per epoch, if there are enough images


class Pass(NamedTuple):
    """A forward and backward pass: its time, and the memory that it takes besides the weights, in bytes."""

    seconds: float
    memory: int


def measured_batch_size(context: RunContext) -> int:
    """Find a batch size by passes over blank images, of 1, 2, 4, ... images.

    Args:
        context: context of the run; its own batch size is not used.

    Raises:
        UserError: not even one image fits, or several processes train.
    """
    if ranks().count > 1:
        raise UserError("train.batch_size=auto measures in a single process; give a number of images")
    config, device, task = context.config, context.device, task_of(context.config)
    accumulate = config.train.accumulate
    given = config.with_({"train.batch_size": LEAST, "train.accumulate": 1})
    few = RunContext(given, context.data.thinned(LEAST), device, context.precision, Console(quiet=True))
    model = build_model(few)
    prepare_for_training(model, config.train, device, context.precision)
    task.initialize(model, few)
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else available_memory() or 0

    def run(count: int) -> Pass:
        if not cuda:  # a process that asks for too much memory may be killed
            needed = estimate(model, 0, count, lambda n: task.trial(model, n, device), context.autocast).activations
            if free and needed > CPU * free:
                return Pass(0.0, needed)
        usage, before = Usage(device), torch.cuda.memory_allocated(device) if cuda else 0
        started = time.perf_counter()
        with context.autocast():
            loss = task.trial(model, count, device)
        if loss.requires_grad:
            loss.backward()
        if cuda:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        model.zero_grad(set_to_none=True)
        return Pass(seconds, usage.peak_bytes() - before if cuda else needed)

    state = OPTIMIZER_STATE[config.train.optimizer.kind] * sum(each.nbytes for _, _, each in model.trainable())
    limit = (GPU if cuda else CPU) * free - state if free else sys.maxsize - 1
    images = len(context.data.train)
    most = max(min(MOST, images // STEPS) // accumulate, min(LEAST, images))
    run(1)  # the first pass is slower than others
    found, taken, why = largest(run, most, limit, None if cuda else GAIN)
    if cuda:
        torch.cuda.empty_cache()
    context.console.say(
        f"train.batch_size=auto: {found * accumulate} images per step ({why}); a pass takes {size(taken.memory)} of "
        f"{size(free)} of free memory. Learning rates are not changed with it."
    )
    return found * accumulate


def largest(run: Callable[[int], Pass], most: int, limit: float, gain: float | None = None) -> tuple[int, Pass, str]:
    """The largest power of two of images whose pass fits, its measurement, and why it is not larger.

    Args:
        run: measures a pass over a number of images; it may run out of memory.
        most: maximum number of images.
        limit: memory that a pass may take, in bytes.
        gain: stop where twice as many images take more than this fraction of the time per image.

    Raises:
        UserError: one image does not fit.

    >>> largest(lambda count: Pass(1.0, 100 * count), most=64, limit=1000)
    (8, Pass(seconds=1.0, memory=800), 'twice as many do not fit')
    """
    best, count = (0, Pass(math.inf, 0)), 1
    while count <= most:
        try:
            found = run(count)
        except (torch.OutOfMemoryError, MemoryError):
            found = Pass(math.inf, sys.maxsize)
        if found.memory > limit:
            if count == 1:
                raise UserError("a training step does not fit into memory, not even with train.batch_size=1")
            return *best, "twice as many do not fit"
        if gain is not None and count > LEAST and found.seconds / count > gain * best[1].seconds / best[0]:
            return *best, "twice as many are hardly faster per image"
        best = count, found
        count *= 2
    return *best, f"the largest below a tenth of the training images, {MOST} at most"
