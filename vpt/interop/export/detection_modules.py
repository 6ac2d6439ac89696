"""Traceable candidate detection for a uint8 image of fixed size; constants that depend on sizes are computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert

from vpt.heads.detection.torchvision import first_label
from vpt.interop.export.nms import Candidates, Rule
from vpt.interop.export.torchvision_detection import Shape, anchors_of, candidates, least_of, rule_of
from vpt.models.detection.detector import Detector, OwlDetection, PyramidDetection
from vpt.models.detection.frozen_detector import FrozenDetector


class Finder(nn.Module):
    """Candidate boxes for a uint8 image (3, h, w).

    Args:
        rule: selection of the final boxes; boxes are in pixels of its shape.
        classes: class of the task for each label; -1 if there is none.
        least: minimum score of candidates.
    """

    def __init__(self, rule: Rule, classes: Tensor, least: float) -> None:
        super().__init__()
        self.rule, self.least = rule, least
        self.classes: Tensor
        self.register_buffer("classes", classes, persistent=False)


class Grids(nn.Module):
    """Patch grids (1, C, h, w) of a uint8 image (3, H, W) of fixed size, padded to whole patches.

    Args:
        model: the detector, whose prompt becomes constant keys and values.
        shape: height and width of the image.
        patch: patch size in pixels.
    """

    def __init__(self, model: Detector, shape: Shape, patch: int) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.normalise, self.steps, self.taps = model.normalise, model.steps, model.taps
        self.layers = model.layers(model.steps)
        self.margin = (0, -shape[1] % patch, 0, -shape[0] % patch)
        self.padded = (shape[0] + self.margin[3], shape[1] + self.margin[1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """One grid for each layer that is used."""
        images = F.pad(self.normalise(image), self.margin)[None]
        return self.backbone.grids(images, self.steps, self.taps, self.layers)


class PyramidFinder(Finder):
    """torchvision's heads on a pyramid."""

    def __init__(self, model: Detector, head: PyramidDetection, shape: Shape) -> None:
        net: Any = head.detector
        rule = rule_of(net, shape)
        super().__init__(rule, torch.arange(rule.labels) - first_label(net), least_of(net))
        self.grids, self.pyramid, self.net = Grids(model, shape, net.transform.size_divisible), head.pyramid, net
        features = self.pyramid(self.grids(torch.zeros(3, *shape, dtype=torch.uint8)))
        self.anchors = anchors_of(net, self.grids.padded, shape, features)

    def forward(self, image: Tensor) -> Candidates:
        """Boxes in pixels of the image."""
        return candidates(self.net, self.pyramid(self.grids(image)), self.anchors, self.rule.shape)


class OwlFinder(Finder):
    """Open-vocabulary head with constant text features."""

    def __init__(self, model: Detector, head: OwlDetection, shape: Shape) -> None:
        grids = Grids(model, shape, head.patch)
        labels = len(head.text)
        rule = Rule(head.config.overlap, head.config.boxes, labels, shape, max(grids.padded))
        super().__init__(rule, torch.arange(labels), head.config.score)
        self.grids, self.owl, self.text = grids, head.owl, head.text
        self.scale = torch.tensor([*grids.padded[::-1]] * 2)

    def forward(self, image: Tensor) -> Candidates:
        """Boxes in pixels of the image, padding included."""
        shares, logits = self.owl(self.grids(image)[-1], self.text)
        scores = logits[0].float().sigmoid()
        rows, labels = (scores >= self.least).nonzero(as_tuple=True)
        corners = box_convert(shares[0, rows].float(), "cxcywh", "xyxy").clamp(0, 1) * self.scale
        return Candidates(corners, scores[rows, labels], labels)


class NativeFinder(Finder):
    """A complete torchvision detector with a pixel prompt; its boxes are in pixels of the resized image."""

    def __init__(self, model: FrozenDetector, shape: Shape) -> None:
        net: Any = model.backbone.net
        images, _ = net.transform([model.prompted(torch.zeros(3, *shape, dtype=torch.uint8))])
        features = net.backbone(images.tensors)
        rule = rule_of(net, images.image_sizes[0])
        classes = torch.full((rule.labels,), -1)
        # In reverse order: of classes with the same label, the first one counts.
        for place, label in reversed(list(enumerate(model.labels.tolist()))):
            classes[label] = place
        super().__init__(rule, classes, least_of(net))
        self.model = model
        self.anchors = anchors_of(net, images.tensors.shape[2:], rule.shape, features)

    def forward(self, image: Tensor) -> Candidates:
        """Boxes in pixels of the resized image."""
        net: Any = self.model.backbone.net
        images, _ = net.transform([self.model.prompted(image)])
        return candidates(net, net.backbone(images.tensors), self.anchors, self.rule.shape)


def finder_of(model: Detector | FrozenDetector, shape: Shape) -> Finder:
    """The finder of a detector for images of a fixed height and width, in pixels.

    Raises:
        UserError: a detector that cannot be traced.
    """
    if isinstance(model, FrozenDetector):
        return NativeFinder(model, shape)
    if isinstance(model.head, OwlDetection):
        return OwlFinder(model, model.head, shape)
    assert isinstance(model.head, PyramidDetection)
    return PyramidFinder(model, model.head, shape)
