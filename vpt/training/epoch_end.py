"""The end of an epoch: it is validated and ranked, averaged where asked for, logged, and may be the last."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from vpt.config import TrainConfig
from vpt.training.checkpoint import TrainState
from vpt.utils.console import Console
from vpt.utils.run_log import RunLog


def finish_epoch(
    state: TrainState,
    validate: Callable[[], dict[str, Any]] | None,
    metric: str,
    config: TrainConfig,
    seconds: float,
    log: RunLog,
    console: Console,
) -> None:
    """Settle an epoch that was trained, and move `state.progress` on to the next.

    Args:
        state: after the epoch's last step.
        validate: metrics of the validation split; None when there is none.
        metric: the one by which epochs are ranked, larger is better.
        config: how often is validated, what is kept, when to stop.
        seconds: that the epoch took.
        log: gets a row.
        console: where is said how it went.
    """
    progress = state.progress
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "train_loss": progress.loss_sum / max(1, progress.seen),
        "lr": {group["role"]: group["lr"] for group in state.optimizer.param_groups},
    }
    if progress.correct is not None:
        row["train_accuracy"] = progress.correct / max(1, progress.seen)
    last = row["epoch"] == config.epochs
    if validate is not None and (last or row["epoch"] % config.eval_every == 0):
        measured = validate()
        row |= {f"val_{key}": measured[key] for key in ("loss", metric) if key in measured}
        _rank(state, measured[metric], config)
    if config.average is not None:
        _average(state, config)
    progress.history.append(row)
    progress.epoch += 1
    progress.batch, progress.loss_sum, progress.correct, progress.seen = 0, 0.0, 0.0, 0
    log.row("epoch", step=progress.step, seconds=round(seconds, 3), **row)
    console.say(_told(row, metric, config, progress.best_epoch == row["epoch"], seconds))
    stale = config.patience is not None and progress.stale >= config.patience
    if stale:
        console.say(f"stopped early: no better validation {metric} in {progress.stale} validations")
    progress.finished = last or stale


def _told(row: dict[str, Any], metric: str, config: TrainConfig, best: bool, seconds: float) -> str:
    accuracy = f", train accuracy {row['train_accuracy']:.4f}" if "train_accuracy" in row else ""
    validation = ""
    if f"val_{metric}" in row:
        validation = f", validation {metric} {row[f'val_{metric}']:.4f}{' (best)' if best else ''}"
    return f"epoch {row['epoch']}/{config.epochs}: loss {row['train_loss']:.4f}{accuracy}{validation} [{seconds:.1f} s]"


def _rank(state: TrainState, score: float, config: TrainConfig) -> None:
    """Remember the best epoch. A tie goes to the later epoch only if the score rose: the earlier one trained less."""
    progress = state.progress
    if progress.best_score is None or score > progress.best_score:
        progress.best_score, progress.best_epoch, progress.stale = score, progress.epoch + 1, 0
        if config.keep == "best":
            state.best = {name: value.to("cpu", copy=True) for name, value in state.model.owned_state().items()}
    else:
        progress.stale += 1


def _average(state: TrainState, config: TrainConfig) -> None:
    """Add this epoch's weights to the mean over all epochs; after the last one it is complete.

    What learns is averaged. Masks, mappings and counts have no mean that means anything: the last ones are kept.
    """
    assert config.average is not None
    assert config.epochs is not None
    weight = gaussian_weights(config.epochs, config.average.mean, config.average.std)[state.progress.epoch]
    learning = {name for name, _, _ in state.model.trainable()}
    before, now = state.average or {}, {}
    for name, value in state.model.owned_state().items():
        if name in learning:
            part = value.to("cpu", torch.float32) * weight
            now[name] = before[name] + part if name in before else part
        else:
            now[name] = value.to("cpu", copy=True)
    state.average = now


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """Weights of epochs counted from 1, summing to one.

    >>> [round(weight, 3) for weight in gaussian_weights(3, mean=2, std=1)]
    [0.274, 0.452, 0.274]
    """
    weights = [math.exp(-((epoch - mean) ** 2) / (2 * std**2)) for epoch in range(1, epochs + 1)]
    return [weight / sum(weights) for weight in weights]
