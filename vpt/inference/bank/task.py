"""Tasks on a shared backbone: whether a task can share it, and its model."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.backbones.layer_changes import Changes, LayerChange, LayerChanges, StackedChanges, changes_bytes
from vpt.backbones.layer_prompt import LayerPrompt, lowest_prompted
from vpt.backbones.peft import layer_changes
from vpt.config import FrozenTuning, TptPrompt
from vpt.inference.classification import Classification
from vpt.inference.classifier import Classifier
from vpt.inference.predictor import Predictor, predictor_type
from vpt.inference.result import Result
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
    """Error of a task that does not depend on the image; the message names the task but no file."""


class OtherBackboneError(UserError):
    """Raised if a task was trained on another backbone than the one of the bank."""


@dataclass(frozen=True)
class LoadedTask:
    """A loaded task; it remains usable after it was removed from its bank.

    Args:
        name: name of the task.
        artifact: its artifact.
        predictor: its model on the shared backbone.
        shape: tasks with equal shape share passes through the backbone.
        bytes: memory that it uses besides the backbone.
        own: its changes of the backbone's layers.
        changes: applies them in the backbone.
    """

    name: str
    artifact: Artifact
    predictor: Predictor
    shape: Hashable
    bytes: int
    own: Changes = field(kw_only=True)
    changes: LayerChanges = field(kw_only=True)

    def alone(self) -> AbstractContextManager[None]:
        """Context in which all images of a pass belong to this task."""
        return self.changes.during(StackedChanges([self.own]).of([0]))

    @property
    def view(self) -> Any:
        """Transform from an image (H, W, 3) uint8 to the input (3, h, w) uint8 of the model; hashable."""
        return self.predictor.view

    def answer(self, image: Any, top: int) -> Result:
        """Predict one prepared image.

        Raises:
            TaskError: the outputs are not finite.
        """
        try:
            with self.alone():
                return self.predictor.answer([image.name], [image.pixels], [(image.width, image.height)], top)[0]
        except UserError as error:
            raise self.not_finite() from error

    def not_finite(self) -> TaskError:
        """The error of outputs that are not finite."""
        return TaskError(f"task {self.name} predicts {self.predictor.outputs} that are not finite; train it again")


@dataclass(frozen=True)
class LoadedClassifier(LoadedTask):
    """A loaded classification task.

    Args:
        layers: token prompts of each layer; None without token prompts.
        first_prompted: the lowest layer with a prompt, the last one without prompts; 0 without layers, or if the task
            changes layers of the backbone.
        head: maps features (B, D) to logits (B, K), and the score of unknown images if there is one.
    """

    predictor: Classifier
    model: PromptedModel
    layers: list[LayerPrompt] | None
    first_prompted: int
    head: Callable[[Tensor], Tensor]

    @property
    def sees(self) -> Hashable:
        """Key of its normalisation: tasks with equal keys normalise a batch together, if neither pixel prompts nor
        channels do it."""
        pre = self.model.backbone.preprocess
        own = isinstance(self.model.prompt, PixelPrompts) or self.model.channels is not None
        return id(self.model) if own else (pre.mean, pre.std)

    def result(self, image: str, scores: Tensor, top: int) -> Classification:
        """Convert the outputs of `head` for an image to a result.

        Raises:
            TaskError: the logits are not finite.
        """
        try:
            return self.predictor.read(image, scores, top)
        except UserError:
            raise self.not_finite() from None


def name_of(image: Any, index: int) -> str:
    """Name of an image in results.

    >>> name_of("a.png", 0), name_of(None, 0)
    ('a.png', 'image 1')
    """
    return str(image) if isinstance(image, str | Path) else f"image {index + 1}"


def reads_names(artifact: Artifact) -> bool:
    """Whether a task needs the text encoder."""
    return artifact.config.head.needs_text


def without_tensors(artifact: Artifact) -> Artifact:
    """The artifact without its tensors."""
    return replace(artifact, tensors={})


def check_shares(name: str, artifact: Artifact) -> None:
    """Check that a task can share a backbone.

    Raises:
        UserError: the task changes weights of the backbone, or needs its own backbone.
    """
    config = artifact.config
    if config.tuning.kind == "full":
        raise UserError(f"task {name} changes all weights of the backbone (tuning=full), which a bank shares")
    if isinstance(config.prompt, TptPrompt):
        raise UserError(f"task {name} is tuned on every image (prompt=tpt); load it with vpt.load instead")
    if config.head.in_order:
        raise UserError(f"task {name} has scores that depend on the images before (head={config.head.kind})")
    if config.head.needs_classifier or config.head.complete:
        raise UserError(f"task {name} needs its own backbone (head={config.head.kind}); serve it separately")


def check_fits(name: str, artifact: Artifact, backbone: Backbone) -> None:
    """Check that a task fits this backbone.

    Raises:
        OtherBackboneError: the task was trained on another backbone.
        UserError: the task needs images of a size that the loaded backbone does not
            support.
    """
    if artifact.backbone["fingerprint"] not in backbone.fingerprints:
        raise OtherBackboneError(
            f"task {name} was trained on backbone {artifact.backbone['name']} "
            f"(fingerprint {artifact.backbone['fingerprint'][:12]}), not on {backbone.name} "
            f"(fingerprint {backbone.fingerprint[:12]}), which differs in weights or computation; serve it separately"
        )
    own, taken = artifact.preprocess.size, backbone.preprocess.size
    if not backbone.any_size and own != taken:
        raise UserError(
            f"task {name} needs images of {own} pixels, but {backbone.name} supports only one size, {taken} pixels in "
            "this bank; serve it separately"
        )
    if not backbone.any_size and artifact.config.head.any_size:
        raise UserError(
            f"task {name} needs images of any size, but {backbone.name} supports only one; serve it separately"
        )


def load_task(
    name: str,
    artifact: Artifact,
    backbone: Backbone,
    changes: LayerChanges,
    device: torch.device,
    precision: Precision = "fp32",
) -> LoadedTask:
    """Build the model of a task on the shared backbone, in the given precision; `changes` applies those of its layers.

    Raises:
        UserError: the artifact does not fit the model that its header describes, or names a file.
    """
    config, mine = artifact.config.with_(head=head_of(artifact)), backbone.at_size(artifact.preprocess)
    check_tensors(artifact.path, config, artifact.classes, artifact.tensors, mine)
    found = layer_changes(config.tuning, mine, artifact.tensors)
    own = {
        key: LayerChange(*(None if part is None else part.to(device) for part in each)) for key, each in found.items()
    }
    changes.watch(mine.net, own)
    config = config.with_(tuning=FrozenTuning())
    model = task_of(config).build(config, artifact.classes, mine)
    model.set_preprocess(artifact.preprocess)
    model.load_owned({key: value for key, value in artifact.tensors.items() if not key.startswith("backbone.")})
    model.requires_grad_(False)
    model.to(device).eval()
    # The tensors are already in the model.
    artifact = without_tensors(artifact)
    # Changes and layers count twice, because those of a group are stacked.
    taken = _own_bytes(model) + 2 * changes_bytes(own)
    kind = predictor_type(config.task)
    if not issubclass(kind, Classifier):
        predictor, shape = kind(model, artifact, precision=precision), (config.task, name)
        return LoadedTask(name, artifact, predictor, shape, taken, own=own, changes=changes)
    assert isinstance(model, PromptedModel)
    with torch.inference_mode(), changes.during(StackedChanges([own]).of([0])):
        layers = model.constants()
        head = model.ready_outputs()
        if own and layers is None:
            layers = _no_tokens(mine)
    first = 0 if own else lowest_prompted(layers, len(model.steps))
    return LoadedClassifier(
        name=name,
        artifact=artifact,
        predictor=Classifier(model, artifact, lambda images: head(model.features(images, layers)), precision),
        # The size must match too: a prompt around the image makes it larger.
        shape=(model.pool, artifact.preprocess.size, model.image_channels, first, shape_of(model.steps, layers)),
        bytes=taken + 2 * sum(_layer_bytes(layer) for layer in layers or ()),
        own=own,
        changes=changes,
        layers=layers,
        first_prompted=first,
        model=model,
        head=head,
    )


def _no_tokens(backbone: Backbone) -> list[LayerPrompt]:
    """Prompts of no tokens, so that a task is batched together with tasks that have some in every layer."""
    tower = backbone.require_tower("token prompts")
    empty = torch.empty(0, max(tower.widths), device=next(backbone.net.parameters()).device)
    layers = zip(tower.blocks, tower.widths, strict=True)
    return [LayerPrompt(extra=block.keys_values(empty[:, :width])) for block, width in layers]


def _own_bytes(model: Prompted) -> int:
    """Tensors of a task besides the backbone: trained parameters, and text features of class names."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return sum(tensor.nbytes for name, tensor in tensors.items() if not name.startswith("backbone."))


def _layer_bytes(layer: LayerPrompt) -> int:
    groups = (layer.extra, layer.branch, layer.adapter, layer.low_rank)
    parts = [layer.tokens, layer.queries, layer.value_bias, *(part for group in groups for part in group or ())]
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))
