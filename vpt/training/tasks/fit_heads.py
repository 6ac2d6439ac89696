"""Heads that are computed from data instead of trained: label mappings, Tip-Adapter, neighbours and prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.builtin_names import OPEN_CLIP
from vpt.backbones.factory import load_backbone
from vpt.config import BackboneConfig, KnnHead, LabelMapHead, MemoryHead, TipHead
from vpt.data.dataset import Record
from vpt.heads.imagenet_names import source_names
from vpt.heads.label_mapping import LabelMap, confusion_counts, frequency_map, random_map, semantic_map
from vpt.heads.tip_adapter import TipAdapter
from vpt.heads.zero_shot import class_features
from vpt.models.classifier import PromptedModel
from vpt.training.context import RunContext
from vpt.training.predict_loop import collect, collect_features
from vpt.utils.errors import UserError


def make_head(model: PromptedModel, context: RunContext) -> None:
    """Compute a head from data before training."""
    head, config, data = model.head, context.config.head, context.data
    if data.multilabel:
        raise UserError(f"head.kind={config.kind} needs one label per image; choose head=linear for several")
    if isinstance(config, MemoryHead):
        _store(config, model, context)
    if isinstance(head, TipAdapter):
        _remember(head, model, context)
    if not isinstance(head, LabelMap) or not isinstance(config, LabelMapHead):
        return
    classes, each = len(data.classes), config.sources
    match config.method:
        case "first":
            head.index.copy_(torch.arange(classes * each).view(each, classes).T)
        case "random":
            head.index.copy_(random_map(head.sources, classes, each, context.config.train.seed))
        case "semantic":
            head.index.copy_(_map_by_names(model, config, data.classes))
        case "frequency":
            map_by_frequency(model, context)


def map_by_frequency(model: PromptedModel, context: RunContext) -> None:
    """Map source classes by the backbone's predictions on the training images, with the current prompt."""
    assert isinstance(model.head, LabelMap)
    loader = context.loader(model, context.data.train, "train")
    model.eval()
    constants = model.constants()

    def predicted(images: Tensor) -> Tensor:
        return model.features(images, constants).argmax(1)

    found, labels = collect(predicted, loader, context, "mapping labels")
    loader.close()
    counts = confusion_counts(found.long(), labels.long(), model.head.sources, len(context.data.classes))
    model.head.index.copy_(frequency_map(counts, model.head.index.shape[1]))


def _map_by_names(model: PromptedModel, head: LabelMapHead, classes: Sequence[str]) -> Tensor:
    """Map source classes by the similarity of their names under CLIP's text encoder."""
    file = Path(head.text_pretrained)
    config = BackboneConfig(
        name=f"{OPEN_CLIP}{head.text}",
        pretrained=head.text_pretrained if not file.suffix else True,
        weights=file if file.suffix else None,
    )
    clip = load_backbone(config, text=True)
    assert clip.text is not None
    sources = source_names(model.backbone.net, model.backbone.name)
    mine, theirs = (class_features(clip.text, clip.fingerprint, names, ["{}"]) for names in (classes, sources))
    return semantic_map(mine @ theirs.T, head.sources)


def _store(config: MemoryHead, model: PromptedModel, context: RunContext) -> None:
    """Compute the features of training images, and what the head keeps of them."""
    records: Sequence[Record] = context.data.train
    if isinstance(config, KnnHead):
        records = drawn(records, config.images, context.config.train.seed)
    model.eval()
    features, labels = collect_features(model, context, model.features, records, "train")
    if not torch.isfinite(features).all():
        raise UserError(f"the features of {model.backbone.name} are not finite; use another backbone or precision")
    head: Any = model.head
    head.remember(features.to(context.device), labels.to(context.device))
    context.console.say(f"head: features of {len(records)} training images")


def drawn(records: Sequence[Record], most: int, seed: int) -> Sequence[Record]:
    """At most `most` records in their order, drawn at random, but one of each class.

    >>> records = [Record(f"{at}", Path(), (int(at > 8),)) for at in range(10)]
    >>> [record.labels[0] for record in drawn(records, 3, seed=0)]
    [0, 0, 1]
    """
    if len(records) <= most:
        return records
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    firsts = {records[at].labels[0]: at for at in reversed(order)}
    kept = list(dict.fromkeys([*firsts.values(), *order]))[: max(most, len(firsts))]
    return [records[at] for at in sorted(kept)]


@torch.no_grad()
def _remember(head: TipAdapter, model: PromptedModel, context: RunContext) -> None:
    """Compute the cache of Tip-Adapter: mean features of each training image over augmented views."""
    config, records = context.config, context.data.train
    assert isinstance(config.head, TipHead)
    loader = context.loader(model, records, "train", training=True)
    model.eval()
    total = torch.zeros(len(records), head.fixed.shape[1], device=context.device)
    # Without augmentation all views are equal.
    passes = 1 if config.data.augment == "none" else config.head.passes
    for number in range(passes):
        for batch in loader.epoch(number):
            with context.autocast():
                features = model.features(batch.images.to(context.device))
            total[batch.index.to(context.device)] += features.float()
    loader.close()
    head.remember(total / passes, torch.tensor([record.labels[0] for record in records]))


def finish_head(model: PromptedModel, context: RunContext) -> None:
    """Choose alpha and beta of a Tip-Adapter on validation images, after training."""
    head, config = model.head, context.config.head
    if not isinstance(head, TipAdapter) or not isinstance(config, TipHead) or not context.data.val:
        return
    loader = context.loader(model, context.data.val, "val")
    model.eval()
    features, labels = collect(model.features, loader, context, "choosing alpha and beta")
    loader.close()
    device = context.device
    alpha, beta, accuracy = head.search(features.to(device), labels.to(device), config.alpha, config.beta)
    context.console.say(f"alpha {alpha:.3g} and beta {beta:.3g} chosen by validation accuracy {accuracy:.4f}")
