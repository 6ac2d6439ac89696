"""Scenes of handwritten digits with masks: a segmentation data set that is always available."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vpt.data.datasets.digits import NAMES
from vpt.data.detection.synthetic_scenes import COUNTS, digits_of, draw_scene
from vpt.data.segmentation.dataset import MaskEntry, MaskFound
from vpt.data.segmentation.mask_files import MaskFile, ValueTable
from vpt.utils.cache_dir import made_once

# Increase it when other files would be written, so that old caches are not used.
_VERSION = "1"
CLASSES = ("background", *NAMES)


def read_mask_scenes() -> MaskFound:
    """Read the 600 images of `task=detection`'s scenes, 128 pixels with up to five digits, with masks of the digits'
    ink, written once to the user's cache folder.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = made_once(f"mask-scenes-{_VERSION}", "scenes with masks", _write)
    table = ValueTable({value: value for value in range(len(CLASSES))})
    splits = {}
    for split in COUNTS:
        names = [f"{split}/{file.name}" for file in sorted((folder / "images" / split).iterdir())]
        splits[split] = [
            MaskEntry(name, folder / "images" / name, MaskFile(folder / "masks" / name, table)) for name in names
        ]
    return MaskFound(splits, CLASSES)


def _write(folder: Path) -> None:
    for split, count in COUNTS.items():
        images, targets, members, chance = digits_of(split)
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            scene = draw_scene(images, targets, members, chance)
            mask = np.zeros(scene.pixels.shape[:2], np.uint8)
            for (left, top), ink, label in zip(scene.corners, scene.inks, scene.labels, strict=True):
                part = mask[top : top + len(ink), left : left + len(ink)]
                part[ink > 0.3] = label + 1
            name = f"{number:04d}.png"
            Image.fromarray(scene.pixels).save(folder / "images" / split / name)
            Image.fromarray(mask).save(folder / "masks" / split / name)
