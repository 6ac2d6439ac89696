"""Mean average precision, by torchmetrics over the COCO evaluation of faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from vpt.utils.errors import NotFinite, UserError
from vpt.utils.version import install

KEYS = {
    "map": "map",
    "map_50": "map50",
    "map_75": "map75",
    "map_small": "map_small",
    "map_medium": "map_medium",
    "map_large": "map_large",
    "mar_100": "recall",
}
TINY = 1e-6  # pixels
Found = dict[str, Tensor]  # boxes, scores and labels of an image

ClassMetrics = TypedDict("ClassMetrics", {"class": str, "map": float | None, "boxes": int})  # "class" is a keyword


class DetectionMetrics(TypedDict):
    """COCO's metrics of a split; those of classes or sizes without boxes are None."""

    map: float | None
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    recall: float | None
    per_class: list[ClassMetrics]
    images: int
    boxes: int
    precision: dict[str, list[float]]
    best_f1: NotRequired[float]  # at an overlap of 0.5, and the score of boxes that gives it
    best_f1_score: NotRequired[float]


def require_metrics() -> None:
    """Raise a UserError if the packages that evaluate boxes are not installed; called before training."""
    missing = [name for name in ("torchmetrics", "faster_coco_eval") if find_spec(name) is None]
    if missing:
        raise UserError(f"evaluating boxes needs {' and '.join(missing)}: {install('detection')}")


def detection_metrics(
    predicted: Sequence[dict[str, Tensor]], wanted: Sequence[dict[str, Tensor]], classes: Sequence[str]
) -> DetectionMetrics:
    """COCO's metrics of boxes, from 0 to 1; metrics of classes or sizes without boxes are None.

    Args:
        predicted: for each image boxes (n, 4) x1, y1, x2, y2 in pixels, scores (n,), labels (n,).
        wanted: for each image boxes, labels and iscrowd; and area (n,) of the objects in pixels, which decides their
            size class as in COCO's files; default: the areas of the boxes.
        classes: names.

    Returns:
        map over overlaps of 0.5 to 0.95, map50, map75, by size of boxes, recall, per class, and precision by recall.

    Raises:
        UserError: torchmetrics or faster-coco-eval is not installed.
        NotFinite: boxes or scores that are not finite; the evaluation would count them as correct.
    """
    bad = sum(not all(torch.isfinite(image[key]).all() for key in ("boxes", "scores")) for image in predicted)
    if bad:
        raise NotFinite(f"{bad} of {len(predicted)} images have boxes or scores that are not finite")
    require_metrics()
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        backend="faster_coco_eval",
        class_metrics=True,
        extended_summary=True,
        # torchmetrics' default recalls are float32, and put a recall of exactly 0.6 below a threshold of 0.6.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
    )
    metric.warn_on_many_detections = False
    metric.update([dict(image) for image in predicted], [_with_areas(image) for image in wanted])
    found = metric.compute()
    present = found["classes"].flatten().tolist()
    by_class = found["map_per_class"].flatten().tolist()
    counts = torch.zeros(len(classes), dtype=torch.int64)
    for image in wanted:
        counts += torch.bincount(image["labels"].cpu(), minlength=len(classes))
    rows = {label: value for label, value in zip(present, by_class, strict=True) if value >= 0}
    return {
        **{ours: _number(found[theirs]) for theirs, ours in KEYS.items()},  # type: ignore[typeddict-item]
        "per_class": [
            {"class": name, "map": rows.get(number), "boxes": int(counts[number])}
            for number, name in enumerate(classes)
        ],
        "images": len(wanted),
        "boxes": int(counts.sum()),
        "precision": _curve(found["precision"]),
    }


def _with_areas(image: dict[str, Tensor]) -> dict[str, Tensor]:
    """True boxes in the format of torchmetrics. It would replace an area of 0, which COCO counts as small, by the area
    of the box."""
    if "area" not in image:
        return dict(image)
    return {**image, "area": image["area"].double().clamp(min=TINY)}


def _number(value: Tensor) -> float | None:
    """A metric, or None: COCO returns -1 if there is nothing to measure."""
    return None if float(value) < 0 else float(value)


def _curve(precision: Tensor) -> dict[str, list[float]]:
    """Precision at 101 recalls, averaged over classes, at overlaps 0.5, 0.75 and averaged over all overlaps."""
    # (overlaps, recalls, classes, areas, counts): all areas, 100 boxes.
    whole = precision[:, :, :, 0, -1]
    whole = torch.where(whole < 0, torch.nan, whole)

    def mean(part: Tensor) -> list[float]:
        return torch.nan_to_num(torch.nanmean(part.flatten(1), dim=1)).tolist()

    return {
        "0.50": mean(whole[0]),
        "0.75": mean(whole[5]),
        "mean": mean(whole.permute(1, 0, 2)),
    }
