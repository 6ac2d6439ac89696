"""scikit-learn's handwritten digits as image files: a data set that is always available."""

from __future__ import annotations

from pathlib import Path

from vpt.data.datasets.entries import Found
from vpt.data.datasets.image_folder import read_folder
from vpt.data.sampler import split_order
from vpt.utils.cache_dir import made_once

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Increase it when other files would be written, so that old caches are not used.
_VERSION = "1"
_SIDE = 64


def read_digits() -> Found:
    """Read the 1,797 digits (UCI, 8x8 pixels with 17 grey levels, black on white at 64x64), classes zero to nine.

    They are written once to the user's cache folder, 60 % of each class to train/, 20 % to val/, 20 % to test/.

    Raises:
        UserError: the cache folder cannot be written.
    """
    found = read_folder(made_once(f"digits-{_VERSION}", "digits", _write_images))
    found.classes = NAMES
    return found


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    for digit, name in enumerate(NAMES):
        members = np.flatnonzero(data.target == digit)
        order = members[split_order(len(members), 0, digit)]
        train, val = round(0.6 * len(order)), round(0.8 * len(order))
        for split, part in {"train": order[:train], "val": order[train:val], "test": order[val:]}.items():
            target = folder / split / name
            target.mkdir(parents=True)
            for index in part:
                grey = np.rint(255 - data.images[index] * (255 / 16)).astype(np.uint8)
                picture = Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
                picture.save(target / f"{index:04d}.png")
