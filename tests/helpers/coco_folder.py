"""A folder of images with boxes as COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BOXES = [((2.0, 3.0, 20.0, 30.0), "cat"), ((10.0, 5.0, 40.0, 25.0), "dog")]


def picture(path: Path, size: tuple[int, int] = (48, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def coco(folder: Path, count: int = 6, change: Any = None) -> Path:
    """Images with two boxes each, the last one with none, and sparse category ids."""
    tree: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    for number in range(count):
        picture(folder / "images" / f"{number}.png")
        tree["images"].append({"id": 100 + number, "file_name": f"{number}.png", "width": 48, "height": 32})
        for box, name in BOXES if number < count - 1 else []:
            x1, y1, x2, y2 = box
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]),
                    "image_id": 100 + number,
                    "category_id": {"cat": 3, "dog": 7}[name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": int(number == 0 and name == "dog"),
                }
            )
    if change is not None:
        change(tree)
    file = folder / "annotations" / "instances_train.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(tree))
    return file
