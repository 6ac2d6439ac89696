"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from vpt.config import TrainConfig
from vpt.console import Console
from vpt.device import Autocast
from vpt.distributed import agreed, ranks, sum_step
from vpt.errors import NotFinite
from vpt.runlog import RunLog
from vpt.training.checkpoint import TrainState
from vpt.training.epoch import finish_epoch
from vpt.training.optim import set_rates
from vpt.training.schedule import rate
from vpt.training.stop import Stopped, listening
from vpt.usage import Usage


class AnyBatch(Protocol):
    """What the loop needs of a batch: images, labels, indices of the records, in parts and on a device."""

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
    """What the loop needs of a loader."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]: ...


Forward = Callable[[Tensor], Tensor]  # a batch's images, or features computed before, to logits
# The same and labels, to the mean loss and how many images were told right, where that has a meaning.
Objective = Callable[[Any, Any], tuple[Tensor, float | None]]
# The mean loss of a batch, how many of its images were told right, where that is known, and how many there were.
Done = tuple[float, float | None, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A step that a training wants to be taken; several trainings may have theirs taken together.

    `of_scores` is the loss of scores and labels, where a step minimises nothing else.
    """

    state: TrainState
    batch: AnyBatch
    objective: Objective
    of_scores: Objective | None
    config: TrainConfig
    device: torch.device
    autocast: Autocast

    def perform(self) -> Done:
        """Take the step."""
        return _step(self.state, self.batch, self.objective, self.config, self.device, self.autocast)


Steps = Generator[Request, Done, T]  # a training: it asks for steps and ends with a result


def alone(steps: Steps[T], look: Callable[[Request], None] = lambda request: None) -> T:
    """Take a training's steps as it asks for them, to its end.

    Args:
        steps: the training.
        look: sees each request before it is performed; what it raises ends the training.

    Raises:
        Stopped: SIGINT or SIGTERM came; the training has saved its state.
    """
    try:
        with listening() as wish:
            request = next(steps)
            while True:
                try:
                    wish.check()
                    look(request)
                    done = request.perform()
                except BaseException as error:
                    request = steps.throw(error)  # so that the training saves its state and closes what it opened
                    continue
                wish.number = agreed(wish.number)  # all of several processes stop at the same step
                request = steps.send(done)
    except StopIteration as end:
        wish.check()
        result: T = end.value
        return result


def fit(
    state: TrainState,
    train: Batches,
    objective: Objective,
    validate: Callable[[], dict[str, Any]] | None,
    *,
    of_scores: Objective | None,
    before_epoch: Callable[[int], None],
    metric: str,
    config: TrainConfig,
    device: torch.device,
    autocast: Autocast,
    save: Callable[[], None],
    names: Callable[[Tensor], list[str]],
    log: RunLog,
    console: Console,
) -> Steps[None]:
    """Train until the last epoch or an early stop, from wherever `state.progress` stands.

    Args:
        objective: what a step minimises.
        of_scores: the same for scores that are there already, where it is a function of them alone.
        validate: metrics of the validation split under the current weights; None when there is no such split.
        before_epoch: called with the number of an epoch that starts, counted from 0.
        metric: the validation metric by which the best epoch is chosen, larger is better.
        save: writes a checkpoint; called at epoch ends and every `checkpoint_minutes`.
        names: the names of images by their indices, for messages.

    Raises:
        NotFinite: a loss, or scores of the validation split.
    """
    assert config.epochs is not None
    progress = state.progress
    saved_at = clock = time.monotonic()
    usage, joules = Usage(device), progress.joules

    def keep() -> None:
        nonlocal saved_at, clock
        now = time.monotonic()
        progress.seconds += now - clock
        clock = now
        progress.peak_bytes = max(progress.peak_bytes, usage.peak_bytes())
        used = usage.joules()
        progress.joules = joules if used is None else (joules or 0.0) + used
        save()
        saved_at = time.monotonic()

    while progress.epoch < config.epochs and not progress.finished:
        if progress.batch == 0:
            before_epoch(progress.epoch)
        state.model.train()
        started = time.monotonic()
        with console.progress(len(train), f"epoch {progress.epoch + 1}/{config.epochs}", progress.batch) as bar:
            for batch in train.epoch(progress.epoch, progress.batch):
                here = progress.step - progress.first_step
                rates = set_rates(state.optimizer, lambda base: rate(base, here, len(train), config))  # noqa: B023
                try:
                    loss, hits, count = yield Request(state, batch, objective, of_scores, config, device, autocast)
                except Stopped:
                    keep()
                    console.say(f"stopped at step {progress.step}; the state is saved")
                    raise
                if not math.isfinite(loss):
                    where = _where(state, f"; images: {', '.join(names(batch.index)[:4])}, ...", begun=1)
                    raise NotFinite(f"the loss became {loss}", where)
                progress.loss_sum += loss * count
                progress.correct = None if hits is None else (progress.correct or 0.0) + hits
                progress.seen += count
                progress.step += 1
                progress.batch += 1
                log.row("step", step=progress.step, epoch=progress.epoch + 1, loss=loss, lr=rates)
                bar.advance(1, images=count, loss=progress.loss_sum / progress.seen)
                if time.monotonic() - saved_at > config.checkpoint_minutes * 60 and progress.batch < len(train):
                    keep()
        try:
            finish_epoch(state, validate, metric, config, time.monotonic() - started, log, console)
        except NotFinite as error:
            raise NotFinite(error.what, _where(state, "; validation")) from None
        keep()


def _step(
    state: TrainState,
    batch: AnyBatch,
    objective: Objective,
    config: TrainConfig,
    device: torch.device,
    autocast: Autocast,
) -> Done:
    """One optimiser step."""
    loss_sum = 0.0
    hits: float | None = 0.0
    count = len(batch.index)  # none, where a short last batch was dealt out to many processes
    parts = batch.parts(config.accumulate) if count else []
    for number, part in enumerate(parts):
        # Dropout draws from a function of seed and step, so that a resumed run draws the same.
        torch.manual_seed(step_seed(config.seed, state.progress.step, number, ranks().rank))
        there = part.to(device)
        with autocast():
            loss, right = objective(there.images, there.labels)
        share = len(part.index) / count
        state.scaler.scale(loss * share).backward()
        loss_sum += float(loss.detach()) * share
        hits = None if hits is None or right is None else hits + right
    if config.shard:
        _keep_pace(state, batch, objective, config.accumulate - len(parts), device, autocast)
    if ranks().count > 1:
        learning = (parameter for _, _, parameter in state.model.trainable())
        loss_sum, hits, count = sum_step(learning, loss_sum, hits, count)
    finish_step(state, config, loss_sum)
    return loss_sum, hits, count


def _keep_pace(
    state: TrainState, batch: AnyBatch, objective: Objective, passes: int, device: torch.device, autocast: Autocast
) -> None:
    """Passes over a blank image that leave nothing behind: all processes of a backbone that is dealt out must take
    the same number of them."""
    learning = [parameter for _, _, parameter in state.model.trainable()]
    for _ in range(passes):
        blank = batch.blank().to(device)
        with autocast():
            loss, _ = objective(blank.images, blank.labels)
        torch.autograd.grad(loss, learning, allow_unused=True)


def finish_step(state: TrainState, config: TrainConfig, loss: float) -> None:
    """Move the parameters by their gradients, unless the loss was not finite, and forget the gradients."""
    if math.isfinite(loss):
        state.scaler.unscale_(state.optimizer)
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([p for _, _, p in state.model.trainable()], config.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)


def step_seed(seed: int, step: int, part: int = 0, rank: int = 0) -> int:
    """A 63-bit seed for the dropout of one pass in one process.

    >>> step_seed(0, 1) == step_seed(0, 1)
    True
    """
    return int(
        np.random.SeedSequence((4, seed, step, part, *([rank] if rank else []))).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


def _where(state: TrainState, more: str = "", begun: int = 0) -> str:
    """Where a training diverged, after the steps it has taken and those `begun`, and at which learning rates."""
    rates = ", ".join(f"{group['role']} {group['lr']:g}" for group in state.optimizer.param_groups)
    step = state.progress.step + begun
    return f" at step {step} (learning rates: {rates}{more}); the last good state is kept"
