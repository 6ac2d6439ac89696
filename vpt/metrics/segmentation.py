"""Metrics of segmentation, from counts of each image: IoU, Dice, pixel accuracy and boundary F."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from vpt.data.segmentation.dataset import IGNORE

TOLERANCE = 0.0075  # of the image's diagonal, in pixels: DAVIS (Perazzi et al. 2016), and Csurka et al. 2013


@dataclass(frozen=True)
class SegmentationMetrics:
    """Metrics from 0 to 1. Classes that are neither in the masks nor predicted have nan and count in no mean.

    Args:
        classes: names.
        miou: mean intersection over union.
        iou: of each class.
        mean_dice: mean Dice coefficient.
        dice: of each class.
        pixel_accuracy: fraction of pixels that are correct.
        mean_accuracy: mean over the classes of the masks of the fraction of their pixels that are correct.
        boundary_f: mean of `boundary` over classes; nan if boundaries were not compared.
        boundary: mean boundary F of each class, over the images in which it occurs or is predicted.
        confusion: pixels by true class (rows) and predicted class.
        image_miou: mean IoU of each image, over the classes that occur or are predicted in it.
    """

    classes: tuple[str, ...]
    miou: float
    iou: tuple[float, ...]
    mean_dice: float
    dice: tuple[float, ...]
    pixel_accuracy: float
    mean_accuracy: float
    boundary_f: float
    boundary: tuple[float, ...]
    confusion: np.ndarray
    image_miou: tuple[float, ...]


ClassMetrics = TypedDict(
    "ClassMetrics",  # "class" is a keyword
    {"class": str, "iou": float | None, "dice": float | None, "boundary": float | None, "pixels": int},
)


class SplitMetrics(TypedDict):
    """Metrics of a split in metrics.json; undefined ones are None. `loss` is the cross-entropy of a pixel."""

    miou: float | None
    mean_dice: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    boundary_f: float | None
    loss: float
    per_class: list[ClassMetrics]
    images: int
    confusion: list[list[int]]


def split_metrics(found: SegmentationMetrics, loss: float) -> SplitMetrics:
    """The metrics of a split as plain values for JSON.

    Args:
        found: the metrics.
        loss: cross-entropy, averaged over pixels.

    >>> meter = SegmentationMeter(["sky", "road", "sea"])
    >>> _ = meter.update(np.array([[0, 1]]), np.array([[0, 0]]))
    >>> [row["iou"] for row in split_metrics(meter.result(), 0.5)["per_class"]]
    [0.5, 0.0, None]
    """
    pixels = found.confusion.sum(1).tolist()
    rows = zip(found.classes, found.iou, found.dice, found.boundary, pixels, strict=True)
    return {
        "miou": _defined(found.miou),
        "mean_dice": _defined(found.mean_dice),
        "pixel_accuracy": _defined(found.pixel_accuracy),
        "mean_accuracy": _defined(found.mean_accuracy),
        "boundary_f": _defined(found.boundary_f),
        "loss": loss,
        "per_class": [
            {"class": name, "iou": _defined(iou), "dice": _defined(dice), "boundary": _defined(edge), "pixels": count}
            for name, iou, dice, edge, count in rows
        ],
        "images": len(found.image_miou),
        "confusion": found.confusion.tolist(),
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


class SegmentationMeter:
    """Accumulates predictions, image by image.

    Args:
        classes: names.
        boundaries: also compare boundaries.
        tolerance: distance at which boundaries match, as a fraction of the image's diagonal.

    >>> meter = SegmentationMeter(["sky", "road"])
    >>> _ = meter.update(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 255]]))
    >>> [round(value, 3) for value in meter.result().iou]
    [0.667, 0.0]
    """

    def __init__(self, classes: Sequence[str], boundaries: bool = True, tolerance: float = TOLERANCE) -> None:
        self.classes = tuple(classes)
        self.boundaries = boundaries
        self.tolerance = tolerance
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)
        self.image_miou: list[float] = []
        self._boundary = np.zeros((2, len(classes)))  # sums of F, and numbers of images

    def update(self, predicted: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Add an image: predicted classes (H, W), and its mask (H, W) of classes and `IGNORE`. Returns its confusion
        matrix.

        Raises:
            ValueError: shapes that differ, or values that are no class.
        """
        if predicted.shape != wanted.shape:
            raise ValueError(f"predicted {predicted.shape}, wanted {wanted.shape}")
        counts = confusion_matrix(predicted, wanted, len(self.classes))
        self.confusion += counts
        self.image_miou.append(_mean(iou(counts)))
        if self.boundaries:
            there = np.flatnonzero(counts.sum(0) + counts.sum(1))
            for label in there.tolist():
                score = boundary_f(predicted == label, wanted == label, wanted == IGNORE, self.tolerance)
                if not math.isnan(score):
                    self._boundary[:, label] += score, 1
        return counts

    def merge(self, other: SegmentationMeter) -> None:
        """Add the images of another meter, as of another process."""
        self.confusion += other.confusion
        self.image_miou += other.image_miou
        self._boundary += other._boundary

    def result(self) -> SegmentationMetrics:
        """The metrics of all images so far."""
        overlaps, coefficients = iou(self.confusion), dice(self.confusion)
        correct, true = np.diag(self.confusion), self.confusion.sum(1)
        with np.errstate(invalid="ignore"):
            boundary = self._boundary[0] / self._boundary[1]
            recall = correct / true
            accuracy = correct.sum() / true.sum()
        return SegmentationMetrics(
            classes=self.classes,
            miou=_mean(overlaps),
            iou=tuple(overlaps.tolist()),
            mean_dice=_mean(coefficients),
            dice=tuple(coefficients.tolist()),
            pixel_accuracy=float(accuracy),
            mean_accuracy=_mean(recall),
            boundary_f=_mean(boundary),
            boundary=tuple(boundary.tolist()),
            confusion=self.confusion.copy(),
            image_miou=tuple(self.image_miou),
        )


def confusion_matrix(predicted: np.ndarray, wanted: np.ndarray, classes: int) -> np.ndarray:
    """Pixels (K, K) by true class (rows) and predicted class, without ignored ones.

    Raises:
        ValueError: values that are no class.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 255]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    counted = wanted != IGNORE
    true, found = (part[counted].astype(np.int64) for part in (wanted, predicted))
    if len(true) and (max(true.max(), found.max()) >= classes or min(true.min(), found.min()) < 0):
        raise ValueError(f"classes of {classes} must be 0 to {classes - 1}, or {IGNORE} in the mask")
    return np.bincount(true * classes + found, minlength=classes * classes).reshape(classes, classes)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class; nan for classes that do not occur.

    >>> iou(np.array([[1, 1], [0, 2]])).round(3).tolist()
    [0.5, 0.667]
    """
    both = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        return both / (confusion.sum(0) + confusion.sum(1) - both)


def dice(confusion: np.ndarray) -> np.ndarray:
    """Dice coefficient (F1) of each class; nan for classes that do not occur.

    >>> dice(np.array([[1, 1], [0, 2]])).round(3).tolist()
    [0.667, 0.8]
    """
    with np.errstate(invalid="ignore"):
        return 2 * np.diag(confusion) / (confusion.sum(0) + confusion.sum(1))


def boundary_f(predicted: np.ndarray, wanted: np.ndarray, ignored: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """F of the boundary pixels of two masks (H, W) bool: the harmonic mean of the fraction of predicted ones near a
    true one, and of true ones near a predicted one. Near is within `tolerance` of the diagonal, at least a pixel.

    A pixel of a mask is a boundary pixel if a pixel beside, above or below it belongs to something else. Ignored pixels
    are no boundary and make none. Nan if neither mask has a boundary.

    >>> one = np.zeros((8, 16), bool)
    >>> one[2:5, 2:5] = True
    >>> boundary_f(one, one, np.zeros_like(one)), boundary_f(one, np.roll(one, 8, 1), np.zeros_like(one))
    (1.0, 0.0)
    """
    import cv2

    near = max(1.0, tolerance * math.hypot(*predicted.shape))
    edges = [_boundary(mask & ~ignored, ignored) for mask in (predicted, wanted)]
    counts = [int(edge.sum()) for edge in edges]
    if not any(counts):
        return math.nan
    if not all(counts):
        return 0.0
    hits = []
    for edge, other in (edges, edges[::-1]):
        distance = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        hits.append(float((distance[edge] <= near).mean()))
    precision, recall = hits
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a neighbour, of four, that belongs neither to it nor to what is ignored."""
    same = np.pad(mask | ignored, 1, constant_values=True)
    inner = same[:-2, 1:-1] & same[2:, 1:-1] & same[1:-1, :-2] & same[1:-1, 2:]
    return mask & ~inner


def _mean(values: np.ndarray) -> float:
    """The mean of those that are not nan; nan if all are."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan
