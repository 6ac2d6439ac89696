"""Masks as COCO's compressed run-length encodings, as pycocotools writes and reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vpt.data.detection.segmentation_boxes import decompressed

_MOST_DIGITS = 7  # of five bits, enough for 2 ** 34 pixels
_COUNTED = 1 << 20  # pixels at a time


def encode(mask: np.ndarray) -> str:
    """The compressed run lengths of a mask (H, W) bool: down the columns, background first.

    >>> encode(np.array([[0, 1], [0, 1]], bool)), encode(np.ones((2, 2), bool))
    ('22', '04')
    """
    flat = np.concatenate([[False], mask.T.reshape(-1), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(edges, prepend=0)
    if (rest := mask.size - (edges[-1] if len(edges) else 0)) > 0:
        counts = np.append(counts, rest)
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]  # from the fourth on, relative to the last run of the same kind
    digits = np.zeros((len(values), _MOST_DIGITS), np.uint8)
    used = np.zeros(digits.shape, bool)
    open_ = np.ones(len(values), bool)
    for place in range(_MOST_DIGITS):
        digit, values = values & 31, values >> 5
        more = np.where(digit & 16, values != -1, values != 0)
        digits[:, place], used[:, place] = (digit | np.where(more, 32, 0)) + 48, open_
        open_ = open_ & more
    return digits[used].tobytes().decode("ascii")


def pixel_counts(mask: np.ndarray, classes: int) -> np.ndarray:
    """Number of pixels of each class of a mask (H, W) uint8; `numpy.bincount` alone would copy it to 64-bit integers.

    >>> pixel_counts(np.array([[0, 1], [0, 1]], np.uint8), 3)
    array([2, 2, 0])
    """
    flat = mask.reshape(-1)
    parts = (flat[start : start + _COUNTED] for start in range(0, flat.size, _COUNTED))
    counts: np.ndarray = np.sum([np.bincount(part, minlength=classes) for part in parts], axis=0)
    return counts


def segments(
    mask: np.ndarray, classes: Sequence[str], scores: Sequence[float] | np.ndarray | None = None
) -> list[dict[str, Any]]:
    """The classes that occur in a mask (H, W) of class indices: label, score if there are scores, number of pixels, and
    COCO's run-length encoding.

    >>> segments(np.array([[0, 1], [0, 1]]), ["sky", "sea"])[1]
    {'label': 'sea', 'pixels': 2, 'rle': {'size': [2, 2], 'counts': '22'}}
    """
    counts = pixel_counts(mask, len(classes))
    rows = []
    for label in np.flatnonzero(counts[: len(classes)]).tolist():
        score = {} if scores is None else {"score": round(float(scores[label]), 6)}
        rle = {"size": [int(side) for side in mask.shape], "counts": encode(mask == label)}
        rows.append({"label": classes[label], **score, "pixels": int(counts[label]), "rle": rle})
    return rows


def mask_of(rows: Sequence[Mapping[str, Any]], classes: Sequence[str], ground: int = 0) -> np.ndarray:
    """The mask (H, W) uint8 that `segments` was made of; pixels of no segment get `ground`.

    >>> mask_of(segments(np.array([[0, 1], [0, 1]]), ["sky", "sea"]), ["sky", "sea"]).tolist()
    [[0, 1], [0, 1]]
    """
    height, width = rows[0]["rle"]["size"]
    mask = np.full(height * width, ground, np.uint8)
    for row in rows:
        runs = decompressed(row["rle"]["counts"])
        if runs is None or sum(runs) != len(mask):
            raise ValueError(f"a run-length encoding of {row['label']} is damaged")
        mask[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = classes.index(row["label"])
    return mask.reshape(width, height).T.copy()
