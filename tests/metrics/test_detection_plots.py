"""Boxes drawn on photos: names stay inside, do not cover each other, and can be read on every colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor

from vpt.metrics.detection_plots import COLOURS, draw_boxes, enlarged

GREY = np.full((800, 1200, 3), 128, np.uint8)  # large: thin letters have no pixel that is quite white


def colours(drawn: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.unique(drawn.reshape(-1, 3), axis=0).tolist()}


def spans(drawn: np.ndarray, label: int) -> tuple[int, int, int, int]:
    """Where a colour of a class is: x from and to, y from and to."""
    rows, columns = np.nonzero((drawn == ImageColor.getrgb(COLOURS[label])).all(2))
    return columns.min(), columns.max(), rows.min(), rows.max()


def test_the_photo_itself_is_not_drawn_on():
    before = GREY.copy()
    draw_boxes(GREY, [[40, 240, 360, 480]], [0], ["cat 0.90"])
    assert (before == GREY).all()
    assert (draw_boxes(GREY, [], [], []) == GREY).all()


def test_a_name_at_the_right_edge_moves_inside():
    alone = draw_boxes(GREY, [[1080, 240, 1180, 480]], [0], ["a rather long name 0.90"])
    assert spans(alone, 0)[0] < 900
    middle = draw_boxes(GREY, [[200, 240, 300, 480]], [0], ["a rather long name 0.90"])
    white = [int((drawn == 255).all(2).sum()) for drawn in (alone, middle)]
    assert white[0] == white[1] > 100  # no letter is cut off


def test_the_first_of_two_equal_boxes_keeps_its_name_and_lies_on_top():
    box = [200, 240, 600, 480]
    both = draw_boxes(GREY, [box, box], [0, 1], ["cat 0.90", "dog 0.80"])
    assert (both == draw_boxes(GREY, [box], [0], ["cat 0.90"])).all()


@pytest.mark.parametrize("label", range(len(COLOURS)))
def test_names_have_contrast(label: int):
    """WCAG 2's ratio of 3 for large or bold letters at the least; white on yellow would have 1.2."""
    drawn = draw_boxes(GREY, [[200, 240, 600, 480]], [label], ["cat 0.90"])
    red, green, blue = (part / 255 for part in ImageColor.getrgb(COLOURS[label]))
    light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    white = (255, 255, 255) in colours(drawn)
    assert (1.05 / (light + 0.05) if white else (light + 0.05) / 0.05) >= 3


def test_small_photos_are_enlarged_and_large_ones_stay():
    assert enlarged(GREY[:100, :200])[0].shape == (300, 600, 3)
    whole = np.zeros((600, 400, 3), np.uint8)
    assert enlarged(whole)[0] is whole
