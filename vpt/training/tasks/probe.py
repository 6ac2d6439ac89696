"""Initial head of a run, fitted to features before the first step, and the linear probe that counts as epoch 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vpt.config import NoPrompt
from vpt.data.dataset import Record
from vpt.heads.logistic import Logistic, Targets, cross_validated, fit, validated
from vpt.heads.ordinal import Ordinal
from vpt.heads.regression import Floats, fit_ridge
from vpt.metrics import classification as metrics
from vpt.models.classifier import PromptedModel, plan_for
from vpt.prompts.base import TokenPrompts
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.losses import class_weights
from vpt.training.predict_loop import collect_features, some_of
from vpt.training.step import Forward

MOST_IMAGES = 20_000  # maximum number of images that a head is fitted to
MOST_WORK = 2e9  # maximum number of multiplications per evaluation of the objective
# Minimum regularisation of the initial head. The probe itself often fits its images without error; starting from it,
# prompts get almost no gradient and learn little (benchmarks/accuracy/suite, docs/defaults.md).
START_STRENGTH = 1.0
SHARPEST = 0.3  # least standard deviation of the residuals of ranks; training images are fitted too well


def fit_head(model: PromptedModel, context: RunContext) -> Baseline | None:
    """Fit the model's linear head by logistic regression; None if the settings do not ask for it.

    The features are those of the backbone without token prompts, because random prompts would perturb them. The
    strength of the L2 penalty is chosen on validation, or by cross-validation without such a split.
    """
    if not context.config.starts_from_probe:
        return None
    data, console = context.data, context.console
    model.eval()
    with torch.inference_mode():
        read = _reader(model)
        features, labels = collect_features(model, context, read, _chosen(model, context), "train")
        val = collect_features(model, context, read, data.val, "val") if data.val else None
    counts = [sum(label in record.labels for record in data.train) for label in range(len(data.classes))]
    weights = class_weights(context.config.train.class_weights, counts)
    targets = Targets.of(labels.numpy(), len(data.classes), None if weights is None else weights.numpy())
    score = None
    if val is None:
        probe = cross_validated(features.numpy(), targets)
        console.say(f"head: logistic regression on features of {len(features)} images (L2 {probe.strength:.2g})")
    else:
        val_targets = Targets.of(val[1].numpy(), len(data.classes))
        probe = validated(features.numpy(), targets, val[0].numpy(), val_targets)
    _put(model, probe)
    if val is not None:
        metric = metrics.main_metric(data.multilabel)
        with torch.inference_mode():
            logits = model.head(val[0].to(context.device)).float().cpu()
        measured = metrics.classification_metrics(
            logits.numpy(), val[1].numpy(), classes=data.classes, multilabel=data.multilabel
        )
        score = metrics.score_of(measured)
        console.say(f"epoch 0: linear probe, validation {metric} {score:.4f} (L2 {probe.strength:.2g})")
    state = {name: value.to("cpu", copy=True) for name, value in model.owned_state().items()}
    if probe.strength < START_STRENGTH:
        _put(model, fit(features.numpy(), targets, START_STRENGTH))
    return Baseline(score, state)


def fit_ordinal(model: PromptedModel, context: RunContext) -> Baseline | None:
    """Initialise an ordinal head by ridge regression of the ranks; None if the settings do not ask for it.

    Thresholds are where as many training images are above them as have a higher class; the slope is that of a logistic
    distribution with the variance of the residuals.
    """
    if not context.config.starts_from_probe:
        return None
    head, classes, console = model.head, len(context.data.classes), context.console
    assert isinstance(head, Ordinal)
    (features, ranks), val = features_of(model, context, _ranks)
    weight, bias, penalty = fit_ridge(features, ranks, val)
    found = features @ weight + bias
    least = 0.5 / len(ranks)
    above = np.clip([(ranks > rank).mean() for rank in range(classes - 1)], least, 1 - least)
    slope = math.pi / math.sqrt(3) / max(float((found - ranks).std()), SHARPEST)
    biases = slope * (bias - np.quantile(found, 1 - above))
    head.put(torch.from_numpy(slope * weight), torch.from_numpy(biases))
    if val is None:
        console.say(f"head: ridge regression of ranks on features of {len(ranks)} images (L2 {penalty:.2g})")
        return Baseline(None, {})
    with torch.inference_mode():
        logits = head(torch.from_numpy(val[0]).float().to(context.device)).cpu()
    score = float((logits.argmax(1).numpy() == val[1]).mean())
    console.say(f"epoch 0: ridge regression of ranks, validation accuracy {score:.4f} (L2 {penalty:.2g})")
    return Baseline(score, {name: value.to("cpu", copy=True) for name, value in model.owned_state().items()})


def features_of(
    model: PromptedModel, context: RunContext, target: Callable[[Sequence[Record]], Floats]
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats] | None]:
    """Features (N, D) and targets (N,) of at most `MOST_IMAGES` training images, and of validation, if there is any."""
    data = context.data
    train = some_of(data.train, MOST_IMAGES, context.config.train.seed)
    model.eval()
    with torch.inference_mode():
        read = _reader(model)
        found = [
            (collect_features(model, context, read, records, split)[0].double().numpy(), target(records))
            for split, records in (("train", train), ("val", data.val))
            if records
        ]
    return found[0], found[1] if data.val else None


def _ranks(records: Sequence[Record]) -> Floats:
    return np.array([float(record.labels[0]) for record in records])


def without_prompt(model: PromptedModel, context: RunContext) -> tuple[PromptedModel, RunContext]:
    """The model of epoch 0: its head on the backbone without token prompts."""
    if not _leaves_out_prompt(model):
        return model, context
    probe = PromptedModel(model.backbone, None, model.head, model.pool, model.owns_buffers, unknown=model.unknown).to(
        context.device
    )
    probe.channels = model.channels
    return probe, replace(context, config=context.config.model_copy(update={"prompt": NoPrompt()}))


def _leaves_out_prompt(model: PromptedModel) -> bool:
    """Whether features can be computed without the prompt; not if the head reads prompt tokens or their outputs."""
    prompt = model.prompt
    return isinstance(prompt, TokenPrompts) and not prompt.added_features and model.pool in ("native", "cls", "avg")


def _reader(model: PromptedModel) -> Forward:
    """Map uint8 images to the features that the probe is fitted to."""
    if not _leaves_out_prompt(model):
        layers = model.constants()
        return lambda images: model.features(images, layers)
    steps = plan_for(model.backbone, None, model.pool)
    return lambda images: model.backbone.features(model.normalise(images), steps, model.pool)


def _chosen(model: PromptedModel, context: RunContext) -> Sequence[Record]:
    """Training images that the head is fitted to: all, or a random subset that limits the time."""
    records, classes = context.data.train, len(context.data.classes)
    last = _last(model)
    most = min(MOST_IMAGES, max(10 * classes, int(MOST_WORK / (last.in_features * classes))))
    return some_of(records, most, context.config.train.seed)


def _last(model: PromptedModel) -> nn.Linear:
    assert isinstance(model.head, nn.Sequential)
    last = model.head[-1]
    assert isinstance(last, nn.Linear)
    return last


@torch.no_grad()
def _put(model: PromptedModel, fitted: Logistic) -> None:
    """Copy a fit into the model's head."""
    last = _last(model)
    for parameter, value in zip((last.weight, last.bias), fitted.folded(), strict=True):
        parameter.copy_(torch.from_numpy(value))
