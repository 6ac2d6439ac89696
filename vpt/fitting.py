"""Training one model in a setting: starts from data, rounds, label mappings, and features computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt import metrics as scores
from vpt.backbones.loading import load_backbone
from vpt.backbones.open_clip_loading import PREFIX
from vpt.config import BackboneConfig, E2vptPrompt, FrozenTuning, LabelMapHead, Prompt, TipHead
from vpt.errors import UserError
from vpt.heads.labelmap import LabelMap, confusion_counts, frequency_map, random_map, semantic_map
from vpt.heads.source_names import source_names
from vpt.heads.tip import TipAdapter
from vpt.heads.zeroshot import class_features
from vpt.model import PromptedModel
from vpt.objectives import build_objective
from vpt.prompts.base import TokenPrompts
from vpt.prompts.e2vpt import EffectivePrompts
from vpt.prompts.init.start import start, wants_images
from vpt.runlog import RunLog
from vpt.setting import Setting
from vpt.training.checkpoint import Progress, TrainState
from vpt.training.features import FeatureLoader
from vpt.training.loop import Batches, Forward, collect, fit, inference
from vpt.training.loss import build_loss, class_weights
from vpt.training.optim import build_optimizer
from vpt.training.prune import importance, prune

INIT_IMAGES = 64  # images whose patch tokens a data-driven start draws on


def begin(model: PromptedModel, setting: Setting) -> None:
    """Bring a fresh model to where training starts: prompts and label mappings that are made from data."""
    config = setting.config
    if isinstance(model.prompt, TokenPrompts) and wants_images(config.prompt):
        records = setting.data.train
        chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(config.train.seed))
        loader = setting.loader(model, [records[i] for i in chosen[:INIT_IMAGES].tolist()])
        model.eval()
        batches = [model.normalise(batch.images.to(setting.device)) for batch in loader.epoch(0)]
        start(model.prompt, config.prompt, model.backbone, batches, config.train.seed)
    if isinstance(model.head, TipAdapter):
        if setting.data.multilabel:
            raise UserError("head.kind=tip needs one label an image; choose head=linear for several")
        _remember(model.head, model, setting)
    if isinstance(config.head, LabelMapHead) and isinstance(model.head, LabelMap):
        if setting.data.multilabel:
            raise UserError("head.kind=labelmap needs one label an image; choose head=linear for several")
        sources, classes = model.head.sources, len(setting.data.classes)
        if config.head.method == "first":
            each = config.head.sources
            model.head.index.copy_(torch.arange(classes * each).view(each, classes).T)
        elif config.head.method == "random":
            model.head.index.copy_(random_map(sources, classes, config.head.sources, config.train.seed))
        elif config.head.method == "semantic":
            model.head.index.copy_(_map_by_names(model, config.head, setting.data.classes))
        elif config.head.method == "frequency":
            _map_by_frequency(model, setting)


@torch.no_grad()
def _remember(head: TipAdapter, model: PromptedModel, setting: Setting) -> None:
    """Make a Tip-Adapter's cache: the mean of each training image's features over augmented views."""
    config, records = setting.config, setting.data.train
    assert isinstance(config.head, TipHead)
    loader = setting.loader(model, records, "train", training=True)
    model.eval()
    total = torch.zeros(len(records), head.fixed.shape[1], device=setting.device)
    # Without augmentation every view is the same.
    passes = 1 if config.data.augment == "none" else config.head.passes
    for number in range(passes):
        for batch in loader.epoch(number):
            with setting.autocast():
                features = model.features(batch.images.to(setting.device))
            total[batch.index.to(setting.device)] += features.float()
    loader.close()
    head.remember(total / passes, torch.tensor([record.labels[0] for record in records]))


def finish(model: PromptedModel, setting: Setting) -> None:
    """What is settled after training, on validation images: a Tip-Adapter's two numbers."""
    head, config = model.head, setting.config.head
    if not isinstance(head, TipAdapter) or not isinstance(config, TipHead) or not setting.data.val:
        return
    loader = setting.loader(model, setting.data.val, "val")
    model.eval()
    features, labels = collect(
        model.features, loader, setting.device, setting.autocast, setting.console, "choosing alpha and beta"
    )
    loader.close()
    device = setting.device
    alpha, beta, accuracy = head.search(features.to(device), labels.to(device), config.alpha, config.beta)
    setting.console.say(f"alpha {alpha:.3g} and beta {beta:.3g} chosen by validation accuracy {accuracy:.4f}")


def train_model(state: TrainState, setting: Setting, log: RunLog, save: Callable[[], None]) -> None:
    """Train from wherever `state` stands to the end of the last round."""
    config = setting.config
    if not any(True for _ in state.model.trainable()):
        return  # made from data alone
    while True:
        _round(state, setting, log, save)
        if state.progress.round + 1 == rounds(config.prompt):
            return
        _next_round(state, setting)
        save()


def rounds(prompt: Prompt) -> int:
    """How many trainings a prompt needs: two where it is pruned after the first.

    >>> rounds(E2vptPrompt()), rounds(E2vptPrompt(prune_tokens=0.5))
    (1, 2)
    """
    return 2 if isinstance(prompt, E2vptPrompt) and (prompt.prune_tokens > 0 or prompt.prune_segments > 0) else 1


def _next_round(state: TrainState, setting: Setting) -> None:
    """Prune, and rewind to the first values."""
    model, config = state.model, setting.config
    assert isinstance(model.prompt, EffectivePrompts)
    assert isinstance(config.prompt, E2vptPrompt)
    assert state.start is not None
    setting.console.say("pruning: measuring what the loss depends on")
    loader = setting.loader(model, setting.data.train, "train")
    loss_of = _loss(setting)
    token, segment = importance(model, loader.epoch(0), loss_of, setting.device, setting.autocast)
    loader.close()
    model.load_owned(state.start)
    prune(model.prompt, token, segment, config.prompt.prune_tokens, config.prompt.prune_segments)
    left = int(model.prompt.token_mask.sum())
    values = int(model.prompt.mask(model.backbone.require_tower("prompts").width).sum())
    setting.console.say(
        f"pruned to {left} of {len(model.prompt.token_mask)} tokens, {values} values a layer; training again"
    )
    state.optimizer = build_optimizer(model, config.train.optimizer)
    before = state.progress
    state.progress = Progress(step=before.step, first_step=before.step, round=before.round + 1, seconds=before.seconds)
    state.best = None


def _loss(setting: Setting) -> Callable[[Tensor, Tensor], Tensor]:
    data, config = setting.data, setting.config
    counts = [0] * len(data.classes)
    for record in data.train:
        for label in record.labels:
            counts[label] += 1
    weights = class_weights(config.train.class_weights, counts)
    return build_loss(data.multilabel, config.train.label_smoothing, weights)


def _round(state: TrainState, setting: Setting, log: RunLog, save: Callable[[], None]) -> None:
    config, data, model = setting.config, setting.data, state.model
    train_loader = setting.loader(model, data.train, "train", training=True)
    val_loader = setting.loader(model, data.val, "val") if data.val else None
    train_batches: Batches = train_loader
    val_batches: Batches | None = val_loader
    forward: Forward = model
    if model.prompt is None and isinstance(config.tuning, FrozenTuning) and config.data.augment == "none":
        setting.console.say("nothing before the head learns and no augmentation: features are computed once")
        train_batches = _features(setting, model, "train")
        val_batches = _features(setting, model, "val") if data.val else None
        forward = model.head

    def validate() -> dict[str, Any]:
        assert val_batches is not None
        run = inference(model) if forward is model else forward
        model.eval()
        return measure(run, val_batches, setting, "val")

    def before_epoch(epoch: int) -> None:
        head = config.head
        if isinstance(head, LabelMapHead) and head.method == "iterative" and epoch % head.every == 0:
            _map_by_frequency(model, setting)

    try:
        fit(
            state,
            train_batches,
            build_objective(config.prompt, model, forward, _loss(setting), cached=forward is model.head),
            validate if val_batches is not None else None,
            before_epoch=before_epoch,
            metric=scores.main_metric(data.multilabel),
            config=config.train,
            device=setting.device,
            autocast=setting.autocast,
            save=save,
            names=lambda index: [data.train[i].name for i in index.tolist()],
            log=log,
            console=setting.console,
        )
    finally:
        train_loader.close()
        if val_loader is not None:
            val_loader.close()


def _features(setting: Setting, model: PromptedModel, split: str) -> FeatureLoader:
    model.eval()
    loader = setting.loader(model, setting.data.split(split), split)
    features, labels = collect(
        model.features, loader, setting.device, setting.autocast, setting.console, f"features of {split}"
    )
    loader.close()
    train = setting.config.train
    return FeatureLoader(features, labels, batch_size=train.batch_size, seed=train.seed, shuffle=split == "train")


def _map_by_frequency(model: PromptedModel, setting: Setting) -> None:
    """Map source classes by what the backbone takes the training images for, under the prompt as it is."""
    assert isinstance(model.head, LabelMap)
    loader = setting.loader(model, setting.data.train, "train")
    model.eval()
    constants = model.constants()

    def predicted(images: Tensor) -> Tensor:
        return model.features(images, constants).argmax(1)

    found, labels = collect(predicted, loader, setting.device, setting.autocast, setting.console, "mapping labels")
    loader.close()
    counts = confusion_counts(found.long(), labels.long(), model.head.sources, len(setting.data.classes))
    model.head.index.copy_(frequency_map(counts, model.head.index.shape[1]))


def _map_by_names(model: PromptedModel, head: LabelMapHead, classes: Sequence[str]) -> Tensor:
    """Map source classes by the likeness of their names in a CLIP's text tower."""
    file = Path(head.text_pretrained)
    config = BackboneConfig(
        name=f"{PREFIX}{head.text}",
        pretrained=head.text_pretrained if not file.suffix else True,
        weights=file if file.suffix else None,
    )
    clip = load_backbone(config, text=True)
    assert clip.text is not None
    sources = source_names(model.backbone.net, model.backbone.name)
    mine, theirs = (class_features(clip.text, clip.fingerprint, names, ["{}"]) for names in (classes, sources))
    return semantic_map(mine @ theirs.T, head.sources)


def measure(forward: Forward, loader: Batches, setting: Setting, split: str) -> dict[str, Any]:
    """Metrics of a split."""
    logits, labels = collect(forward, loader, setting.device, setting.autocast, setting.console, f"measuring {split}")
    return scores.classification_metrics(
        logits.numpy(), labels.numpy(), classes=setting.data.classes, multilabel=setting.data.multilabel
    )
