"""Detection of the layout of a folder with boxes."""

from __future__ import annotations

from pathlib import Path

from vpt.data.datasets.entries import listed
from vpt.data.detection.coco_files import find_coco
from vpt.data.detection.darknet import find_darknet
from vpt.data.detection.voc_files import find_voc
from vpt.data.detection.yolo_yaml import describes_boxes

YOLO, DARKNET, VOC, COCO = "YOLO", "YOLO (Darknet)", "Pascal VOC", "COCO"


def layout_of(folder: Path) -> str | None:
    """The layout of a folder; None if it contains no boxes in a known layout.

    >>> layout_of(Path("no/such")) is None
    True
    """
    if yolo_file(folder).is_file():
        return YOLO
    if any(folder.glob("*.data")):
        return DARKNET
    if find_voc(folder) is not None:
        return VOC
    if find_coco(folder):
        return COCO
    return DARKNET if find_darknet(folder) is not None else None


def yolo_file(folder: Path) -> Path:
    """YOLO's description in a folder, whether it exists or not: data.yaml, or the only YAML file with classes and
    splits."""
    names = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
    files = [file for file in _files(folder) if file.suffix.lower() in (".yaml", ".yml")]
    others = [file for file in files if describes_boxes(file)]
    known = next((folder / name for name in names if (folder / name).is_file()), None)
    if known is not None and (known in others or len(others) != 1):
        return known
    named = [file for file in others if file.stem.lower() == folder.resolve().name.lower()]
    return (named or others)[0] if named or len(others) == 1 else folder / names[0]


def _files(folder: Path) -> list[Path]:
    """The files of a folder, sorted; none where it cannot be read."""
    try:
        return sorted(file for file in folder.iterdir() if file.is_file())
    except OSError:
        return []


def not_known(path: str, folder: Path) -> str:
    """Error message for a folder without boxes in a known layout: what was looked for, and what was found.

    >>> not_known("photos", Path("no/such"))[:39]
    'data.path=photos contains no boxes in a'
    """
    text = (
        f"data.path={path} contains no boxes in a known layout: no data.yaml (YOLO), obj.data or classes.txt "
        "(Darknet), Annotations/*.xml (Pascal VOC), annotations/instances_train.json or "
        "train/_annotations.coco.json (COCO)"
    )
    if not folder.is_dir():
        return text
    there = [
        str(file.relative_to(folder))
        for pattern in ("*", "*/*")
        for file in sorted(folder.glob(pattern))
        if file.suffix.lower() in (".json", ".xml", ".yaml", ".yml")
    ]
    described = [file for file in _files(folder) if describes_boxes(file)]
    if len(described) > 1:
        return (
            f"data.path={path} contains several YAML files with classes and splits; did you mean data={described[0]}?"
        )
    inner = [place for place in sorted(folder.iterdir()) if place.is_dir() and layout_of(place) is not None]
    if inner:
        text += f"; did you mean data={inner[0]}?"
    elif there:
        text += f"; it contains {listed(there, 5)}, in which no annotations were found"
    return text
