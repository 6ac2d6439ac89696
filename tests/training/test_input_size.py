"""A hint at head.size where boxes are small, and only there."""

from __future__ import annotations

from pathlib import Path

from vpt.data.detection.dataset import BoxRecord
from vpt.training.input_size import hint


def record(*sides: float) -> BoxRecord:
    boxes = tuple((0.0, 0.0, side, side) for side in sides)
    zeros = (0,) * len(sides)
    return BoxRecord("a", Path("a"), zeros, boxes, tuple(map(bool, zeros)), (1600, 1200))


def test_small_boxes_get_a_larger_size():
    # 1200 pixels become 300: boxes of 20 pixels are 5.
    text = hint([record(20, 20), record(200, 20), record()], 300, 480, 16)
    assert "75% of the training boxes are smaller than a patch of 16 px" in text
    assert "(median 5 px)" in text
    assert "try head.size=960" in text
    assert "10.2 times the time and memory" in text


def test_a_size_is_never_out_of_proportion():
    assert "try head.size=1200" in hint([record(1)], 300, 480, 16)


def test_large_boxes_get_no_hint():
    assert hint([record(200, 300), record(100, 20), record(80)], 300, 480, 16) == ""
    assert hint([record()], 300, 480, 16) == ""
