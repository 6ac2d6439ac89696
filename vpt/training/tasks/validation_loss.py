"""The loss of a detector on the validation split."""

from __future__ import annotations

from typing import Any

import torch

from vpt.models.base import Prompted
from vpt.training.context import RunContext
from vpt.training.step import Objective


@torch.no_grad()
def validation_loss(model: Prompted, context: RunContext, loader: Any, objective: Objective) -> float:
    """The mean training loss over the images of a loader.

    torchvision's detectors return losses in training mode only; random draws, as of proposals, are the same every time.
    """
    total, count = 0.0, 0
    with torch.random.fork_rng(), context.console.progress(len(loader), "validation loss") as bar:
        torch.manual_seed(context.config.train.seed)
        model.train()
        _without_dropout(model)
        for batch in loader.epoch(0):
            there = batch.to(context.device)
            with context.autocast():
                loss, _ = objective(there.images, there.labels)
            total += float(loss) * len(batch.index)
            count += len(batch.index)
            bar.advance(1, images=len(batch.index))
    loader.close()
    model.eval()
    return total / max(1, count)


def _without_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.eval()
