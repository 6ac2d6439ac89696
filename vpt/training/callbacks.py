"""Callbacks: what a run does besides its optimiser steps. `Trainer.fit` calls each hook of every callback in order."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

import torch

from vpt.config import E2vptPrompt, RunConfig
from vpt.config.training import AverageConfig
from vpt.training.step import AnyBatch, StepFigures
from vpt.training.time_left import Pace
from vpt.utils.console import Bar, duration
from vpt.utils.resource_usage import Usage

if TYPE_CHECKING:
    from vpt.training.run_folder import TrainResult
    from vpt.training.trainer import Trainer


NAMES = {"map": "mAP", "map50": "mAP50", "miou": "mIoU", "pixel_accuracy": "pixel accuracy"}  # of metrics in messages
ALSO = ("map50", "loss")  # besides the metric that ranks epochs


class Callback:
    """Base class of callbacks; its hooks do nothing. State that must survive a kill belongs in `trainer.state`."""

    def at_start(self, trainer: Trainer) -> None:
        """Called in a new run before its first checkpoint; not called when a run is resumed."""

    def before_training(self, trainer: Trainer) -> None:
        """Called before the first step of this process, in new and in resumed runs."""

    def before_epoch(self, trainer: Trainer) -> None:
        """Called before the first step of an epoch, or before the first step of a resumed run."""

    def before_step(self, trainer: Trainer, batch: AnyBatch) -> None:
        """Called with the batch of a step, on the CPU, before it is trained on."""

    def after_step(self, trainer: Trainer) -> None:
        """Called after a parameter update. The loss may not have been copied from the GPU yet."""

    def after_figures(self, trainer: Trainer, figures: StepFigures) -> None:
        """Called when the loss of a step is known; on a GPU while the next step is running."""

    def after_steps(self, trainer: Trainer) -> None:
        """Called after the last step of an epoch and its loss, before validation."""

    def after_validation(self, trainer: Trainer, score: float) -> None:
        """Called after validation; a larger score is better. `trainer.progress` does not count this epoch yet."""

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Called at the end of an epoch; `row` contains its metrics. May set `trainer.progress.finished`."""

    def on_stop(self, trainer: Trainer) -> None:
        """Called when a signal stops the run between two steps; the run can be resumed."""

    def at_end(self, trainer: Trainer, result: TrainResult) -> None:
        """Called when the run is finished: artifact, metrics and plots are written."""

    def close(self) -> None:
        """Called when training ends in this process, also after an error."""


def default_callbacks(config: RunConfig) -> list[Callback]:
    """Default callbacks of a run, in the order in which they are called."""
    train, prompt = config.train, config.prompt
    found: list[Callback] = [ProgressBar(), KeepBest(train.keep == "best")]
    if train.average is not None:
        found.append(Average(train.average))
    found.append(Log())
    if train.patience is not None:
        found.append(EarlyStop(train.patience))
    if isinstance(prompt, E2vptPrompt) and (prompt.prune_tokens > 0 or prompt.prune_segments > 0):
        from vpt.training.e2vpt_pruning import Pruning

        found.append(Pruning(prompt))
    from vpt.training.running_artifacts import RunningArtifacts

    return [
        *found,
        RunningArtifacts(),
        Checkpoint(train.checkpoint_minutes),
    ]  # last: it saves the state that the others have changed


class ProgressBar(Callback):
    """Shows the steps of an epoch, images per second and the mean loss."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._bar: Bar | None = None
        self._pace = Pace()

    def before_epoch(self, trainer: Trainer) -> None:
        """Open the bar."""
        progress, total = trainer.progress, len(trainer.batches)
        text = f"epoch {progress.epoch + 1}/{trainer.config.epochs}"
        self._pace.left(trainer)
        self._bar = self._open.enter_context(trainer.context.console.progress(total, text, progress.batch))

    def after_figures(self, trainer: Trainer, figures: StepFigures) -> None:
        """Advance the bar by one step."""
        progress = trainer.progress
        if self._bar is not None:
            left = self._pace.left(trainer)
            self._bar.advance(1, images=figures.count, left=left, loss=progress.loss_sum / progress.seen)

    def after_steps(self, trainer: Trainer) -> None:
        """Close the bar; validation shows its own."""
        self.close()

    def close(self) -> None:
        """Close the bar."""
        self._bar = None
        self._open.close()


class KeepBest(Callback):
    """Tracks the best epoch on validation. A tie goes to the earlier epoch.

    Args:
        weights: whether to store its weights too, as `state.kept["best"]`.
    """

    def __init__(self, weights: bool) -> None:
        self._weights = weights

    def after_validation(self, trainer: Trainer, score: float) -> None:
        """Compare the validation score with the best one so far."""
        progress = trainer.progress
        if progress.best_score is not None and score <= progress.best_score:
            progress.stale += 1
            return
        progress.best_score, progress.best_epoch, progress.stale = score, progress.epoch + 1, 0
        if self._weights:
            owned = trainer.model.owned_state()
            trainer.state.kept["best"] = {name: value.to("cpu", copy=True) for name, value in owned.items()}


class Average(Callback):
    """Averages the weights of all epochs in `state.kept["average"]`; the mean is complete after the last epoch.

    Trainable parameters are averaged. Masks, label mappings and counts, whose mean is meaningless, keep their last
    values.

    Args:
        config: mean and standard deviation of the Gaussian that weighs the epochs.
    """

    def __init__(self, config: AverageConfig) -> None:
        self._config = config

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Add the weights of this epoch to the average."""
        assert trainer.config.epochs is not None
        weights = gaussian_weights(trainer.config.epochs, self._config.mean, self._config.std)
        weight = weights[row["epoch"] - 1]
        trainable = {name for name, _, _ in trainer.model.trainable()}
        before, now = trainer.state.kept.get("average", {}), {}
        for name, value in trainer.model.owned_state().items():
            if name in trainable:
                part = value.to("cpu", torch.float32) * weight
                now[name] = before[name] + part if name in before else part
            else:
                now[name] = value.to("cpu", copy=True)
        trainer.state.kept["average"] = now


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """Gaussian weights of the epochs, counted from 1; they sum to one.

    >>> [round(weight, 3) for weight in gaussian_weights(3, mean=2, std=1)]
    [0.274, 0.452, 0.274]
    """
    weights = [math.exp(-((epoch - mean) ** 2) / (2 * std**2)) for epoch in range(1, epochs + 1)]
    return [weight / sum(weights) for weight in weights]


class Log(Callback):
    """Logs a row for every step and every epoch, and prints a line for every epoch."""

    def __init__(self) -> None:
        self._pace = Pace()

    def before_epoch(self, trainer: Trainer) -> None:
        """Start measuring the pace."""
        self._pace.left(trainer)

    def after_figures(self, trainer: Trainer, figures: StepFigures) -> None:
        """Log a step."""
        epoch = trainer.progress.epoch + 1
        trainer.log.row("step", step=figures.step, epoch=epoch, loss=figures.loss, lr=figures.rates)

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Log an epoch."""
        seconds, metric = trainer.epoch_seconds, trainer.metric
        trainer.log.row("epoch", step=trainer.progress.step, seconds=round(seconds, 3), **row)
        text = f"epoch {row['epoch']}/{trainer.config.epochs}: loss {row['train_loss']:.4f}"
        if "train_accuracy" in row:
            text += f", train accuracy {row['train_accuracy']:.4f}"
        if f"val_{metric}" in row:
            best = " (best)" if trainer.progress.best_epoch == row["epoch"] else ""
            scores = {metric: row[f"val_{metric}"], **{key: row[f"val_{key}"] for key in ALSO if f"val_{key}" in row}}
            text += ", validation " + ", ".join(f"{NAMES.get(key, key)} {value:.4f}" for key, value in scores.items())
            text += best
        left = None if trainer.progress.finished else self._pace.left(trainer)
        rest = f", {duration(left)} left" if left else ""
        trainer.context.console.say(f"{text} [{seconds:.1f} s{rest}]")


class EarlyStop(Callback):
    """Stops training after a number of consecutive validations without a better score.

    Args:
        patience: number of validations.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Stop the run if its patience is exhausted."""
        progress = trainer.progress
        if progress.stale >= self._patience:
            progress.finished = True
            text = f"stopped early: no better validation {trainer.metric} in {progress.stale} validations"
            trainer.context.console.say(text)


class Checkpoint(Callback):
    """Saves a checkpoint after every epoch, every few minutes, and when a signal stops the run.

    Args:
        minutes: time between two checkpoints within an epoch.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._saved = self._counted = 0.0  # time of the last checkpoint, and of the last update of `seconds`
        self._usage: Usage | None = None
        self._joules: float | None = None  # used before this process

    def before_training(self, trainer: Trainer) -> None:
        """Start measuring time and energy."""
        self._saved = self._counted = time.monotonic()
        self._usage, self._joules = Usage(trainer.context.device), trainer.progress.joules

    def after_step(self, trainer: Trainer) -> None:
        """Save if the last checkpoint is old, except after the last step of an epoch, which is saved anyway."""
        late = time.monotonic() - self._saved > self._seconds
        if late and trainer.progress.batch < len(trainer.batches):
            trainer.read_figures()
            self._save(trainer)

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Save."""
        self._save(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        """Save."""
        self._save(trainer)
        trainer.context.console.say(f"stopped at step {trainer.progress.step}; the state is saved")

    def _save(self, trainer: Trainer) -> None:
        assert self._usage is not None
        progress, now = trainer.progress, time.monotonic()
        progress.seconds += now - self._counted
        self._counted = now
        progress.peak_bytes = max(progress.peak_bytes, self._usage.peak_bytes())
        used = self._usage.joules()
        progress.joules = self._joules if used is None else (self._joules or 0.0) + used
        trainer.save()
        self._saved = time.monotonic()
