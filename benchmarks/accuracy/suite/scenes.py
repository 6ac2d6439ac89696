"""Pictures of handwritten digits on a shaded ground, drawn to order: what every structured task is made of.

As vpt/data/detection/synthetic_scenes.py, but the caller says where the digits are, how large and how turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 128


@dataclass(frozen=True)
class Figure:
    """A digit to be drawn: which image of scikit-learn's set, its upper left corner and side in pixels, its turn."""

    index: int
    left: int
    top: int
    side: int
    degrees: float | None = None


@lru_cache(1)
def digits() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Images (1797, 8, 8) from 0 to 16, labels, and the members of each split: no digit is in two of them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(77).permutation(len(data.images))
    return data.images, data.target, {"train": order[:1000], "val": order[1000:1300], "test": order[1300:]}


def draw(figures: list[Figure], rng: np.random.Generator) -> np.ndarray:
    """A picture (SIDE, SIDE, 3) uint8 of dark digits on a pale ground that shades from one colour to another."""
    line = np.linspace(0, 1, SIDE)
    ends = rng.uniform(150, 255, (2, 3))
    fraction = line[:, None] if rng.random() < 0.5 else line[None, :]
    ground = ends[0] + (ends[1] - ends[0]) * np.broadcast_to(fraction, (SIDE, SIDE))[..., None]
    ground = ground + rng.normal(0, 4, ground.shape)
    for figure in figures:
        ink = ink_of(figure)
        colour = rng.uniform(0, 110, 3)
        part = ground[figure.top : figure.top + figure.side, figure.left : figure.left + figure.side]
        part += (colour - part) * ink[..., None]
    return ground.clip(0, 255).astype(np.uint8)


def ink_of(figure: Figure) -> np.ndarray:
    image = Image.fromarray(np.rint(digits()[0][figure.index] * (255 / 16)).astype(np.uint8))
    if figure.degrees is None:
        return np.asarray(image.resize((figure.side,) * 2, Image.Resampling.BICUBIC), dtype=np.float64) / 255
    # Small enough that no corner is cut off, whatever the angle.
    inner = round(figure.side / 2**0.5)
    canvas, corner = Image.new("L", (figure.side,) * 2), (figure.side - inner) // 2
    canvas.paste(image.resize((inner, inner), Image.Resampling.BICUBIC), (corner, corner))
    return np.asarray(canvas.rotate(figure.degrees, Image.Resampling.BICUBIC), dtype=np.float64) / 255


def place(sides: list[int], rng: np.random.Generator, gap: int = 2, tries: int = 400) -> list[tuple[int, int]]:
    """Upper left corners of squares that do not overlap, anywhere in the picture."""
    while True:
        found: list[tuple[int, int, int]] = []
        for side in sides:
            for _ in range(tries):
                left, top = (int(v) for v in rng.integers(0, SIDE - side + 1, 2))
                if all(
                    left + side + gap <= x or x + other + gap <= left or top + side + gap <= y or y + other + gap <= top
                    for x, y, other in found
                ):
                    found.append((left, top, side))
                    break
            else:
                break
        if len(found) == len(sides):
            return [(left, top) for left, top, _ in found]
