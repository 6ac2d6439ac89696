"""Losses of segmentation against twins that go pixel by pixel, and against other libraries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from vpt.data.segmentation.dataset import IGNORE
from vpt.training.segmentation_losses import cross_entropy, dice, focal, segmentation_loss


def drawn(classes: int = 4, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    masks = torch.randint(0, classes - 1, (2, 5, 6), dtype=torch.uint8)  # the last class does not occur
    masks[torch.rand(masks.shape) < ignored] = IGNORE
    return (2 * torch.randn(2, classes, 5, 6)).requires_grad_(), masks


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0])


def slow_focal(scores: Tensor, masks: Tensor, gamma: float, weights: Tensor) -> float:
    total = count = 0.0
    for image, mask in zip(scores.detach(), masks, strict=True):
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                label = int(mask[row, column])
                if label != IGNORE:
                    likely = float(image[:, row, column].softmax(0)[label])
                    total += float(weights[label]) * (1 - likely) ** gamma * -math.log(likely)
                    count += float(weights[label])
    return total / count


def slow_dice(scores: Tensor, masks: Tensor) -> float:
    losses = []
    for label in range(scores.shape[1]):
        both = found = true = 0.0
        for image, mask in zip(scores.detach(), masks, strict=True):
            for row in range(mask.shape[0]):
                for column in range(mask.shape[1]):
                    if mask[row, column] != IGNORE:
                        likely = float(image[:, row, column].softmax(0)[label])
                        is_it = float(mask[row, column] == label)
                        both, found, true = both + likely * is_it, found + likely, true + is_it
        if true:
            losses.append(1 - 2 * both / (found + true))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_and_cross_entropy_pixel_by_pixel(gamma: float):
    scores, masks = drawn()
    loss = focal(scores, masks, gamma, WEIGHTS)
    assert loss.item() == pytest.approx(slow_focal(scores, masks, gamma, WEIGHTS), rel=1e-5)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad.movedim(1, -1)[masks == IGNORE].any()


def test_cross_entropy_is_torchs():
    scores, masks = drawn()
    for weights in (None, WEIGHTS):
        wanted = F.cross_entropy(scores, masks.long(), weights, ignore_index=IGNORE)
        torch.testing.assert_close(cross_entropy(scores, masks, weights), wanted)


def test_focal_is_torchvisions_for_two_classes():
    scores, masks = drawn(2, ignored=0)
    masks = (masks + torch.randint(0, 2, masks.shape)).to(torch.uint8)
    difference = scores[:, 1] - scores[:, 0]
    wanted = sigmoid_focal_loss(difference, masks.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(focal(scores, masks, 2.0), wanted)


def test_dice_pixel_by_pixel():
    scores, masks = drawn()
    assert dice(scores, masks).item() == pytest.approx(slow_dice(scores, masks), rel=1e-5)


def test_dice_of_certain_scores_is_one_minus_torchmetrics_f1():
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    scores, masks = drawn(ignored=0)
    certain = 100 * F.one_hot(scores.argmax(1), 4).movedim(-1, 1).float()
    each = metrics.multiclass_f1_score(scores.argmax(1), masks.long(), 4, average="none")
    assert float(dice(certain, masks)) == pytest.approx(1 - float(each[:3].mean()), rel=1e-5)


@pytest.mark.parametrize("term", ["cross_entropy", "dice", "focal"])
def test_a_batch_of_ignored_pixels_has_no_loss(term: str):
    scores, masks = drawn()
    loss = segmentation_loss([term], WEIGHTS)(scores, torch.full_like(masks, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_images_as_one_row_of_pixels_and_sums():
    scores, masks = drawn()
    whole = segmentation_loss(["cross_entropy", "dice", "focal"], WEIGHTS, 1.0)
    row = whole(scores.transpose(0, 1).flatten(1)[None], masks.flatten()[None])
    parts = cross_entropy(scores, masks, WEIGHTS) + dice(scores, masks) + focal(scores, masks, 1.0, WEIGHTS)
    torch.testing.assert_close(whole(scores, masks), parts)
    torch.testing.assert_close(row, parts)


def test_half_precision_is_computed_in_full():
    scores, masks = drawn()
    loss = segmentation_loss(["cross_entropy", "dice"])
    torch.testing.assert_close(loss(scores.bfloat16(), masks), loss(scores.bfloat16().float(), masks))
