"""Shortening and extending a run: `vpt train resume=RUN train.epochs=N`."""

from __future__ import annotations

from vpt.config import TrainConfig
from vpt.training.checkpoint import Progress
from vpt.training.lr_schedule import rate
from vpt.utils.errors import UserError

CHANGEABLE = "train.epochs"
STEPS = 1000  # a fine grid of steps in an epoch, for schedules


def change_epochs(progress: Progress, before: int, config: TrainConfig) -> str:
    """Adapt the progress of a run to another number of epochs; returns what that does, or "" if it is the same number.

    Args:
        progress: of the run; it changes.
        before: number of epochs that the run was started with.
        config: the new settings.

    Raises:
        UserError: the average of the epochs depends on their number.

    >>> progress = Progress(epoch=3, finished=True)
    >>> text = change_epochs(progress, 3, TrainConfig(epochs=6, warmup=0.0))
    >>> text.partition("; ")[2], progress.finished
    ('the learning rate continues at 50% of its base value (0% before)', False)
    """
    epochs = config.epochs
    assert epochs is not None
    if epochs == before:
        return ""
    if config.average is not None:
        raise UserError(
            "train.average weighs epochs by their number, so train.epochs of this run cannot change; start a new run"
        )
    text = f"train.epochs={epochs} instead of {before}: "
    if progress.epoch >= epochs:
        return f"{text}{progress.epoch} epochs are trained already, so the run ends here"
    progress.finished, progress.stale = False, 0
    if config.schedule == "constant":
        return f"{text}the learning rate stays constant"
    at = progress.epoch * STEPS
    now = rate(1.0, at, STEPS, config)
    old = rate(1.0, min(at, before * STEPS), STEPS, config.model_copy(update={"epochs": before}))
    return (
        f"{text}from epoch {progress.epoch + 1} on, the {config.schedule} schedule of {epochs} epochs applies; the "
        f"learning rate continues at {now:.0%} of its base value ({old:.0%} before)"
    )
