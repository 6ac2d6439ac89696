"""In which of the usual layouts a folder holds boxes."""

from __future__ import annotations

from pathlib import Path

from vpt.data.boxes.coco import find_coco
from vpt.data.boxes.voc import find_voc

YOLO, VOC, COCO = "YOLO", "Pascal VOC", "COCO"


def layout_of(folder: Path) -> str | None:
    """The layout of a folder; None where it holds no boxes that are known.

    >>> layout_of(Path("no/such")) is None
    True
    """
    if yolo_file(folder).is_file():
        return YOLO
    if find_voc(folder) is not None:
        return VOC
    return COCO if "train" in find_coco(folder) else None


def yolo_file(folder: Path) -> Path:
    """YOLO's description of a folder, whether it exists or not."""
    names = ("data.yaml", "data.yml", "dataset.yaml")
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
