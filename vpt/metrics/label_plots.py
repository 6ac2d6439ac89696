"""The distribution of labels: images or boxes of each class by split, and the sizes of boxes."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

from vpt.data.class_counts import WORDS
from vpt.data.dataset import SPLITS, LabelledData
from vpt.utils.bar_chart import MOST, bar_chart

EDGES = (8, 16, 32, 64, 96, 128, 256, 512)  # pixels; COCO's small boxes are below 32, its large ones from 96 on


def label_picture(data: LabelledData) -> np.ndarray:
    """Bars of the classes by split, and of the sizes of boxes if there are any; pixels (H, W, 3) uint8.

    >>> label_picture(LabelledData(("cat", "dog"), False, (), ())).shape[2]
    3
    """
    records = {split: data.split(split) for split in SPLITS}
    # By its field, because a run of another task does not import detection.
    boxes = any(hasattr(record, "boxes") for each in records.values() for record in each)
    counts = [Counter(label for one in records[split] for label in (one.labels or (-1,))) for split in SPLITS]
    order = list(range(len(data.classes)))
    title = f"{'boxes' if boxes else 'images'} by class"
    if len(order) > MOST:
        order.sort(key=lambda label: -counts[0][label])
        title += ", the most and the least frequent of training"
    rows = [(data.classes[label], [count[label] for count in counts]) for label in order]
    none = [count.pop(-1, 0) for count in counts]
    if any(none):
        title += f"; {sum(none):,} images without any"
    totals = {WORDS[split]: count.total() for split, count in zip(SPLITS, counts)}
    charts = [bar_chart(title, rows, totals)]
    if boxes:
        charts.append(_sizes(data))
    return np.concatenate(charts)


def _sizes(data: LabelledData) -> np.ndarray:
    """Boxes by the side of a square of the same area, in pixels of the images."""
    counts = []
    for split in SPLITS:
        corners = [box for one in data.split(split) for box in getattr(one, "boxes", ())]
        x1, y1, x2, y2 = np.asarray(corners, dtype=np.float64).reshape(-1, 4).T
        places = np.searchsorted(EDGES, np.sqrt(np.maximum(0, (x2 - x1) * (y2 - y1))), side="right")
        counts.append(np.bincount(places, minlength=len(EDGES) + 1).tolist())
    inner = [f"{low} to {high} px" for low, high in itertools.pairwise(EDGES)]
    names = [f"below {EDGES[0]} px", *inner, f"from {EDGES[-1]} px on"]
    rows = [(name, [count[at] for count in counts]) for at, name in enumerate(names)]
    totals = {WORDS[split]: sum(count) for split, count in zip(SPLITS, counts)}
    return bar_chart("boxes by side (square root of the area) in pixels of the images", rows, totals)
