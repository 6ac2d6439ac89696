"""Prompts from other artifacts: the mean of several, and the prompt that a new task continues."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vpt.config import LoraTuning, RunConfig
from vpt.models.artifact import Artifact, read_artifact, write_artifact
from vpt.models.base import Prompted, unpacked
from vpt.utils.errors import UserError
from vpt.utils.tensor_state import misfits, shown


def average(artifacts: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None) -> Path:
    """Write the weighted mean of artifacts of one task, such as those of several seeds, as a new artifact.

    The new artifact has no metrics; see `vpt.evaluate`.

    Args:
        artifacts: two or more artifact files or run folders with the same classes, backbone, prompt and head.
        output: the artifact to write; it must not exist.
        weights: of the artifacts; their sum counts as 1. (1 - a, a) interpolates between two. Default: equal.

    Returns:
        Path of the new artifact.

    Raises:
        UserError: artifacts that differ in more than their values, or that have no mean.

    >>> average(["runs/one"], "mean.safetensors")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: name at least two artifacts to average
    """
    target, count = Path(output), len(artifacts)
    if count < 2:
        raise UserError("name at least two artifacts to average")
    if target.exists():
        raise UserError(f"{target} exists already; choose another file for the mean, or remove that one")
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count or not all(0 <= weight < math.inf for weight in given) or not sum(given):
        raise UserError(f"{count} artifacts need {count} weights, of at least 0 and not all 0")
    found = [read_artifact(path) for path in artifacts]
    first = found[0]
    if what := _product(first.config):
        raise UserError(f"{first.path} has {what}, a product of matrices: the mean of several is no such product")
    for other in found[1:]:
        if wrong := _difference(first, other):
            raise UserError(f"{other.path} differs from {first.path} in {wrong}, so they have no mean")
    fractions = [weight / sum(given) for weight in given]
    mean = {name: _mean(name, [each.tensors[name] for each in found], fractions) for name in first.tensors}
    return write_artifact(replace(first, path=target, metrics={}, tensors=mean))


def prompt_of(source: str | None, model: Prompted, config: RunConfig) -> dict[str, Tensor]:
    """Tensors of the prompt of an artifact, named by `train.prompt_from`, for a new model; none without a source.

    Raises:
        UserError: there is no such artifact, or its prompt does not fit the model.
    """
    if source is None:
        return {}
    found, kind = read_artifact(source), config.prompt.kind
    start = f"train.prompt_from={source}"
    if found.backbone["fingerprint"] not in model.backbone.fingerprints:
        raise UserError(f"{start} was trained on {found.backbone['name']}, not on this {model.backbone.name}")
    wanted = {name: value for name, value in model.owned_state().items() if name.startswith("prompt.")}
    if not wanted or found.config.prompt.kind != kind:
        raise UserError(f"{start} has prompt={found.config.prompt.kind}, which prompt={kind} cannot continue")
    if getattr(config.prompt, "needs_images", False):
        raise UserError(f"{start} replaces an initialisation from images; leave out prompt.init and the like")
    tensors = {name: value for name, value in found.tensors.items() if name.startswith("prompt.")}
    tensors = unpacked(model.prompt, tensors)
    wanted = {name: value for name, value in wanted.items() if name in tensors or not model.is_training_only(name)}
    if wrong := misfits(wanted, tensors):
        raise UserError(f"{start} has a prompt of other tokens, layers or settings: see {shown(wrong)}")
    if wrong := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise UserError(f"{start} contains values that are not finite, in {shown(wrong)}")
    return tensors


def _product(config: RunConfig) -> str:
    """The setting that makes a trained value a product of matrices; "" if none does."""
    if isinstance(config.tuning, LoraTuning):
        return "tuning=lora"
    if getattr(config.prompt, "shape", None) == "lowrank":
        return "prompt.shape=lowrank"
    return f"prompt={config.prompt.kind}" if config.prompt.kind == "bpt" else ""


def _difference(one: Artifact, other: Artifact) -> str:
    """The first thing in which two artifacts differ besides their values; "" if there is none."""
    parts: Mapping[str, tuple[object, object]] = {
        "the classes": (one.classes, other.classes),
        "the task": (one.config.task, other.config.task),
        "the backbone": (one.backbone["fingerprint"], other.backbone["fingerprint"]),
        "the preprocessing": (one.preprocess, other.preprocess),
        "the settings of the prompt": (one.config.prompt, other.config.prompt),
        "the settings of the head": (one.config.head, other.config.head),
        "the tuning": (one.config.tuning, other.config.tuning),
        "the channels": (one.config.data.channels, other.config.data.channels),
    }
    different = [name for name, (mine, theirs) in parts.items() if mine != theirs]
    wrong = misfits(one.tensors, other.tensors)
    return different[0] if different else shown(wrong)


def _mean(name: str, values: Sequence[Tensor], fractions: Sequence[float]) -> Tensor:
    first = values[0]
    if first.is_floating_point():
        parts = [part * value.double() for part, value in zip(fractions, values, strict=True)]
        return torch.stack(parts).sum(0).to(first.dtype)
    if any(not torch.equal(first, value) for value in values[1:]):
        raise UserError(f"the artifacts differ in the whole numbers of {name}, which have no mean")
    return first
