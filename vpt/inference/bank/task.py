"""A task beside a backbone that it shares: whether it can, and what it computes with."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import LabelMapHead, NativeHead, OwlHead, TptPrompt, ZeroShotHead
from vpt.inference.predictor import BoxPredictor, Classifier, Predictor
from vpt.inference.results import Classification, Detections
from vpt.metrics.probabilities import probabilities
from vpt.models.artifact import Artifact
from vpt.models.base import Prompted
from vpt.models.classifier import PromptedModel
from vpt.models.shape_check import check_tensors
from vpt.models.trusted_settings import head_of
from vpt.prompts.batching import shape_of
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.training.tasks import task_of
from vpt.utils.errors import UserError
from vpt.utils.precision import Precision


class TaskError(UserError):
    """What a task is at fault for, whatever the image; the sentence names the task and no file."""


class OtherBackboneError(UserError):
    """A task was trained on another backbone than the one that is served."""


@dataclass(frozen=True)
class LoadedTask:
    """A task as it is computed with; it stays whole for who holds it, whatever becomes of its bank.

    Args:
        name: of the task.
        artifact: where it came from.
        predictor: its own model, on the shared backbone.
        shape: tasks of one shape go through the backbone together.
        bytes: that it takes beside the backbone.
    """

    name: str
    artifact: Artifact
    predictor: Predictor
    shape: Hashable
    bytes: int

    @property
    def view(self) -> Any:
        """What makes of a picture (H, W, 3) uint8 the pixels (3, h, w) uint8 that the model takes; hashable."""
        return self.predictor.view

    def boxes(self, image: Any) -> Detections:
        """The boxes of a prepared image.

        Raises:
            TaskError: boxes that are not finite.
        """
        assert isinstance(self.predictor, BoxPredictor)
        try:
            return self.predictor.found([image.name], [image.pixels], [(image.width, image.height)])[0]
        except UserError as error:
            raise TaskError(f"task {self.name} gives boxes that are not finite; train it again") from error


@dataclass(frozen=True)
class LoadedClassifier(LoadedTask):
    """One that classifies.

    Args:
        layers: what its token prompts do in each layer; None without any.
        head: features (B, D) to scores (B, K).
    """

    predictor: Classifier
    model: PromptedModel
    layers: list[LayerPrompt] | None
    head: Callable[[Tensor], Tensor]

    @property
    def sees(self) -> Hashable:
        """How it sees images: tasks for which this is equal normalise a batch alike, without a prompt in the pixels."""
        pre = self.model.backbone.preprocess
        return id(self.model) if isinstance(self.model.prompt, PixelPrompts) else (pre.mean, pre.std)

    def result(self, image: str, scores: Tensor, top: int) -> Classification:
        """The result of scores (K,) of an image, by its name.

        Raises:
            TaskError: scores that are not finite.
        """
        if not torch.isfinite(scores).all():
            raise TaskError(f"task {self.name} gives scores that are not finite; train it again")
        return self.predictor.result(image, probabilities(scores, self.artifact.multilabel), top)


def name_of(image: Any, index: int) -> str:
    """What an image is called in results.

    >>> name_of("a.png", 0), name_of(None, 0)
    ('a.png', 'image 1')
    """
    return str(image) if isinstance(image, str | Path) else f"image {index + 1}"


def reads_names(artifact: Artifact) -> bool:
    """Whether a task needs the text tower."""
    return isinstance(artifact.config.head, ZeroShotHead | OwlHead)


def without_tensors(artifact: Artifact) -> Artifact:
    """What there is to know of an artifact, without its numbers."""
    return replace(artifact, tensors={})


def check_shares(name: str, artifact: Artifact) -> None:
    """Whether a task can share a backbone at all.

    Raises:
        UserError: it changes weights of the backbone, or needs one of its own.
    """
    config = artifact.config
    if config.tuning.kind != "frozen":
        raise UserError(f"task {name} changes weights of the backbone (tuning={config.tuning.kind}); a bank shares it")
    if isinstance(config.prompt, TptPrompt):
        raise UserError(f"task {name} is tuned anew on every image (prompt=tpt); load it with vpt.load instead")
    if isinstance(config.head, LabelMapHead | NativeHead):
        raise UserError(f"task {name} needs a backbone of its own (head={config.head.kind}); serve it alone")


def check_fits(name: str, artifact: Artifact, backbone: Backbone) -> None:
    """Whether a task goes with this backbone.

    Raises:
        OtherBackboneError: it was trained on another one.
        UserError: it wants images of a size that the backbone, as it was loaded, does
            not take.
    """
    if artifact.backbone["fingerprint"] not in backbone.fingerprints:
        raise OtherBackboneError(
            f"task {name} was trained on backbone {artifact.backbone['name']} "
            f"(fingerprint {artifact.backbone['fingerprint'][:12]}), not on {backbone.name} "
            f"(fingerprint {backbone.fingerprint[:12]}), which has other weights or computes otherwise; serve it alone"
        )
    own, taken = artifact.preprocess.size, backbone.preprocess.size
    if not backbone.any_size and own != taken:
        raise UserError(
            f"task {name} wants images of {own} pixels, but {backbone.name} takes one size only, {taken} pixels in "
            "this bank; serve it alone"
        )
    if not backbone.any_size and artifact.config.task == "detection":
        raise UserError(f"task {name} wants images of any size, but {backbone.name} takes one only; serve it alone")


def load_task(
    name: str, artifact: Artifact, backbone: Backbone, device: torch.device, precision: Precision = "fp32"
) -> LoadedTask:
    """Build a task's model around the shared backbone, to compute in that precision.

    Raises:
        UserError: an artifact that does not fit the model which its own header describes, or names a file.
    """
    config, mine = artifact.config.with_(head=head_of(artifact)), backbone.at_size(artifact.preprocess)
    check_tensors(artifact.path, config, artifact.classes, artifact.tensors, mine)
    model = task_of(config).build(config, artifact.classes, mine)
    model.set_preprocess(artifact.preprocess)
    model.load_owned(dict(artifact.tensors))
    model.requires_grad_(False)
    model.to(device).eval()
    # The tensors are in the model by now.
    artifact = without_tensors(artifact)
    own = _own_bytes(model)
    if not isinstance(model, PromptedModel):
        return LoadedTask(name, artifact, BoxPredictor(model, artifact, precision), ("detection", name), own)
    with torch.inference_mode():
        layers = model.constants()
        head = model.ready_head()
    return LoadedClassifier(
        name=name,
        artifact=artifact,
        predictor=Classifier(model, artifact, lambda images: head(model.features(images, layers)), precision),
        # Of one size too: a prompt around the image makes it larger than it came.
        shape=(model.pool, artifact.preprocess.size, shape_of(model.steps, layers)),
        # Layers twice, for they lie once more in the stack of the tasks that they share a pass with.
        bytes=own + 2 * sum(_layer_bytes(layer) for layer in layers or ()),
        layers=layers,
        model=model,
        head=head,
    )


def _own_bytes(model: Prompted) -> int:
    """What it holds beside the backbone: what learned, and what was made of class names."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return sum(tensor.nbytes for name, tensor in tensors.items() if not name.startswith("backbone."))


def _layer_bytes(layer: LayerPrompt) -> int:
    parts = [layer.tokens, *(layer.extra or ()), *(layer.branch or ())]
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))
