"""The embedded data sets, which are created on first use."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vpt.config import load_config
from vpt.data.datasets import digit_distances
from vpt.data.datasets.registry import EMBEDDED, load_data


@pytest.mark.usefixtures("whole_data")
def test_every_one_loads():
    for name in EMBEDDED:
        data = load_data(load_config(overrides=[f"data={name}"]).data)
        assert data.classes == EMBEDDED[name]().classes
        assert all(len(data.split(split)) > 100 for split in ("train", "val", "test"))


def test_distances_are_what_the_label_says():
    """Measured on the pixels: the distance between the centres of the two dark patches."""
    data = load_data(load_config(overrides=["data=digit-distances"]).data)
    found: dict[int, list[float]] = {label: [] for label in range(4)}
    for record in data.test:
        grey = np.asarray(Image.open(record.source).convert("L"), dtype=float)
        labels, count = ndimage.label(ndimage.binary_closing(grey < 0.72 * np.median(grey), iterations=2))
        sizes = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
        if count < 2:  # the digits touch
            continue
        two = np.argsort(sizes)[-2:] + 1
        boxes = [ndimage.find_objects(labels)[each - 1] for each in two]
        centres = [np.array([(part.start + part.stop) / 2 for part in box]) for box in boxes]
        found[record.labels[0]].append(float(np.hypot(*(centres[0] - centres[1]))))
    medians = [np.median(found[label]) for label in range(4)]
    assert medians == sorted(medians)
    for label, middle in enumerate(medians):
        low = digit_distances._NEAREST + label * digit_distances._STEP
        assert low - 1 < middle < low + digit_distances._STEP + 1
