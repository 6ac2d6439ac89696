"""Tiny runs of segmentation for tests: coloured squares on grey, with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.mask_folders import save_mask
from vpt.config import RunConfig, load_config

CLASSES = ("background", "red", "blue")
COLOURS = {1: (220, 30, 30), 2: (30, 30, 220)}


def squares(root: Path, count: int = 12, size: tuple[int, int] = (48, 32), classes: tuple[str, ...] = CLASSES) -> Path:
    """Images of that width and height with a red and a blue square, every sixth one to validate and to test."""
    chance = np.random.default_rng(0)
    for number in range(count):
        pixels = chance.integers(90, 160, (size[1], size[0], 3), np.uint8)
        mask = np.zeros((size[1], size[0]), np.uint8)
        for label, colour in COLOURS.items():
            left, top = (
                int(chance.integers(0, size[0] // 2 - 14)) + (label - 1) * size[0] // 2,
                int(chance.integers(0, 16)),
            )
            pixels[top : top + 14, left : left + 14] = colour
            mask[top : top + 14, left : left + 14] = label
        mask[:2, :2] = 255
        split = {4: "val", 5: "test"}.get(number % 6, "train")
        place = root / "images" / split / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
        save_mask(root / "masks" / split / f"{number}.png", mask)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


def mask_settings(data: Path, out: Path, *words: str) -> RunConfig:
    """Two epochs of two steps on images of 32 pixels."""
    common = ["task=segmentation", f"data={data}", f"out={out}", "name=run", "data.workers=0", "head.size=32"]
    small = ["prompt.tokens=2", "train.epochs=2", "train.batch_size=4", "train.precision=fp32", "train.device=cpu"]
    return load_config(overrides=[*common, *small, *words])
