"""Images with predicted and true classes or numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import numpy as np

from vpt.data.dataset import Record
from vpt.data.decode import BadImage, read
from vpt.metrics.number_predictions import NumberAnswer
from vpt.metrics.predictions import Answer
from vpt.utils.image_grid import SIDE, grid, scaled, tile
from vpt.utils.plotting import BLUE, ORANGE

_FRAME = 4  # pixels
T = TypeVar("T")


def answers_picture(records: Sequence[Record], answers: Sequence[Answer], max_pixels: int) -> np.ndarray:
    """A grid (H, W, 3) uint8 of images with the predicted class and its score, and the true class, in a blue frame
    where these are the same and in an orange one where not; images that cannot be read any more are left out."""

    def drawn(photo: np.ndarray, answer: Answer) -> np.ndarray:
        frame = np.empty((photo.shape[0] + 2 * _FRAME, photo.shape[1] + 2 * _FRAME, 3), np.uint8)
        frame[:] = [int((BLUE if answer.right else ORANGE)[at : at + 2], 16) for at in (1, 3, 5)]
        frame[_FRAME:-_FRAME, _FRAME:-_FRAME] = photo
        true = answer.true or "no label"
        lines = [
            f"predicted: {answer.predicted or 'none'} {answer.score:.2f}",
            f"{'' if answer.right else 'wrong, '}true: {true}",
        ]
        return tile(frame, lines)

    return _picture(records, answers, max_pixels, SIDE - 2 * _FRAME, drawn)


def numbers_picture(records: Sequence[Record], answers: Sequence[NumberAnswer], max_pixels: int) -> np.ndarray:
    """A grid (H, W, 3) uint8 of images with the predicted and the true number; images that cannot be read any more are
    left out."""

    def drawn(photo: np.ndarray, answer: NumberAnswer) -> np.ndarray:
        return tile(photo, [f"predicted: {answer.predicted:.5g}", f"true: {answer.true:.5g}"])

    return _picture(records, answers, max_pixels, SIDE, drawn)


def _picture(
    records: Sequence[Record],
    answers: Sequence[T],
    max_pixels: int,
    side: int,
    drawn: Callable[[np.ndarray, T], np.ndarray],
) -> np.ndarray:
    """A grid of what `drawn` makes of images, scaled to `side`, that can still be read."""
    tiles = []
    for record, answer in zip(records, answers, strict=True):
        with suppress(BadImage):
            tiles.append(drawn(scaled(read(record, max_pixels).pixels, side)[0], answer))
    return grid(tiles) if tiles else np.full((SIDE, SIDE, 3), 255, np.uint8)
