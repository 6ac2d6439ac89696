"""Inference over a whole loader."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpt.data.dataset import Record
from vpt.models.classifier import PromptedModel
from vpt.training.context import RunContext
from vpt.training.step import Batches, Forward
from vpt.utils.distributed import gathered


def collect(forward: Forward, loader: Batches, context: RunContext, what: str) -> tuple[Tensor, Tensor]:
    """Outputs and labels of a whole loader, on the CPU in float32, gathered from all processes that share it."""
    outputs, labels, index = [], [], []
    with torch.inference_mode(), context.console.progress(len(loader), what) as bar:
        for batch in loader.epoch(0):
            labels.append(batch.labels)
            index.append(batch.index)
            count = len(batch.index)
            # A process without images still runs the pass: others may need its shard of the backbone.
            images = batch.images if count else batch.blank().images
            with context.autocast():
                out = forward(images.to(context.device, non_blocking=True))
            outputs.append(out.float().cpu()[:count])
            bar.advance(1, images=len(batch.index))
    if getattr(loader, "ranks", 1) == 1:
        return torch.cat(outputs), torch.cat(labels)
    order = torch.cat(index)
    return gathered(torch.cat(outputs), order), gathered(torch.cat(labels), order)


def collect_features(
    model: PromptedModel, context: RunContext, read: Forward, records: Sequence[Record], split: str
) -> tuple[Tensor, Tensor]:
    """What `read` computes of records of a split, all or some of them, and their labels, as `collect` does."""
    whole = len(records) == len(context.data.split(split))
    loader = context.loader(model, records, split if whole else "", distributed=True)
    try:
        return collect(read, loader, context, f"features of {split}")
    finally:
        loader.close()


def some_of(records: Sequence[Record], most: int, seed: int) -> Sequence[Record]:
    """At most `most` records in their order, drawn at random.

    >>> some_of(range(10), 3, seed=0), some_of(range(2), 3, seed=0)
    ([1, 4, 7], range(0, 2))
    """
    if len(records) <= most:
        return records
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    return [records[place] for place in sorted(order[:most].tolist())]


def inference(model: PromptedModel) -> Forward:
    """The model for inference: what does not depend on the image is computed once."""
    model.eval()
    with torch.inference_mode():
        return model.ready()


def outputs(model: PromptedModel) -> Forward:
    """The same with the score of unknown images, if the model has one, as a column after the logits."""
    if model.unknown is None:
        return inference(model)
    model.eval()
    with torch.inference_mode():
        layers, head = model.constants(), model.ready_outputs()
    return lambda images: head(model.features(images, layers))
