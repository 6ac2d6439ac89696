"""Learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vpt.config import TrainConfig


def default_epochs(batches: int) -> int:
    """Default number of epochs; larger for small data sets.

    >>> default_epochs(4), default_epochs(25), default_epochs(2000)
    (100, 20, 10)
    """
    return min(100, max(10, round(500 / batches)))


def probe_epochs(images: int, batches: int) -> int:
    """Default number of epochs if the head is initialised by a probe: 20 times the square root of the number of images,
    in steps (docs/defaults.md).

    >>> probe_epochs(160, 10), probe_epochs(800, 50), probe_epochs(50_000, 3125)
    (25, 11, 5)
    """
    return min(100, max(5, round(20 * math.sqrt(images) / batches)))


def rate(base: float, step: int, batches: int, config: TrainConfig) -> float:
    """Learning rate at a step, counted from 0, of a role whose base rate is `base`.

    >>> from vpt.config import TrainConfig
    >>> recipe = TrainConfig(epochs=5, schedule="epochs")
    >>> [round(rate(0.0035, epoch * 10, 10, recipe), 6) for epoch in range(5)]
    [1e-05, 0.0035, 0.003166, 0.002291, 0.001209]
    """
    assert config.epochs is not None
    if config.schedule == "epochs":
        epoch = step // batches
        return 1e-5 if epoch == 0 else base * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.epochs))
    total = batches * config.epochs
    return base * factor(step, total, config.warmup, config.schedule, config.milestones)


def factor(step: int, total: int, warmup: float, schedule: str = "cosine", milestones: Sequence[float] = ()) -> float:
    """Fraction of the base learning rate at `step` of `total`: linear warm-up, then cosine decay to zero, a factor of
    one tenth at each milestone, or a constant rate.

    The first step has a rate above zero (it would be wasted otherwise); cosine decay ends one step before zero.

    >>> [round(factor(step, 4, 0.5), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    >>> [round(factor(step, 4, 0.0, "steps", [0.5]), 2) for step in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """
    rising = round(total * warmup)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    if schedule == "steps":
        return 0.1 ** sum(step >= int(total * milestone) for milestone in milestones)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
