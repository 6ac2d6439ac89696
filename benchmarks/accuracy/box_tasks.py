"""Small detection tasks, drawn by rule from scikit-learn's digits and written in COCO format for `methods.py`.

| task | objects | what is asked of the features |
| --- | --- | --- |
| `largest` | the largest of three to five digits; others are background | a comparison with the rest of the picture |
| `largest-any` | the same, but the largest has 24 to 60 pixels, so that a size alone does not tell | the same |
| `upright` | digits the right way up and upside down, two classes | which way up |
| `parity` | even and odd digits, two classes | a class that is not a likeness |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.accuracy.suite.scenes import SIDE, Figure, digits, draw, ink_of, place
from vpt.data.detection.coco import to_coco
from vpt.data.detection.dataset import Box, BoxRecord
from vpt.utils.atomic_io import write_json

Labelled = tuple[list[Figure], list[int | None]]  # figures, and the class of each; None: not an object


class BoxTask(NamedTuple):
    """A task.

    Args:
        classes: names of the classes.
        one: random numbers and the digits of the split to what an image shows.
    """

    classes: list[str]
    one: Callable[[np.random.Generator, np.ndarray], Labelled]


COUNTS = {"train": 100, "val": 80, "test": 200}


def _figures(rng: np.random.Generator, members: np.ndarray, sides: list[int]) -> list[Figure]:
    """Digits drawn from `members`, of these sides, that do not overlap."""
    chosen = rng.choice(members, len(sides))
    return [Figure(int(i), *corner, side) for i, corner, side in zip(chosen, place(sides, rng), sides, strict=True)]


def _largest(rng: np.random.Generator, members: np.ndarray) -> Labelled:
    """Three to five digits; the others are at least a quarter smaller than the largest."""
    side = int(rng.integers(32, 57))
    others = [int(s) for s in rng.integers(20, side * 3 // 4 + 1, int(rng.integers(2, 5)))]
    return _figures(rng, members, [side, *others]), [0, *[None] * len(others)]


def _largest_any(rng: np.random.Generator, members: np.ndarray) -> Labelled:
    """As `_largest`, but sizes of largest and others overlap, and all others are at least two fifths of the largest."""
    side = int(rng.integers(24, 61))
    others = [int(s) for s in rng.integers(max(14, side * 2 // 5), side * 3 // 4 + 1, int(rng.integers(2, 5)))]
    return _figures(rng, members, [side, *others]), [0, *[None] * len(others)]


def _of(members: np.ndarray, *wanted: int) -> np.ndarray:
    return members[np.isin(digits()[1][members], wanted)]


def _some(rng: np.random.Generator, members: np.ndarray) -> list[Figure]:
    return _figures(rng, members, [int(s) for s in rng.integers(24, 49, int(rng.integers(2, 5)))])


def _upright(rng: np.random.Generator, members: np.ndarray) -> Labelled:
    """Two to four digits, each the right way up or upside down; those that look alike both ways are left out."""
    sides = [int(s) for s in rng.integers(34, 57, int(rng.integers(2, 5)))]
    found = _figures(rng, _of(members, 2, 3, 4, 5, 7), sides)
    turns = rng.integers(0, 2, len(found)).tolist()
    return [replace(one, degrees=180.0 * turn) for one, turn in zip(found, turns, strict=True)], turns


def _parity(rng: np.random.Generator, members: np.ndarray) -> Labelled:
    found = _some(rng, members)
    return found, [int(digits()[1][figure.index]) % 2 for figure in found]


BOX_TASKS = {
    "largest": BoxTask(["largest"], _largest),
    "largest-any": BoxTask(["largest"], _largest_any),
    "upright": BoxTask(["upright", "upside down"], _upright),
    "parity": BoxTask(["even", "odd"], _parity),
}


def box_of(figure: Figure) -> Box:
    """The box of a figure's ink: left, top, right, bottom."""
    dark = ink_of(figure) > 0.3
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    corner = figure.left, figure.top, figure.left, figure.top
    left, top, right, bottom = (float(start + edge) for start, edge in zip(corner, edges, strict=True))
    return left, top, right, bottom


def written(name: str, folder: Path) -> Path:
    """The task's images and annotations in `folder`, drawn unless they are there."""
    task = BOX_TASKS[name]
    for number, (split, count) in enumerate(COUNTS.items()):
        file = folder / "annotations" / f"instances_{split}.json"
        if file.exists():
            continue
        rng = np.random.default_rng([*name.encode(), number])
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        records = []
        for image in range(count):
            figures, labels = task.one(rng, digits()[2][split])
            path = Path("images") / split / f"{image:04d}.png"
            Image.fromarray(draw(figures, rng)).save(folder / path)
            objects = [(box_of(one), label) for one, label in zip(figures, labels, strict=True) if label is not None]
            boxes, classes = tuple(box for box, _ in objects), tuple(label for _, label in objects)
            records.append(BoxRecord(path.name, path, classes, boxes, (False,) * len(boxes), (SIDE, SIDE)))
        write_json(file, to_coco(records, task.classes, [record.name for record in records]))
    return folder
