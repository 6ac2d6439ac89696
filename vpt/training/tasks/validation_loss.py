"""The loss of a detector on the validation split."""

from __future__ import annotations

from typing import Any

import torch

from vpt.models.base import Prompted
from vpt.training.context import RunContext
from vpt.utils.distributed import gathered_list


@torch.no_grad()
def validation_loss(model: Prompted, context: RunContext, loader: Any) -> float:
    """The mean training loss over the images of a loader, whose processes get whole batches.

    torchvision's detectors return losses in training mode only; random draws, as of proposals, are the same every time.
    """
    detector: Any = model
    sums: list[float] = []
    index = [torch.zeros(0, dtype=torch.int64)]
    with torch.random.fork_rng(), context.console.progress(len(loader), "validation loss") as bar:
        torch.manual_seed(context.config.train.seed)
        model.train()
        _without_dropout(model)
        for batch in loader.epoch(0):
            images = [image.to(context.device) for image in batch.images]
            with context.autocast():
                loss = detector.loss(images, [target.to(context.device) for target in batch.labels])
            sums += [float(loss)] * len(images)
            index.append(batch.index)
            bar.advance(1, images=len(images))
    loader.close()
    model.eval()
    values = gathered_list(sums, torch.cat(index))
    return sum(values) / max(1, len(values))


def _without_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.eval()
