"""Data sets of masks, laid out on disk for tests as other tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.boxes import SIZE, picture
from vpt.config import DataConfig
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.segmentation.registry import load_masks

VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, *[224, 224, 192] * 252]


def blocks(values: list[int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask (H, W) uint8 of upright stripes, one for each value."""
    width, height = size
    return np.broadcast_to(np.array(values, np.uint8)[np.arange(width) * len(values) // width], (height, width)).copy()


def save_mask(path: Path, mask: np.ndarray, palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette is not None:
        image = Image.fromarray(mask, "P") if mask.dtype == np.uint8 else image
        image.putpalette(palette)
    image.save(path)
    return path


def pairs(root: Path, names: list[str], values: list[int] = [0, 1], end: str = ".png") -> None:  # noqa: B006
    """Images and masks at the same place below images/ and masks/."""
    for name in names:
        picture(root / "images" / f"{name}.jpg")
        save_mask(root / "masks" / f"{name}{end}", blocks(values))


def load(root: Path | str, **settings: Any) -> LabelledData:
    return load_masks(DataConfig(path=str(root), **settings))


def masks_of(data: LabelledData) -> dict[str, np.ndarray]:
    """The masks of all records, by the stem of the image."""
    return {Path(record.name).stem: record.read_mask(record.size) for split in SPLITS for record in data.split(split)}


def coco(
    root: Path, annotations: list[dict[str, Any]], names: tuple[str, ...] = ("cat", "dog"), images: int = 2
) -> Path:
    """A COCO data set of `images` pictures, all annotations with category 1 and image 1 where they name none."""
    listed = []
    for number in range(1, images + 1):
        picture(root / "train" / f"{number}.jpg")
        listed.append({"id": number, "file_name": f"{number}.jpg", "width": SIZE[0], "height": SIZE[1]})
    filled = [
        {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 4, 4], **one}
        for number, one in enumerate(annotations, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    tree = {"images": listed, "annotations": filled, "categories": categories}
    file = root / "train" / "_annotations.coco.json"
    file.write_text(json.dumps(tree))
    return file
