"""Images of two handwritten digits, labelled by the distance between them: a structured task that needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vpt.data.datasets.csv import read_csv
from vpt.data.datasets.entries import Found
from vpt.data.datasets.image_folder import read_folder
from vpt.data.sampler import split_order
from vpt.utils.cache_dir import made_once
from vpt.utils.csv_cells import to_csv

NAMES = ("touching", "near", "far", "very far")
COUNTS = {"train": 800, "val": 200, "test": 400}
# Increase it when other files would be written, so that old caches are not used.
_VERSION = "2"
_SIDE = 64
_NEAREST, _STEP = 12.0, 9.0  # pixels between centres: from 12 to 21 "touching", and so on up to 48


def read_digit_distances() -> Found:
    """Read 1,400 images of 64 pixels with two of scikit-learn's digits each, written once to the user's cache folder.

    A class is a range of distances between the digits, whatever and wherever they are. No digit of one split appears in
    another.

    Raises:
        UserError: the cache folder cannot be written.
    """
    found = read_folder(_folder() / "images")
    found.classes = NAMES
    return found


def read_distances() -> Found:
    """Read the same images with the distance between the centres of the digits, in pixels, instead of its range.

    Raises:
        UserError: the cache folder cannot be written.
    """
    found = read_csv(_folder() / "distances.csv", label="distance")
    found.notes.clear()  # about its columns
    return found


def _folder() -> Path:
    return made_once(f"digit-distances-{_VERSION}", "digit-distances", _write)


def _write(folder: Path) -> None:
    from sklearn.datasets import load_digits

    images = load_digits().images
    order = split_order(len(images), 0, 78)
    parts = {"train": order[:1000], "val": order[1000:1300], "test": order[1300:]}
    rows: list[tuple[object, ...]] = [("path", "distance", "split")]
    for number, (split, count) in enumerate(COUNTS.items()):
        chance = np.random.Generator(np.random.PCG64([number, 6]))
        for name in NAMES:
            (folder / "images" / split / name).mkdir(parents=True)
        for at in range(count):
            label = at % len(NAMES)
            pixels, distance = _pair(images[chance.choice(parts[split], 2)], label, chance)
            place = f"images/{split}/{NAMES[label]}/{at:04d}.png"
            Image.fromarray(pixels).save(folder / place)
            rows.append((place, f"{distance:.4f}", split))
    (folder / "distances.csv").write_text(to_csv(rows), encoding="utf-8")


def _pair(digits: np.ndarray, label: int, chance: np.random.Generator) -> tuple[np.ndarray, float]:
    """Two dark digits of 11 to 15 pixels on a pale background, and the distance of their centres, in the range of the
    class."""
    while True:
        sides = chance.integers(11, 16, 2)
        corners = np.stack([chance.integers(0, _SIDE - side + 1, 2) for side in sides])
        apart = (corners[0] + sides[0] / 2) - (corners[1] + sides[1] / 2)
        distance = float(np.hypot(*apart))
        if int((distance - _NEAREST) // _STEP) == label:
            break
    canvas = chance.uniform(170, 255, 3) + chance.normal(0, 4, (_SIDE, _SIDE, 3))
    for digit, side, (top, left) in zip(digits, sides, corners, strict=True):
        small = Image.fromarray(np.rint(digit * (255 / 16)).astype(np.uint8))
        ink = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        part = canvas[top : top + side, left : left + side]
        part += (chance.uniform(0, 90, 3) - part) * ink[..., None]
    return canvas.clip(0, 255).astype(np.uint8), distance
