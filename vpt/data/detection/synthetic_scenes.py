"""Scenes of real handwritten digits in COCO format: a detection data set that is always available."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vpt.data.datasets.digits import NAMES
from vpt.data.detection.coco import read_coco, to_coco
from vpt.data.detection.dataset import Box, BoxFound, BoxRecord
from vpt.data.sampler import split_order
from vpt.utils.atomic_io import write_json
from vpt.utils.cache_dir import made_once

# Increase it when other files would be written, so that old caches are not used.
_VERSION = "1"
SIDE = 128
COUNTS = {"train": 400, "val": 80, "test": 120}


def read_scenes() -> BoxFound:
    """Read 600 images of 128 pixels with up to five of scikit-learn's digits on a shaded background, written once to
    the user's cache folder. No digit of one split appears in another.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = made_once(f"scenes-{_VERSION}", "scenes", _write)
    return read_coco({split: folder / "annotations" / f"{split}.json" for split in COUNTS}, folder)


def _write(folder: Path) -> None:
    for split in COUNTS:
        _write_split(folder, split)


def digits_of(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """All digits (n, 8, 8) and their labels (n,), the indices of those of a split, and the generator that draws it."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = split_order(len(data.images), 0, 77)
    cuts = {"train": order[:1100], "val": order[1100:1350], "test": order[1350:]}
    chance = np.random.Generator(np.random.PCG64([list(COUNTS).index(split), 5]))
    return data.images, data.target, cuts[split], chance


def _write_split(folder: Path, split: str) -> None:
    images, targets, members, chance = digits_of(split)
    records, names = [], []
    (folder / "images" / split).mkdir(parents=True)
    for number in range(COUNTS[split]):
        scene = draw_scene(images, targets, members, chance)
        name = f"{number:04d}.png"
        Image.fromarray(scene.pixels).save(folder / "images" / split / name)
        crowds = (False,) * len(scene.boxes)
        records.append(BoxRecord(name, Path(name), tuple(scene.labels), tuple(scene.boxes), crowds, (SIDE, SIDE)))
        names.append(name)
    write_json(folder / "annotations" / f"{split}.json", to_coco(records, NAMES, names))


class Scene(NamedTuple):
    """One image.

    Args:
        pixels: (SIDE, SIDE, 3) uint8.
        boxes: of the digits.
        labels: the digits.
        corners: left and top of each digit's square.
        inks: each digit's square (side, side), from 0 to about 1.
    """

    pixels: np.ndarray
    boxes: list[Box]
    labels: list[int]
    corners: list[tuple[int, int]]
    inks: list[np.ndarray]


def draw_scene(images: np.ndarray, targets: np.ndarray, members: np.ndarray, chance: np.random.Generator) -> Scene:
    """One image: dark digits of 24 to 56 pixels, on a background with a gradient between two pale colours."""
    line = np.linspace(0, 1, SIDE)
    ends = chance.uniform(150, 255, (2, 3))
    blend = line[:, None] if chance.random() < 0.5 else line[None, :]
    ground = ends[0] + (ends[1] - ends[0]) * np.broadcast_to(blend, (SIDE, SIDE))[..., None]
    ground = ground + chance.normal(0, 4, ground.shape)
    scene = Scene(ground, [], [], [], [])
    for _ in range(int(chance.integers(0, 6))):
        index = int(members[int(chance.integers(len(members)))])
        side = int(chance.integers(24, 57))
        left, top = (int(value) for value in chance.integers(0, SIDE - side + 1, 2))
        small = Image.fromarray(np.rint(images[index] * (255 / 16)).astype(np.uint8))
        ink = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        rows, columns = np.flatnonzero((ink > 0.3).any(1)), np.flatnonzero((ink > 0.3).any(0))
        box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        if any(_overlap(box, other) > 0.1 for other in scene.boxes):
            continue
        colour = chance.uniform(0, 110, 3)
        part = ground[top : top + side, left : left + side]
        part += (colour - part) * ink[..., None].clip(0, 1)
        scene.boxes.append(tuple(float(value) for value in box))  # type: ignore[arg-type]
        scene.labels.append(int(targets[index]))
        scene.corners.append((left, top))
        scene.inks.append(ink)
    return scene._replace(pixels=ground.clip(0, 255).astype(np.uint8))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Shared area as a fraction of the smaller box."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0.0, width) * max(0.0, height) / min(areas)
