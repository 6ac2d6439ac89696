"""torchvision's detectors on arbitrary features: FCOS, RetinaNet and Faster R-CNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from vpt.config import FasterHead, FcosHead, PyramidHead, RetinaHead
from vpt.config.heads import HEADS

Features = Callable[[Tensor], dict[str, Tensor]]


class _Link(nn.Module):
    """Takes the place of torchvision's backbone; the modules it calls are not its submodules."""

    def __init__(self, features: Features, channels: int) -> None:
        super().__init__()
        self.__dict__["features"] = features
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.__dict__["features"](images)
        return found


class AsTheyCome(GeneralizedRCNNTransform):
    """torchvision's batching without resizing and normalisation, which have been applied before."""

    def __init__(self, divisor: int) -> None:
        super().__init__(1, 1, [0.0] * 3, [1.0] * 3, size_divisible=divisor)

    def normalize(self, image: Tensor) -> Tensor:
        """Return the image unchanged."""
        return image

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return the image and target unchanged."""
        return image, target


def build_torchvision(
    config: PyramidHead, features: Features, classes: int, strides: Sequence[float], divisor: int
) -> nn.Module:
    """Create a torchvision detector on `features` of a batch of normalised images.

    Args:
        config: settings of the head.
        features: normalised images (B, 3, H, W) to maps (B, channels, h, w) by name, "0" being the finest.
        classes: number of classes of the task; torchvision's own numbering is hidden by `first_label`.
        strides: strides of the maps in pixels.
        divisor: height and width of a batch are padded to multiples of it.

    Raises:
        UserError: a plug-in that fails.
    """
    detector: Any = HEADS.built(config, _Link(features, config.channels), classes, strides)
    detector.transform = AsTheyCome(divisor)
    return detector


def fcos(config: FcosHead, link: nn.Module, classes: int, strides: Sequence[float]) -> FCOS:
    """The detector of `head=fcos`."""
    anchors = AnchorGenerator(tuple((int(stride),) for stride in strides), ((1.0,),) * len(strides))
    return FCOS(
        link,
        classes,
        anchor_generator=anchors,
        head=FCOSHead(config.channels, 1, classes, config.convs),
        score_thresh=config.score,
        nms_thresh=config.overlap,
        detections_per_img=config.boxes,
    )


def retinanet(config: RetinaHead, link: nn.Module, classes: int, strides: Sequence[float]) -> RetinaNet:
    """The detector of `head=retinanet`."""
    sizes = tuple(tuple(int(4 * stride * 2 ** (step / 3)) for step in range(3)) for stride in strides)
    return RetinaNet(
        link,
        classes,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        score_thresh=config.score,
        nms_thresh=config.overlap,
        detections_per_img=config.boxes,
    )


def faster_rcnn(config: FasterHead, link: nn.Module, classes: int, strides: Sequence[float]) -> FasterRCNN:
    """The detector of `head=faster_rcnn`."""
    sizes = tuple((int(8 * stride),) for stride in strides)
    names = [str(number) for number in range(min(4, len(strides)))]
    return FasterRCNN(
        link,
        classes + 1,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        box_score_thresh=config.score,
        box_nms_thresh=config.overlap,
        box_detections_per_img=config.boxes,
    )


def first_label(detector: nn.Module) -> int:
    """Label of the first class: Faster R-CNN reserves 0 for the background."""
    return 1 if isinstance(detector, FasterRCNN) else 0


def losses_of(detector: nn.Module, images: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
    """Sum of a detector's losses.

    Args:
        detector: in training mode.
        images: normalised, each (3, h, w).
        boxes: (n, 4) x1, y1, x2, y2 of each image, in pixels.
        labels: (n,) of each image, from 0.
    """
    first = first_label(detector)
    targets = [{"boxes": some, "labels": names + first} for some, names in zip(boxes, labels, strict=True)]
    losses: dict[str, Tensor] = detector(images, targets)
    return torch.stack(list(losses.values())).sum()
