"""`vpt.train_together`, kept for callers of version 0.1."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from vpt.config import RunConfig
from vpt.training.run import train
from vpt.training.run_folder import TrainResult, refuse_taken
from vpt.utils.console import Console
from vpt.utils.distributed import refuse
from vpt.utils.errors import UserError


def train_together(configs: Sequence[RunConfig], console: Console | None = None) -> list[TrainResult]:
    """Train runs one after another. Deprecated: call `vpt.train` for each instead.

    Raises:
        UserError: no run, or a name that is taken, before training starts; any error of `train` for a run, after those
            before it have finished.
    """
    refuse("vpt.train_together")
    warnings.warn(
        "vpt.train_together is deprecated and trains one run after another; call vpt.train for each",
        DeprecationWarning,
        stacklevel=2,
    )
    if not configs:
        raise UserError("no run to train; give one configuration or more")
    names = [(config.out, config.name) for config in configs if config.name is not None]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two runs are called {repeated[0][1]}; give them different names")
    for config in configs:
        refuse_taken(config)
    return [train(config, console) for config in configs]
