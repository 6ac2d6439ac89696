"""A frozen torchvision detector with a pixel prompt: only the input pixels are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.backbone import Backbone
from vpt.backbones.builtin_names import TORCHVISION
from vpt.backbones.fingerprint import fingerprint
from vpt.backbones.state_dict import load_strictly, no_weights, seeded
from vpt.backbones.weight_files import read_weights
from vpt.config import BackboneConfig, NativeHead, NoPrompt, PixelPrompt, RunConfig
from vpt.data.detection.transforms import Target
from vpt.data.normalization import Preprocess
from vpt.heads.detection.divided_batch import DividedBatch, divide_losses
from vpt.models.base import Prompted
from vpt.models.detection.same_size_batches import each_with_its_like
from vpt.prompts.pixel.prompt import PixelPrompts, overlay
from vpt.utils.errors import UserError, nearest


class FrozenDetector(Prompted):
    """Finds boxes of the task's classes in uint8 images of any size.

    The prompt is a square that is resized to each image.

    Args:
        backbone: the complete detector.
        prompt: pixel prompt or None.
        classes: the detector's label of each class of the task.
    """

    def __init__(self, backbone: Backbone, prompt: PixelPrompts | None, classes: Sequence[int]) -> None:
        super().__init__(backbone, prompt, nn.Identity())
        self.labels: Tensor
        self.register_buffer("labels", torch.tensor(list(classes)), persistent=False)

    def prompted(self, image: Tensor) -> Tensor:
        """A uint8 image (3, h, w) with the prompt, as pixels from 0 to 1."""
        pixels = image.float() / 255
        if not isinstance(self.prompt, PixelPrompts):
            return pixels
        height, width = image.shape[1:]
        canvas, mask = self.prompt.canvas(1)
        side = self.prompt.side
        canvas = F.interpolate((canvas * mask).view(1, 3, side, side), (height, width), mode="bilinear")
        mask = F.interpolate(mask.view(1, 1, side, side), (height, width), mode="nearest")
        zero, one = torch.zeros(3, 1, 1, device=image.device), torch.ones(3, 1, 1, device=image.device)
        return overlay(pixels[None], canvas, mask, zero, one, "raw", self.prompt.config.squash)[0]

    def loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """The sum of the detector's own losses; its batch statistics do not change."""
        net: Any = self.backbone.net
        net.train()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        wanted = []
        for target in targets:
            kept = ~target.crowds
            wanted.append({"boxes": target.boxes[kept], "labels": self.labels[target.labels[kept]]})
        losses: dict[str, Tensor] = net([self.prompted(image) for image in images], wanted)
        net.eval()
        return torch.stack(list(losses.values())).sum()

    def divide(self, batch: DividedBatch) -> None:
        """Normalise the loss over the images of all processes."""
        divide_losses(self.backbone.net, batch)

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes (n, 4), labels (n,) and scores (n,) of uint8 images; other classes than the task's are ignored."""
        self.eval()
        net: Any = self.backbone.net
        found = []
        # SSD resizes images to one size; the others pad a batch to the largest image.
        fixed = net.transform.fixed_size
        for image in each_with_its_like(
            images,
            lambda image: fixed or tuple(image.shape[1:]),
            lambda some: net([self.prompted(image) for image in some]),
        ):
            place = (image["labels"][:, None] == self.labels[None]).long()
            kept = place.any(1)
            found.append(
                {"boxes": image["boxes"][kept], "scores": image["scores"][kept], "labels": place[kept].argmax(1)}
            )
        return found


def build_frozen(config: RunConfig, classes: Sequence[str]) -> FrozenDetector:
    """Load the detector and add a pixel prompt.

    Raises:
        UserError: the name does not exist, the weights are not available, or the detector does not have the classes.
    """
    assert isinstance(config.head, NativeHead)
    backbone, names = load_detector(config.backbone, config.head)
    labels = [_label(name, config.head.classes, names, backbone.name) for name in classes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        prompt: PixelPrompts | None = None
        if isinstance(config.prompt, PixelPrompt):
            if config.prompt.shrink or config.prompt.space != "raw":
                raise UserError("prompts of a detector are added to raw pixels; leave out shrink and space")
            prompt = PixelPrompts(config.prompt, config.head.size or 320)
        elif not isinstance(config.prompt, NoPrompt):
            raise UserError(f"head=native supports prompt=pixel or none, not {config.prompt.kind}")
    return FrozenDetector(backbone, prompt, labels)


def load_detector(config: BackboneConfig, head: NativeHead) -> tuple[Backbone, tuple[str, ...]]:
    """A frozen detector and the names of its labels."""
    from torchvision.models import detection as module
    from torchvision.models import get_model, get_model_weights, list_models

    name = config.name.removeprefix(TORCHVISION)
    known = list_models(module=module)
    if not config.name.startswith(TORCHVISION) or name not in known:
        choices = [TORCHVISION + each for each in known]
        raise UserError(
            f"head=native needs a torchvision detector{nearest(config.name, choices)}; known: {', '.join(choices)}"
        )
    weights = get_model_weights(name).DEFAULT
    wants_download = config.pretrained is not False and config.weights is None
    try:
        with seeded(config.seed):
            net = get_model(name, weights=weights if wants_download else None, weights_backbone=None)
    except Exception as error:
        raise no_weights(config, error) from error
    if config.weights is not None:
        load_strictly(net, read_weights(Path(config.weights)), config)
    net.transform.min_size = (head.size or 320,)
    net.transform.max_size = int(head.longest * (head.size or 320))
    last = getattr(net, "roi_heads", net)  # Faster R-CNN selects boxes in its second stage
    for key, value in (("score_thresh", head.score), ("nms_thresh", head.overlap), ("detections_per_img", head.boxes)):
        if value is not None:
            setattr(last, key, value)
    net.requires_grad_(False).eval()
    pre = Preprocess(head.size or 320, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    names = tuple(weights.meta["categories"])
    return Backbone(net, "torchvision", config.name, pre, fingerprint(net)), names


def _label(name: str, mapping: Mapping[str, str], names: Sequence[str], backbone: str) -> int:
    theirs = mapping.get(name, name)
    if theirs not in names:
        raise UserError(
            f"{backbone} has no class '{theirs}'{nearest(theirs, names)}; map it to one of its classes, "
            f"as in head.classes='{{{name}: dog}}'"
        )
    return list(names).index(theirs)
