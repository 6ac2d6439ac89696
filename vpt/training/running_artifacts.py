"""Artifacts of a run that is still training: the best epoch so far and the last one, usable at any time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vpt.models.artifact import BEST, LAST, save_artifact
from vpt.training.callbacks import Callback
from vpt.utils.distributed import is_first

if TYPE_CHECKING:
    from vpt.training.trainer import Trainer

SECONDS = 10.0  # between two versions of a file, so that quick epochs are not slowed down


class RunningArtifacts(Callback):
    """Keeps `artifact.safetensors` (best epoch so far) and `last.safetensors` (last epoch) in the run folder.

    Without a validation split, or with `train.keep=last`, the artifact is the last epoch and there is no other file.
    `write_results` replaces the artifact when training ends.
    """

    def __init__(self) -> None:
        self._written = -SECONDS
        self._written_best: int | None = None  # the epoch in artifact.safetensors

    def before_training(self, trainer: Trainer) -> None:
        """Write the linear probe, if it counts as epoch 0."""
        if trainer.progress.best_epoch == 0 and "best" in trainer.state.kept:
            self._write_best(trainer)

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Write what is new, unless the last version is recent."""
        if trainer.progress.finished or time.monotonic() - self._written >= SECONDS:
            self._write(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        """Write the weights at which the run stopped."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        progress, metric = trainer.progress, trainer.metric
        row = progress.history[-1] if progress.history and progress.batch == 0 else {}
        metrics = {"val": {metric: row[f"val_{metric}"]}} if f"val_{metric}" in row else {}
        if "best" in trainer.state.kept:
            if progress.best_epoch != self._written_best:
                self._write_best(trainer)
            self._save(trainer, LAST, metrics)
        elif not progress.finished:  # otherwise the artifact is about to be written
            self._save(trainer, BEST, metrics)
        self._written = time.monotonic()

    def _write_best(self, trainer: Trainer) -> None:
        """Write the weights of the best epoch; those of the model are restored."""
        progress, model = trainer.progress, trainer.model
        now = {name: value.clone() for name, value in model.owned_state().items()}
        model.load_owned(_on_device(trainer, trainer.state.kept["best"]))
        metrics = {} if progress.best_score is None else {"val": {trainer.metric: progress.best_score}}
        self._save(trainer, BEST, metrics, untrained=progress.best_epoch == 0)
        model.load_owned(now)
        self._written_best = progress.best_epoch

    def _save(self, trainer: Trainer, name: str, metrics: dict[str, Any], untrained: bool = False) -> None:
        model, context = trainer.model, trainer.context
        if untrained:
            model, context = trainer.task.untrained(model, context)
        if trainer.folder is not None and is_first():
            data = context.data
            save_artifact(trainer.folder / name, model, context.config, data.classes, data.multilabel, metrics)


def _on_device(trainer: Trainer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(trainer.context.device) for name, value in tensors.items()}
