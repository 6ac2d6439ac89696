"""Prompted detector: frozen backbone, prompt, feature pyramid and head."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import load_backbone
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Reads, plan
from vpt.backbones.peft import apply_tuning
from vpt.backbones.pos_embed import MOST_PATCHES
from vpt.backbones.vit_spec import Tower
from vpt.config import FullTuning, NativeHead, OwlHead, PixelPrompt, PyramidHead, RunConfig, TokenPrompt
from vpt.data.detection.transforms import Target
from vpt.data.normalization import normalise
from vpt.heads.detection import owl
from vpt.heads.detection.divided_batch import DividedBatch, divide_losses
from vpt.heads.detection.feature_pyramid import SCALES, SimplePyramid
from vpt.heads.detection.torchvision import build_torchvision, first_label, losses_of
from vpt.heads.zero_shot import class_features
from vpt.models.base import Prompted
from vpt.models.detection.same_size_batches import each_with_its_like
from vpt.prompts.base import Shape, TokenPrompts
from vpt.prompts.clip.templates import read_templates
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.prompts.registry import build_tokens
from vpt.utils.errors import UserError


class Detector(Prompted):
    """Finds boxes in uint8 images of any size.

    The liveness plan computes all patch queries in the last layer and nothing else.

    Args:
        backbone: backbone loaded with `dynamic=True`.
        prompt: token prompts or None.
        head: head from `build_detector`.
        taps: layers whose patch grids are read, counted from 0, in ascending order.
        owns_buffers: the whole backbone is trainable.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: TokenPrompts | None,
        head: nn.Module,
        taps: Sequence[int],
        owns_buffers: bool = False,
    ) -> None:
        super().__init__(backbone, prompt, head, owns_buffers)
        tower = backbone.require_tower("patch grids")
        inserted, after = ({}, "drop") if prompt is None else (prompt.inserted, prompt.after)
        self.taps = tuple(taps)
        self.steps = plan(len(tower.blocks), inserted, after, Reads(image="patches"))
        self.__dict__["constants"] = None  # cached keys and values of prompts

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise a uint8 image (3, h, w) for the backbone."""
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image must be uint8 (3, h, w), found {image.dtype} {tuple(image.shape)}")
        return normalise(image, self.mean, self.std)

    def grids(self, images: Tensor) -> list[Tensor]:
        """Patch grids (B, C, h, w) of a batch of normalised images (B, 3, H, W)."""
        layers: Sequence[LayerPrompt] | None = self.__dict__["constants"]
        if layers is None:
            layers = self.layers(self.steps, len(images))
        return self.backbone.grids(images, self.steps, self.taps, layers)

    def loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """The loss of uint8 images (3, h, w) and their targets; crowd boxes are ignored."""
        head: Any = self.head
        return head.loss([self.normalise(image) for image in images], [_without_crowds(target) for target in targets])

    def divide(self, batch: DividedBatch) -> None:
        """Normalise the loss over the images of all processes."""
        head: Any = self.head
        head.divide(batch)

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes (n, 4) in pixels, labels (n,) and scores (n,) of uint8 images (3, h, w), most confident first.

        Images are only padded to whole patches, so that the result does not depend on the other images.
        """
        head: Any = self.head
        patch = self.backbone.require_tower("patch grids").patch[0]
        self.eval()
        self.__dict__["constants"] = self.layers(self.steps)
        try:
            return each_with_its_like(
                images,
                lambda image: tuple(math.ceil(side / patch) for side in image.shape[1:]),
                lambda some: head.detect([self.normalise(image) for image in some]),
            )
        finally:
            self.__dict__["constants"] = None


def _without_crowds(target: Target) -> tuple[Tensor, Tensor]:
    kept = ~target.crowds
    return target.boxes[kept], target.labels[kept]


class PyramidDetection(nn.Module):
    """A simple feature pyramid with a torchvision detector.

    Args:
        config: configuration of the head.
        width: channels of a patch grid.
        classes: classes of the task.
        patch: side of a patch, in pixels.
    """

    def __init__(self, config: PyramidHead, width: int, classes: int, patch: int) -> None:
        super().__init__()
        self.pyramid = SimplePyramid(width, len(config.taps), config.channels, config.scales)
        strides = [patch / scale for scale in config.scales]
        self.__dict__["grids"] = None  # set by the detector that owns this head
        self.detector = build_torchvision(config, self._features, classes, strides, divisor=patch)

    def _features(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.pyramid(self.__dict__["grids"](images))

    def loss(self, images: list[Tensor], targets: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The sum of the detector's losses."""
        boxes, labels = ([target[part] for target in targets] for part in (0, 1))
        return losses_of(self.detector, images, boxes, labels)

    def divide(self, batch: DividedBatch) -> None:
        """See Detector.divide."""
        divide_losses(self.detector, batch)

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes, labels counted from 0, and scores."""
        found: list[dict[str, Tensor]] = self.detector(images)
        return [{**image, "labels": image["labels"] - first_label(self.detector)} for image in found]


class OwlDetection(nn.Module):
    """The open-vocabulary head on one patch grid.

    Args:
        config: configuration of the head.
        head: trainable part.
        text: normalised text features (K, D) of the class names.
        patch: side of a patch, in pixels.
        templates: the templates of `text`, with `{}`.
    """

    text: Tensor

    def __init__(
        self, config: OwlHead, head: owl.OwlHead, text: Tensor, patch: int, templates: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.config, self.patch, self.templates = config, patch, tuple(templates)
        self.owl = head
        self.register_buffer("text", text, persistent=False)
        self.batch: DividedBatch | None = None
        self.__dict__["grids"] = None  # set by the detector that owns this head

    def _forward(self, images: list[Tensor]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Pad the images of a batch to one size, as torchvision does; boxes are relative to that size."""
        sides = [max(image.shape[side] for image in images) for side in (1, 2)]
        if self.batch is not None and self.training:
            sides = self.batch.largest(sides)
        height, width = (math.ceil(side / self.patch) * self.patch for side in sides)
        batch = images[0].new_zeros(len(images), 3, height, width)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        grid = self.__dict__["grids"](batch)[-1]
        boxes, scores = self.owl(grid, self.text)
        return boxes, scores, (height, width)

    def loss(self, images: list[Tensor], targets: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The loss of matched boxes."""
        boxes, scores, (height, width) = self._forward(images)
        scale = torch.tensor([width, height] * 2, device=boxes.device)
        wanted = [owl.box_convert(target[0] / scale, "xyxy", "cxcywh") for target in targets]
        loss = owl.owl_loss(boxes, scores, wanted, [target[1] for target in targets])
        return loss if self.batch is None else loss * self.batch.factor(sum(len(some) for some in wanted))

    def divide(self, batch: DividedBatch) -> None:
        """See Detector.divide."""
        self.batch = batch

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes, labels and scores; boxes are clipped to their image."""
        boxes, scores, size = self._forward(images)
        found = []
        for number, image in enumerate(images):
            kept = owl.best_boxes(
                boxes[number], scores[number], size, self.config.score, self.config.overlap, self.config.boxes
            )
            corners = torch.minimum(kept[0], kept[0].new_tensor([image.shape[2], image.shape[1]] * 2))
            real = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
            found.append({"boxes": corners[real], "labels": kept[1][real], "scores": kept[2][real]})
        return found


def dynamic_backbone(config: RunConfig) -> Backbone:
    """Load the backbone of a detector for images of any size, with its text encoder if the head reads class names.

    Raises:
        UserError: a backbone without patches, or one that accepts images of one size only.
    """
    backbone = load_backbone(config.backbone, text=config.head.needs_text, dynamic=True)
    if backbone.tower is not None:
        backbone.require_grid("detection and segmentation")
    if backbone.tower is None or not backbone.any_size:
        reason = backbone.refusal or f"its patch does not divide its own size of {backbone.preprocess.size} pixels"
        raise UserError(
            f"backbone {backbone.name} is not a vision transformer that accepts images of any size: {reason}; "
            "choose another ViT"
        )
    return backbone


def square_tower(backbone: Backbone, task: str) -> Tower:
    """The tower of a backbone with square patches.

    Raises:
        UserError: a backbone without patches, or with others.
    """
    tower = backbone.require_tower("patch grids")
    if tower.patch[0] != tower.patch[1]:
        raise UserError(f"backbone {backbone.name} has patches of {tower.patch} pixels; {task} needs square ones")
    return tower


def build_detector(config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> Detector:
    """Build a detector and mark trainable parameters. `train.seed` initialises new parameters.

    Args:
        config: configuration of the run.
        classes: names of the classes.
        backbone: a backbone from `dynamic_backbone`; tuning changes it. Default: load one.

    Raises:
        UserError: a backbone without patches, layers that do not exist, or unknown scales.
    """
    head = config.head
    assert isinstance(head, OwlHead | PyramidHead)
    backbone = backbone or dynamic_backbone(config)
    tower = square_tower(backbone, "detection")
    taps = tap_layers(head.taps, len(tower.blocks))
    _check_head(head, backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        prompt = token_prompt(config, tower)
        backbone = apply_tuning(config.tuning, backbone)
        made: Any
        if isinstance(head, OwlHead):
            made = _owl(head, backbone, classes)
        else:
            made = PyramidDetection(head, tower.width, len(classes), tower.patch[0])
    model = Detector(backbone, prompt, made, taps, isinstance(config.tuning, FullTuning))
    made.__dict__["grids"] = model.grids
    return model


def detection_skeleton(
    config: RunConfig, backbone: Backbone | None, classes: Sequence[str]
) -> tuple[TokenPrompts | PixelPrompts | None, nn.Module]:
    """Prompt and head of a detector on the meta device; without a backbone, of a complete one from `build_frozen`.

    Raises:
        UserError: settings that do not fit the backbone.
    """
    if backbone is None:
        assert isinstance(config.head, NativeHead)
        with torch.device("meta"):
            if not isinstance(config.prompt, PixelPrompt):
                return None, nn.Identity()
            return PixelPrompts(config.prompt, config.head.size or 320), nn.Identity()
    head, tower = config.head, backbone.require_tower("patch grids")
    assert isinstance(head, OwlHead | PyramidHead)
    _check_head(head, backbone)
    width = 0
    if isinstance(head, OwlHead):
        assert backbone.text is not None
        width = backbone.text.features(["a"]).shape[1]
    with torch.device("meta"):
        prompt = token_prompt(config, tower)
        if isinstance(head, OwlHead):
            made = nn.Module()
            made.owl = owl.OwlHead(tower.width, width)
            return prompt, made
        return prompt, PyramidDetection(head, tower.width, len(classes), tower.patch[0])


def token_prompt(config: RunConfig, tower: Tower) -> TokenPrompts | None:
    """The token prompt of a run, or None.

    Raises:
        UserError: the prompt needs images of one size.
    """
    if not isinstance(config.prompt, TokenPrompt):
        return None
    prompt = build_tokens(config.prompt, Shape.of(tower))
    if not prompt.any_size:
        raise UserError(
            f"prompt={config.prompt.kind} needs images of one size; choose another token prompt for task={config.task}"
        )
    return prompt


def _check_head(head: OwlHead | PyramidHead, backbone: Backbone) -> None:
    """Refuse unknown scales, and image sizes with too many patches for attention."""
    scales = [] if isinstance(head, OwlHead) else head.scales
    if wrong := [scale for scale in scales if scale not in SCALES]:
        raise UserError(f"head.scales has {wrong[0]}; known: {', '.join(map(str, SCALES))}")
    short = head.size or 2 * backbone.preprocess.size
    height, width = backbone.require_tower("patch grids").patch
    if (patches := short * int(short * head.longest) // (height * width)) > 2 * MOST_PATCHES:
        raise UserError(
            f"images of {short} pixels, up to {head.longest:g} times as long, make {patches} patches of "
            f"{backbone.name}; {2 * MOST_PATCHES} are the most: lower head.size or head.longest"
        )


def tap_layers(taps: Sequence[int], depth: int) -> list[int]:
    """The layers named by `head.taps`, counted from 0, in ascending order.

    Raises:
        UserError: one that does not exist, or is named twice.

    >>> tap_layers([-1, 2], 12)
    [2, 11]
    """
    found = sorted({tap + depth if tap < 0 else tap for tap in taps})
    if found[0] < 0 or found[-1] >= depth:
        raise UserError(f"head.taps={list(taps)}: the backbone has layers 0 to {depth - 1}; -1 is the last")
    if len(found) < len(taps):
        raise UserError(f"head.taps={list(taps)} names a layer twice; -1 is layer {depth - 1}")
    return found


def _owl(config: OwlHead, backbone: Backbone, classes: Sequence[str]) -> OwlDetection:
    assert backbone.text is not None
    templates = read_templates(config.templates)
    text = class_features(backbone.text, backbone.fingerprint, classes, templates)
    tower = backbone.require_tower("patch grids")
    projection = getattr(backbone.net, "proj", None)
    start = projection.detach() if isinstance(projection, Tensor) else None
    if start is not None and tuple(start.shape) != (tower.width, text.shape[1]):
        start = None
    return OwlDetection(config, owl.OwlHead(tower.width, text.shape[1], start), text, tower.patch[0], templates)
