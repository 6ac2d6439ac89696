"""Pruning: early stopping of trials that fall behind the others."""

from __future__ import annotations

from typing import Any

import optuna

from vpt.training.callbacks import Callback
from vpt.training.trainer import Trainer


class PruneTrial(Callback):
    """Reports the validation score of each epoch to Optuna, and stops a trial that falls behind.

    Args:
        trial: Optuna trial.

    Raises:
        TrialPruned: the trial is pruned after an epoch before the last.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self._reported: set[int] = set()

    def before_training(self, trainer: Trainer) -> None:
        """Report the earlier epochs of a resumed trial."""
        for row in trainer.progress.history:
            self._report(trainer, row)

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Report an epoch."""
        self._report(trainer, row)

    def _report(self, trainer: Trainer, row: dict[str, Any]) -> None:
        score = row.get(f"val_{trainer.metric}")
        if score is None or trainer.progress.finished or row["epoch"] in self._reported:
            return
        self._reported.add(row["epoch"])
        self._trial.report(score, row["epoch"])
        if self._trial.should_prune():
            raise optuna.TrialPruned
