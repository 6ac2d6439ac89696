"""The tasks: a name to arrays for training, validation and test, by rule.

A task is a pure function of its name and a seed. Test images depend on the name alone, training and validation images
on the seed too, so that the spread over seeds holds the luck of the draw, and all methods of one seed see the same.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from benchmarks.accuracy.suite.scenes import SIDE, Figure, digits, draw, place

SHARED = Path(os.environ.get("VPT_SHARED", "/work/shared"))
FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian package dataset-fashion-mnist
PACKED = Path(os.environ["SUITE_PACKED"]) if "SUITE_PACKED" in os.environ else None
TRAIN, VAL, TEST = 800, 200, 1000  # of the structured tasks, as in VTAB-1k
Images = list[np.ndarray]  # (height, width, 3) uint8, of any size
Part = tuple[Images, np.ndarray]  # images and labels


@dataclass(frozen=True)
class Task:
    """One task of the suite.

    Args:
        name: what the results are filed under.
        group: natural, or structured in VTAB's sense (counting, places, sizes, orientation).
        needs: what must be on the machine: nothing, the shared clothing photos, or Debian's Fashion-MNIST.
        classes: how many.
        augment: light for photos; none where a flip or crop would change the answer.
        make: seed and split to images and labels.
        shots: images a class, where it is a few-shot task.
    """

    name: str
    group: Literal["natural", "structured"]
    needs: Literal["nothing", "shared", "fashion"]
    classes: int
    augment: Literal["none", "light"]
    make: Callable[[int, str], Part]
    shots: int | None = None

    @property
    def available(self) -> bool:
        return {"nothing": True, "shared": (SHARED / "data/clothing").is_dir(), "fashion": FASHION.is_dir()}[self.needs]


def _rng(name: str, seed: int, split: str) -> np.random.Generator:
    """Test images do not depend on the seed."""
    key = [sum(ord(c) * 131**i for i, c in enumerate(name)) % 2**32, ["train", "val", "test"].index(split)]
    return np.random.default_rng([*key, 0 if split == "test" else seed + 1])


# Natural: clothing, digits, Fashion-MNIST.


@lru_cache(4)
def _clothing(split: str) -> tuple[Images, np.ndarray, list[str]]:
    if PACKED is not None:  # middle squares, 224 px; see pack.py
        index, blob = json.loads((PACKED / "photos.json").read_text())[split], (PACKED / "photos.bin").read_bytes()
        with ThreadPoolExecutor(8) as pool:
            images = list(
                pool.map(lambda i: np.asarray(Image.open(io.BytesIO(blob[i[0] : i[0] + i[1]])).convert("RGB")), index)
            )
        return images, np.array([label for _, _, label in index]), []
    root = SHARED / "data/clothing" / {"train": "train", "val": "validation", "test": "test"}[split]
    classes = sorted(p.name for p in root.iterdir() if p.is_dir())
    files = [(f, label) for label, name in enumerate(classes) for f in sorted((root / name).iterdir())]
    images = [np.asarray(Image.open(f).convert("RGB")) for f, _ in files]
    return images, np.array([label for _, label in files]), classes


def _drawn(labels: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)]))


def _shots_of(pool: Callable[[str], tuple[Images, np.ndarray]], name: str, shots: int) -> Callable[[int, str], Part]:
    """`shots` a class to train, a quarter of it but at least min(shots, 4) to validate."""

    def make(seed: int, split: str) -> Part:
        images, labels = pool(split)
        if split != "test":
            count = shots if split == "train" else max(min(shots, 4), shots // 4)
            chosen = _drawn(labels, count, _rng(name, seed, split))
            return [images[i] for i in chosen], labels[chosen]
        return images, labels

    return make


def _fashion_100(seed: int, split: str) -> Part:
    if PACKED is not None:
        name, found = "test" if split == "test" else f"{seed}-{split}", np.load(PACKED / "fashion.npz")
        return [np.repeat(p[..., None], 3, axis=2) for p in found[name]], found[f"{name}-labels"]
    return _shots_of(_fashion_pool, "fashion-100", 100)(seed, split)


def _all_clothing(seed: int, split: str) -> Part:
    images, labels, _ = _clothing(split)
    return images, labels


@lru_cache(4)
def _digit_pool(split: str) -> tuple[Images, np.ndarray]:
    images, labels, members = digits()
    pictures = [
        np.repeat(
            np.asarray(
                Image.fromarray(np.rint(255 - images[i] * (255 / 16)).astype(np.uint8)).resize(
                    (64, 64), Image.Resampling.BICUBIC
                )
            )[..., None],
            3,
            axis=2,
        )
        for i in members[split]
    ]
    return pictures, labels[members[split]]


@lru_cache(4)
def _fashion_pool(split: str) -> tuple[Images, np.ndarray]:
    """Fashion-MNIST: training and validation from its first and last 50,000 and 10,000, test the first 1,000."""
    stem = "t10k" if split == "test" else "train"
    images, answers = (
        gzip.decompress((FASHION / f"{stem}-{n}-ubyte.gz").read_bytes()) for n in ("images-idx3", "labels-idx1")
    )
    pixels, labels = np.frombuffer(images, np.uint8, offset=16), np.frombuffer(answers, np.uint8, offset=8)
    pixels = pixels.reshape(-1, 28, 28)
    span = {"train": slice(0, 50_000), "val": slice(50_000, 60_000), "test": slice(0, TEST)}[split]
    return [np.repeat(p[..., None], 3, axis=2) for p in pixels[span]], labels[span].astype(np.int64)


# Structured: scenes of digits.


def _scenes(name: str, one: Callable[[np.random.Generator, np.ndarray], tuple[list[Figure], int]]) -> Callable:
    """A task whose every picture is drawn by `one`: random numbers and the digits of the split to figures and label."""

    def make(seed: int, split: str) -> Part:
        rng, members = _rng(name, seed, split), digits()[2][split]
        images, labels = [], []
        for _ in range({"train": TRAIN, "val": VAL, "test": TEST}[split]):
            figures, label = one(rng, members)
            images.append(draw(figures, rng))
            labels.append(label)
        return images, np.array(labels)

    return make


def _pick(rng: np.random.Generator, members: np.ndarray) -> int:
    return int(members[rng.integers(len(members))])


def _count(rng: np.random.Generator, members: np.ndarray) -> tuple[list[Figure], int]:
    """How many digits: 1 to 6, whatever their size."""
    count = int(rng.integers(1, 7))
    sides = [int(s) for s in rng.integers(20, 45, count)]
    corners = place(sides, rng)
    return [Figure(_pick(rng, members), *c, s) for c, s in zip(corners, sides, strict=True)], count - 1


def _largest(rng: np.random.Generator, members: np.ndarray) -> tuple[list[Figure], int]:
    """In which quarter of the picture the largest of four digits stands."""
    label, largest = int(rng.integers(4)), int(rng.integers(42, 61))
    figures = []
    for quarter in range(4):
        side = largest if quarter == label else int(rng.integers(20, largest - 9))
        left, top = (int(v) for v in rng.integers(0, 64 - side + 1, 2))
        figures.append(Figure(_pick(rng, members), left + 64 * (quarter % 2), top + 64 * (quarter // 2), side))
    return figures, label


def _bigger(rng: np.random.Generator, members: np.ndarray) -> tuple[list[Figure], int]:
    """Which of two digits is bigger, the left or the right one; at least an eighth larger."""
    small = int(rng.integers(20, 54))
    large = int(rng.integers(-(-small * 9 // 8), 62))
    label = int(rng.integers(2))
    sides = (large, small) if label == 0 else (small, large)
    figures = [
        Figure(_pick(rng, members), int(rng.integers(0, 64 - s + 1)) + 64 * half, int(rng.integers(0, SIDE - s + 1)), s)
        for half, s in enumerate(sides)
    ]
    return figures, label


def _far(rng: np.random.Generator, members: np.ndarray) -> tuple[list[Figure], int]:
    """How far two digits stand apart, centre to centre: five classes of 14 pixels each, from 28 to 98."""
    label = int(rng.integers(5))
    while True:
        sides = [int(s) for s in rng.integers(20, 29, 2)]
        corners = place(sides, rng, gap=0)
        (ax, ay), (bx, by) = ((x + s / 2, y + s / 2) for (x, y), s in zip(corners, sides, strict=True))
        if int((np.hypot(ax - bx, ay - by) - 28) // 14) == label:
            return [Figure(_pick(rng, members), *c, s) for c, s in zip(corners, sides, strict=True)], label


def _tilt(rng: np.random.Generator, members: np.ndarray) -> tuple[list[Figure], int]:
    """How a digit is turned: eight classes of 45 degrees; digits that look alike upside down are left out."""
    label = int(rng.integers(8))
    while digits()[1][index := _pick(rng, members)] not in (2, 3, 4, 5, 7):
        pass
    side = int(rng.integers(56, 97))
    left, top = (int(v) for v in rng.integers(0, SIDE - side + 1, 2))
    return [Figure(index, left, top, side, 45.0 * label)], label


def _same(rng: np.random.Generator, members: np.ndarray) -> tuple[list[Figure], int]:
    """Whether two digits are the same figure."""
    label, targets = int(rng.integers(2)), digits()[1]
    first = _pick(rng, members)
    while (targets[second := _pick(rng, members)] == targets[first]) != bool(label):
        pass
    sides = [int(s) for s in rng.integers(40, 61, 2)]
    figures = [
        Figure(index, int(rng.integers(0, 64 - s + 1)) + 64 * half, int(rng.integers(0, SIDE - s + 1)), s)
        for half, (index, s) in enumerate(zip((first, second), sides, strict=True))
    ]
    return figures, label


# Structured: clothing photos.


def _photos(name: str, one: Callable[[np.random.Generator, Image.Image], tuple[np.ndarray, int]]) -> Callable:
    """A task made from clothing photos: every split from its own photos, each used once if there are enough."""

    def make(seed: int, split: str) -> Part:
        photos, _, _ = _clothing(split)
        rng = _rng(name, seed, split)
        count = {"train": TRAIN, "val": VAL, "test": 2 * len(photos)}[split]
        order = np.concatenate([rng.permutation(len(photos)) for _ in range(-(-count // len(photos)))])[:count]
        made = [one(rng, _square(photos[i])) for i in order]
        return [image for image, _ in made], np.array([label for _, label in made])

    return make


def _square(photo: np.ndarray) -> Image.Image:
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return Image.fromarray(photo[top : top + side, left : left + side])


def _way_up(rng: np.random.Generator, photo: Image.Image) -> tuple[np.ndarray, int]:
    """Which way up the photo is."""
    label = int(rng.integers(4))
    return np.rot90(np.asarray(photo), label), label


def _where(rng: np.random.Generator, photo: Image.Image) -> tuple[np.ndarray, int]:
    """In which of nine places of a grey ground the shrunk photo lies."""
    label = int(rng.integers(9))
    side = int(rng.integers(56, 97))
    ground = rng.uniform(60, 200, 3) + rng.normal(0, 12, (224, 224, 3))
    room = 224 - side
    row, column = divmod(label, 3)
    top, left = (int(room * (cell + rng.random()) / 3) for cell in (row, column))
    image = ground.clip(0, 255).astype(np.uint8)
    image[top : top + side, left : left + side] = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC))
    return image, label


def _pool_clothing(split: str) -> tuple[Images, np.ndarray]:
    images, labels, _ = _clothing(split)
    return images, labels


TASKS = {
    task.name: task
    for task in [
        *(
            Task(f"clothing-{k}", "natural", "shared", 10, "light", _shots_of(_pool_clothing, f"clothing-{k}", k), k)
            for k in (4, 16, 100)
        ),
        Task("clothing-all", "natural", "shared", 10, "light", _all_clothing),
        Task("digits-16", "natural", "nothing", 10, "none", _shots_of(_digit_pool, "digits-16", 16), 16),
        Task("digits-all", "natural", "nothing", 10, "none", lambda seed, split: _digit_pool(split)),
        Task("fashion-100", "natural", "fashion", 10, "none", _fashion_100, 100),
        Task("way-up", "structured", "shared", 4, "none", _photos("way-up", _way_up)),
        Task("photo-where", "structured", "shared", 9, "none", _photos("photo-where", _where)),
        Task("count", "structured", "nothing", 6, "none", _scenes("count", _count)),
        Task("largest-where", "structured", "nothing", 4, "none", _scenes("largest-where", _largest)),
        Task("which-bigger", "structured", "nothing", 2, "none", _scenes("which-bigger", _bigger)),
        Task("how-far", "structured", "nothing", 5, "none", _scenes("how-far", _far)),
        Task("tilt", "structured", "nothing", 8, "none", _scenes("tilt", _tilt)),
        Task("same-digit", "structured", "nothing", 2, "none", _scenes("same-digit", _same)),
    ]
}
