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
from vpt.training.checkpoint import Progress, TrainState
from vpt.training.epoch_end import finish_epoch
from vpt.training.lr_schedule import rate
from vpt.training.optimizer import set_rates
from vpt.training.signals import Stopped, listening
from vpt.utils.console import Bar, Console
from vpt.utils.device import Autocast
from vpt.utils.distributed import agreed, ranks, sum_step
from vpt.utils.errors import NotFinite
from vpt.utils.resource_usage import Usage
from vpt.utils.run_log import RunLog


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
Objective = Callable[[Any, Any], tuple[Tensor, Tensor | None]]
T = TypeVar("T")


class Done:
    """A step that was taken. Its figures come from a GPU by themselves, so that the next step need not wait for them.

    Args:
        loss: mean over the batch, a number or a scalar tensor.
        hits: images told right, or None where that is not known.
        count: images of the batch.
    """

    def __init__(self, loss: float | Tensor, hits: float | Tensor | None, count: int) -> None:
        self.count = count
        figures = [torch.as_tensor(one).detach().double() for one in ((loss,) if hits is None else (loss, hits))]
        self._event: torch.cuda.Event | None = None
        if figures[0].is_cuda:
            self._figures = torch.stack(figures).to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._figures = torch.stack(figures)

    def figures(self) -> tuple[float, float | None]:
        """Mean loss and images told right.

        >>> Done(0.5, 3, count=4).figures()
        (0.5, 3.0)
        """
        if self._event is not None:
            self._event.synchronize()
        loss, *hits = self._figures.tolist()
        return loss, hits[0] if hits else None


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
        state.model.before_epoch(progress.epoch, config.epochs)
        state.model.train()
        started = time.monotonic()
        with console.progress(len(train), f"epoch {progress.epoch + 1}/{config.epochs}", progress.batch) as bar:
            taken: _Taken | None = None  # the last step, whose figures are read when the next one is under way
            for batch in train.epoch(progress.epoch, progress.batch):
                here = progress.step - progress.first_step
                rates = set_rates(state.optimizer, lambda base: rate(base, here, len(train), config))  # noqa: B023
                try:
                    done = yield Request(state, batch, objective, of_scores, config, device, autocast)
                except Stopped:
                    _settle(taken, progress, log, bar, names)
                    keep()
                    console.say(f"stopped at step {progress.step}; the state is saved")
                    raise
                progress.step += 1
                progress.batch += 1
                _settle(taken, progress, log, bar, names)
                taken = _Taken(done, progress.step, rates, batch.index)
                if time.monotonic() - saved_at > config.checkpoint_minutes * 60 and progress.batch < len(train):
                    _settle(taken, progress, log, bar, names)
                    taken = None
                    keep()
            _settle(taken, progress, log, bar, names)
        try:
            finish_epoch(state, validate, metric, config, time.monotonic() - started, log, console)
        except NotFinite as error:
            rates = {group["role"]: group["lr"] for group in state.optimizer.param_groups}
            raise NotFinite(error.what, _where(progress.step, rates, "validation")) from None
        keep()


@dataclass(frozen=True)
class _Taken:
    """A step whose figures are not read yet."""

    done: Done
    step: int  # counted from 1
    rates: dict[str, float]
    index: Tensor  # of the images


def _settle(
    taken: _Taken | None, progress: Progress, log: RunLog, bar: Bar, names: Callable[[Tensor], list[str]]
) -> None:
    """Add a step's figures to those of its epoch."""
    if taken is None:
        return
    (loss, hits), count = taken.done.figures(), taken.done.count
    if not math.isfinite(loss):
        what = f"images: {', '.join(names(taken.index)[:4])}, ..."
        raise NotFinite(f"the loss became {loss}", _where(taken.step, taken.rates, what))
    progress.loss_sum += loss * count
    progress.correct = None if hits is None else (progress.correct or 0.0) + hits
    progress.seen += count
    log.row("step", step=taken.step, epoch=progress.epoch + 1, loss=loss, lr=taken.rates)
    bar.advance(1, images=count, loss=progress.loss_sum / progress.seen)


def _step(
    state: TrainState,
    batch: AnyBatch,
    objective: Objective,
    config: TrainConfig,
    device: torch.device,
    autocast: Autocast,
) -> Done:
    """One optimiser step."""
    loss_sum = torch.zeros((), device=device)
    hits: Tensor | None = torch.zeros((), device=device)
    count = len(batch.index)  # none, where a short last batch was dealt out to many processes
    parts = batch.parts(config.accumulate) if count else []
    for number, part in enumerate(parts):
        # Dropout draws from a function of seed and step, so that a resumed run draws the same.
        torch.manual_seed(step_seed(config.seed, state.progress.step, number, ranks().rank))
        there = part.to(device)
        with autocast():
            loss, right = objective(there.images, there.labels)
            loss = state.model.with_extra_losses(loss, there.images, there.labels)
        share = len(part.index) / count
        state.scaler.scale(loss * share).backward()
        loss_sum += loss.detach() * share
        hits = None if hits is None or right is None else hits + right
    if config.shard:
        _keep_pace(state, batch, objective, config.accumulate - len(parts), device, autocast)
    if ranks().count > 1:
        learning = (parameter for _, _, parameter in state.model.trainable())
        summed = sum_step(learning, float(loss_sum), None if hits is None else float(hits), count)
        finish_step(state, config, summed[0])
        return Done(*summed)
    # A GPU is not waited for: after a loss that is not finite the run ends, and nobody keeps what this step makes.
    finish_step(state, config, 0.0 if loss_sum.is_cuda else float(loss_sum))
    return Done(loss_sum, hits, count)


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
        state.model.after_step()
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


def _where(step: int, rates: dict[str, float], what: str) -> str:
    """Where a training diverged, and at which learning rates."""
    shown = ", ".join(f"{role} {rate:g}" for role, rate in rates.items())
    return f" at step {step} (learning rates: {shown}; {what}); the last good state is kept"
