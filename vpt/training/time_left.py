"""Estimated time that is left of a whole run, from the pace of this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpt.training.trainer import Trainer


class Pace:
    """Steps per second since the first call, with validation and everything else between the steps."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None

    def left(self, trainer: Trainer) -> float | None:
        """Seconds that are left of the run; None before a step is done, and from the first call after a restart."""
        progress, batches, now = trainer.progress, len(trainer.batches), time.monotonic()
        assert trainer.config.epochs is not None
        here = progress.epoch * batches + progress.batch
        if self._begun is None or here < self._begun[1]:
            self._begun = (now, here)
        started, first = self._begun
        return None if here == first else (now - started) / (here - first) * (trainer.config.epochs * batches - here)
