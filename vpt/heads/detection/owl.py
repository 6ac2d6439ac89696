"""Open-vocabulary head: every patch predicts a box, scored by text features (OWL-ViT, Minderer et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert, generalized_box_iou, sigmoid_focal_loss

COST = {"class": 1.0, "box": 5.0, "overlap": 2.0}  # matching costs and loss weights (DETR's, as OWL-ViT uses)


class OwlHead(nn.Module):
    """Predicts a box and class scores for every patch.

    Args:
        width: number of channels C of patch features.
        text: width D of text features.
        start: (C, D) initial projection to the text space, CLIP's own; None for a random one.

    >>> boxes, scores = OwlHead(8, 4)(torch.zeros(2, 8, 3, 5), torch.eye(4)[:3])
    >>> boxes.shape, scores.shape
    (torch.Size([2, 15, 4]), torch.Size([2, 15, 3]))
    """

    def __init__(self, width: int, text: int, start: Tensor | None = None) -> None:
        super().__init__()
        self.words = nn.Linear(width, text)
        self.shift = nn.Linear(width, 1)
        self.scale = nn.Linear(width, 1)
        self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.corners = nn.Linear(width, 4)
        nn.init.zeros_(self.corners.weight)
        nn.init.zeros_(self.corners.bias)
        nn.init.zeros_(self.shift.weight)
        nn.init.constant_(self.shift.bias, -0.3)  # few patches contain an object, so initial scores are low
        nn.init.zeros_(self.scale.weight)
        nn.init.constant_(self.scale.bias, 10.0)
        if start is not None:
            with torch.no_grad():
                self.words.weight.copy_(start.T)
                self.words.bias.zero_()

    def forward(self, grid: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, h*w, 4) as centre, width, height in fractions of the image, and logits (B, h*w, K).

        Args:
            grid: patch features (B, C, h, w).
            text: normalised text features (K, D).
        """
        height, width = grid.shape[2:]
        patches = grid.flatten(2).transpose(1, 2)
        likeness = F.normalize(self.words(patches), dim=-1) @ text.to(patches.dtype).T
        # ELU plus one keeps the scale positive.
        scores = (likeness + self.shift(patches)) * (F.elu(self.scale(patches)) + 1)
        boxes = (self.corners(self.box(patches)) + _places(height, width, grid)).sigmoid()
        return boxes, scores


def _places(height: int, width: int, like: Tensor) -> Tensor:
    """Initial boxes before the sigmoid: centred on their patch, two patches wide, (h*w, 4)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = torch.stack([(x.flatten() + 0.5) / width, (y.flatten() + 0.5) / height], dim=1)
    size = torch.tensor([2 / width, 2 / height]).clamp_max(0.9).expand_as(centre)
    return torch.logit(torch.cat([centre, size], dim=1)).to(like)


def owl_loss(boxes: Tensor, scores: Tensor, wanted: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Focal loss of scores and L1 and generalised IoU losses of boxes, after one-to-one matching.

    Args:
        boxes: (B, N, 4) centre, width and height in fractions of the image.
        scores: (B, N, K) logits.
        wanted: true boxes (n, 4) of each image in the same format.
        labels: (n,) for each image.
    """
    truth = torch.zeros_like(scores)
    regression = overlap = scores.sum() * 0.0
    count = max(1, sum(len(some) for some in wanted))
    for image, (some, names) in enumerate(zip(wanted, labels, strict=True)):
        if not len(some):
            continue
        rows, columns = match(boxes[image], scores[image], some, names)
        truth[image, rows, names[columns]] = 1.0
        mine, theirs = boxes[image, rows], some[columns].to(boxes.dtype)
        regression = regression + (mine - theirs).abs().sum()
        shared = generalized_box_iou(_corners(mine), _corners(theirs)).diagonal()
        overlap = overlap + (1 - shared).sum()
    focal = sigmoid_focal_loss(scores.float(), truth.float(), alpha=0.25, gamma=2.0, reduction="sum")
    return (COST["class"] * focal + COST["box"] * regression + COST["overlap"] * overlap) / count


@torch.no_grad()
def match(boxes: Tensor, scores: Tensor, wanted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum-cost one-to-one matching of predicted boxes (N, 4) and true boxes (n, 4): indices of both."""
    from scipy.optimize import linear_sum_assignment  # only for training; takes half a second to import

    chance = scores[:, labels].float().sigmoid()
    cost = -COST["class"] * chance
    cost = cost + COST["box"] * torch.cdist(boxes.float(), wanted.float(), p=1)
    cost = cost - COST["overlap"] * generalized_box_iou(_corners(boxes.float()), _corners(wanted.float()))
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


@torch.no_grad()
def best_boxes(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], least: float, overlap: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (n, 4) in pixels, labels and scores of one image, highest score first.

    Args:
        boxes: (N, 4) in fractions of the image.
        scores: (N, K) logits.
        size: height and width in pixels.
        least: minimum score.
        overlap: IoU threshold of non-maximum suppression within a class.
        count: maximum number of boxes.
    """
    chance = scores.float().sigmoid()
    rows, labels = (chance >= least).nonzero(as_tuple=True)
    found = chance[rows, labels]
    scale = torch.tensor([size[1], size[0]] * 2, device=boxes.device)
    corners = _corners(boxes[rows].float()).clamp(0, 1) * scale
    kept = batched_nms(corners, found, labels, overlap)[:count]
    return corners[kept], labels[kept], found[kept]
