"""Data sets of boxes, laid out on disk for tests; what is read of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from vpt.config import DataConfig
from vpt.data.dataset import SPLITS
from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.registry import load_boxes, read_boxes

SIZE = (64, 48)


def picture(path: Path, size: tuple[int, int] = SIZE, seed: int | None = None, orientation: int | None = None) -> Path:
    """A picture of noise, another one for each path; with an EXIF orientation if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(sum(map(ord, str(path))) if seed is None else seed)
    pixels = chance.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def coco_tree(
    images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], names: Sequence[str] = ("cat", "dog")
) -> dict[str, Any]:
    """A COCO file's content, with ids from 1 where none are given."""
    return {
        "images": [{"id": number, "width": SIZE[0], "height": SIZE[1], **one} for number, one in enumerate(images, 1)],
        "annotations": [
            {"id": number, "category_id": 1, "iscrowd": 0, **one} for number, one in enumerate(annotations, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }


def write_json(path: Path, tree: Any, encoding: str = "utf-8") -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree), encoding=encoding)
    return path


def coco(folder: Path, names: Sequence[str] = ("0.png", "1.png", "2.png"), split: str = "train", **more: Any) -> Path:
    """A folder in COCO's layout: one box (5, 6, 25, 21) in each image. `more` goes to every image."""
    for name in names:
        picture(folder / "images" / name)
    images = [{"file_name": name, **more} for name in names]
    annotations = [{"image_id": number, "bbox": [5, 6, 20, 15]} for number in range(1, len(names) + 1)]
    write_json(folder / "annotations" / f"instances_{split}.json", coco_tree(images, annotations))
    return folder


def change(folder: Path, what: Any, split: str = "train") -> Path:
    """Change a COCO file: `what` is called with its tree."""
    file = folder / "annotations" / f"instances_{split}.json"
    tree = json.loads(file.read_text())
    what(tree)
    file.write_text(json.dumps(tree))
    return folder


def xml(
    path: Path,
    filename: str | None,
    objects: Sequence[tuple[str, float, float, float, float]] = (("cat", 6, 7, 25, 21),),
    size: tuple[int, int] | None = SIZE,
    more: str = "",
) -> Path:
    """A VOC file; boxes as they stand in it. The default is (5, 6, 25, 21) for who counts pixels from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = "".join(
        f"<object><name>{escape(name)}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for name, a, b, c, d in objects
    )
    named = f"<filename>{escape(filename)}</filename>" if filename is not None else ""
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    path.write_text(f"<annotation>{named}{more}{sides}{parts}</annotation>", encoding="utf-8")
    return path


LINE = "0 0.234375 0.28125 0.3125 0.3125\n"  # (5, 6, 25, 21) in a picture of 64x48


def label(path: Path, text: str = LINE, encoding: str = "utf-8") -> Path:
    """A YOLO label file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def yolo(
    folder: Path, text: str = LINE, description: str = "train: images/train\nnames: [cat, dog]\n", count: int = 3
) -> Path:
    """A folder in Ultralytics' layout."""
    for number in range(count):
        picture(folder / "images" / "train" / f"{number}.jpg")
        label(folder / "labels" / "train" / f"{number}.txt", text)
    (folder / "data.yaml").write_text(description, encoding="utf-8")
    return folder


BOX = ("cat", (5.0, 6.0, 25.0, 21.0))


def read(path: Path | str, **settings: Any) -> dict[str, dict[str, list[Any]]]:
    """Boxes by split and file name as they were read, before anything is split off."""
    found, _ = read_boxes(DataConfig(path=str(path), **settings))
    return {
        split: {entry.source.name: [(raw.label, rounded(raw.box)) for raw in entry.boxes] for entry in entries}
        for split, entries in found.splits.items()
    }


def notes(path: Path | str, **settings: Any) -> str:
    """What is said about a data set when it is read."""
    return "\n".join(read_boxes(DataConfig(path=str(path), **settings))[0].notes)


def records(path: Path | str, **settings: Any) -> dict[str, BoxRecord]:
    """All records by their names."""
    data = load_boxes(DataConfig(path=str(path), **settings))
    everything = [record for split in SPLITS for record in data.split(split)]
    assert all(isinstance(record, BoxRecord) for record in everything)
    return {record.name: record for record in everything}  # type: ignore[misc]


def rounded(box: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in box)
