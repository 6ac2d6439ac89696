"""Post-processing of torchvision's detectors for one image, in traceable operators.

torchvision keeps the boxes above a threshold and selects the best of them; here the best are selected first, whose
number is fixed, and the threshold is applied after. The boxes are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image, roi_align
from torchvision.ops.poolers import initLevelMapper

from vpt.interop.export.integer_division import quotient
from vpt.interop.export.nms import Candidates, Rule, best
from vpt.utils.errors import UserError

KINDS = (FCOS, RetinaNet, SSD, FasterRCNN)
ROI_LEAST = 1e-2  # pixels; size of an empty box in torchvision's second stage
Shape = tuple[int, int]


def anchors_of(net: Any, padded: Shape, shape: Shape, features: dict[str, Tensor]) -> list[Tensor]:
    """Anchors (N, 4) of each level of a detector, which depend on sizes only.

    Args:
        net: one of KINDS.
        padded: height and width of the batch that the features were computed from, in pixels.
        shape: height and width of the image in it.
        features: feature maps by level.

    Raises:
        UserError: another detector.
    """
    if not isinstance(net, KINDS):
        names = ", ".join(kind.__name__ for kind in KINDS)
        raise UserError(f"{type(net).__name__} cannot be exported; choose a detector that is one of {names}")
    levels = list(features.values())
    generator: Any = net.rpn.anchor_generator if isinstance(net, FasterRCNN) else net.anchor_generator
    (whole,) = generator(ImageList(torch.zeros(1, 3, *padded), [shape]), levels)
    counts = generator.num_anchors_per_location()
    return list(whole.split([count * level[0, 0].numel() for count, level in zip(counts, levels, strict=True)]))


def labels_of(net: Any) -> int:
    """Number of labels of a detector, counted from 0 and including its background.

    >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    >>> labels_of(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5))
    5
    """
    if isinstance(net, FasterRCNN):
        return int(net.roi_heads.box_predictor.cls_score.out_features)
    if isinstance(net, SSD):
        return int(net.head.classification_head.num_columns)
    return int(net.head.classification_head.num_classes)


def least_of(net: Any) -> float:
    """Minimum score of a detector's boxes.

    >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    >>> least_of(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
    0.001
    """
    return float(_last_part(net).score_thresh)


def rule_of(net: Any, shape: Shape) -> Rule:
    """Selection rule of a detector for an image of that height and width."""
    part = _last_part(net)
    return Rule(float(part.nms_thresh), int(part.detections_per_img), labels_of(net), shape, max(shape))


def _last_part(net: Any) -> Any:
    return net.roi_heads if isinstance(net, FasterRCNN) else net


def candidates(net: Any, features: dict[str, Tensor], anchors: Sequence[Tensor], shape: Shape) -> Candidates:
    """Candidates of one image, with boxes in its pixels.

    Args:
        net: one of KINDS, in evaluation mode.
        features: (1, C, h, w) by level.
        anchors: anchors of each level, from `anchors_of`.
        shape: height and width of the image.
    """
    if isinstance(net, FasterRCNN):
        return _second_stage(net, features, _proposals(net, features, anchors, shape), shape)
    heads = net.head(list(features.values()))
    if isinstance(net, SSD):
        return _by_class(net, heads, torch.cat(list(anchors)), shape)
    return _by_level(net, heads, anchors, shape)


def _by_level(net: Any, heads: dict[str, Tensor], anchors: Sequence[Tensor], shape: Shape) -> Candidates:
    """FCOS and RetinaNet: the best pairs of anchor and class in each level."""
    sizes = [len(some) for some in anchors]
    scores = heads["cls_logits"][0].sigmoid()
    if isinstance(net, FCOS):
        scores = (scores * heads["bbox_ctrness"][0].sigmoid()).sqrt()
    decode = net.box_coder.decode if isinstance(net, FCOS) else net.box_coder.decode_single
    parts = []
    for some, shifts, chance in zip(
        anchors, heads["bbox_regression"][0].split(sizes), scores.split(sizes), strict=True
    ):
        values, pairs = chance.flatten().topk(min(net.topk_candidates, chance.numel()))
        places = quotient(pairs, chance.shape[1])
        boxes = clip_boxes_to_image(decode(shifts[places], some[places]), shape)
        parts.append((boxes, values, pairs - places * chance.shape[1]))
    boxes, values, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return Candidates(boxes, values, labels).where(values > net.score_thresh)


def _by_class(net: Any, heads: dict[str, Tensor], anchors: Tensor, shape: Shape) -> Candidates:
    """SSD: the best anchors of each class, the first of which is the background."""
    boxes = clip_boxes_to_image(net.box_coder.decode_single(heads["bbox_regression"][0], anchors), shape)
    scores = heads["cls_logits"][0].softmax(-1).T[1:]
    values, places = scores.topk(min(net.topk_candidates, scores.shape[1]), dim=1)
    labels = torch.arange(1, len(scores) + 1)[:, None].expand_as(values).flatten()
    values = values.flatten()
    return Candidates(boxes[places.flatten()], values, labels).where(values > net.score_thresh)


def _proposals(net: Any, features: dict[str, Tensor], anchors: Sequence[Tensor], shape: Shape) -> Tensor:
    """Faster R-CNN's first stage: class-agnostic boxes (n, 4)."""
    rpn = net.rpn
    objectness, shifts = concat_box_prediction_layers(*rpn.head(list(features.values())))
    chance = objectness.flatten().sigmoid()
    boxes = rpn.box_coder.decode_single(shifts, torch.cat(list(anchors)))
    order, levels, start = [], [], 0
    for level, some in enumerate(anchors):
        # By logits, as in torchvision: many sigmoids are rounded to one.
        places = objectness.flatten()[start : start + len(some)].topk(min(rpn.pre_nms_top_n(), len(some))).indices
        order.append(places + start)
        levels.append(torch.full_like(places, level))
        start += len(some)
    places = torch.cat(order)
    boxes, chance = clip_boxes_to_image(boxes[places], shape), chance[places]
    kept = (boxes[:, 2:] - boxes[:, :2] >= rpn.min_size).all(1) & (chance >= rpn.score_thresh)
    rule = Rule(float(rpn.nms_thresh), rpn.post_nms_top_n(), len(anchors), shape, max(shape))
    return best(Candidates(boxes, chance, torch.cat(levels)).where(kept), rule).boxes


def _second_stage(net: Any, features: dict[str, Tensor], proposals: Tensor, shape: Shape) -> Candidates:
    """Faster R-CNN's second stage: every proposal as a box of every class except the background."""
    heads = net.roi_heads
    rows = _pooled(heads.box_roi_pool, features, proposals, shape)
    logits, shifts = heads.box_predictor(heads.box_head(rows))
    scores = logits.softmax(-1)[:, 1:]
    boxes = heads.box_coder.decode_single(shifts, proposals).unflatten(1, (-1, 4))[:, 1:]
    boxes = clip_boxes_to_image(boxes, shape).flatten(0, 1)
    labels = torch.arange(1, scores.shape[1] + 1).expand_as(scores).flatten()
    real = (boxes[:, 2:] - boxes[:, :2] >= ROI_LEAST).all(1)
    scores = scores.flatten()
    return Candidates(boxes, scores, labels).where(real & (scores > heads.score_thresh))


def _pooled(pool: Any, features: dict[str, Tensor], boxes: Tensor, shape: Shape) -> Tensor:
    """MultiScaleRoIAlign, (n, C, side, side): computes every level for every box, and selects each box's own level.

    torchvision gathers the boxes of each level instead, whose number is not fixed.
    """
    maps = [features[name] for name in pool.featmap_names if name in features]
    scales = [2.0 ** round(math.log2(each.shape[2] / shape[0])) for each in maps]
    rows = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], dim=1)
    every = [
        roi_align(each, rows, pool.output_size, scale, pool.sampling_ratio)
        for each, scale in zip(maps, scales, strict=True)
    ]
    if len(maps) == 1:
        return every[0]
    first, last = (round(-math.log2(scale)) for scale in (scales[0], scales[-1]))
    levels = initLevelMapper(first, last, pool.canonical_scale, pool.canonical_level)([boxes])[:, None, None, None]
    chosen = every[0]
    for number, each in enumerate(every[1:], 1):
        chosen = torch.where(levels == number, each, chosen)
    return chosen
