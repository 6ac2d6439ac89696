"""Four small data sets, laid out as the tools that newcomers use write them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw

SIZE = (72, 56)  # width and height of every photo
SHADES = {"rose": (200, 40, 60), "tulip": (230, 200, 40), "daisy": (240, 240, 250)}
NAMES = list(SHADES)


def _photo(path: Path, seed: int, shapes: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    """A photo of noise with an ellipse for every shape, in the colour of its class."""
    chance = np.random.default_rng(seed)
    image = Image.fromarray(chance.integers(30, 110, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    for name, box in shapes:
        pen.ellipse(box, fill=SHADES[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)


def _box(chance: np.random.Generator) -> tuple[int, int, int, int]:
    x, y = int(chance.integers(0, SIZE[0] - 30)), int(chance.integers(0, SIZE[1] - 30))
    return x, y, x + int(chance.integers(16, 30)), y + int(chance.integers(16, 30))


def _scenes(count: int, seed: int) -> Iterator[list[tuple[str, tuple[int, int, int, int]]]]:
    chance = np.random.default_rng(seed)
    for number in range(count):
        yield [(NAMES[(number + at) % 3], _box(chance)) for at in range(1 + number % 2)]


def class_folders(folder: Path, count: int = 12) -> None:
    """A folder for every class, with the files that desktops leave behind."""
    for place, name in enumerate(NAMES):
        for number in range(count):
            _photo(folder / name / f"IMG_{number:04}.jpg", 100 * place + number, [(name, (10, 8, 60, 50))])
    (folder / ".DS_Store").write_bytes(b"\0")


def label_table(file: Path, count: int = 36) -> None:
    """A CSV as a spreadsheet saves it: byte order mark, semicolons, CRLF; one photo with no label for every four."""
    rows = []
    for number in range(count):
        shown = [name for at, name in enumerate(NAMES) if (number >> at) & 1 and number % 4]
        boxes = [(5 + 20 * at, 10, 25 + 20 * at, 40) for at in range(3)]
        _photo(file.parent / "images" / f"{number}.jpg", 500 + number, list(zip(shown, boxes)))
        rows.append((f"images/{number}.jpg", "|".join(shown)))
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        csv.writer(out, delimiter=";").writerows([("filename", "labels"), *rows])


def voc(folder: Path, count: int = 20) -> None:
    """Annotations/, JPEGImages/ and ImageSets/Main, as the devkit and labelImg write them."""
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, scene in enumerate(_scenes(count, 1)):
        stem = f"2026_{number:06}"
        _photo(folder / "JPEGImages" / f"{stem}.jpg", 900 + number, scene)
        objects = "".join(
            f"  <object>\n    <name>{escape(name)}</name>\n    <pose>Unspecified</pose>\n    <truncated>0</truncated>\n"
            f"    <difficult>0</difficult>\n    <bndbox>\n      <xmin>{x1 + 1}</xmin>\n      <ymin>{y1 + 1}</ymin>\n"
            f"      <xmax>{x2}</xmax>\n      <ymax>{y2}</ymax>\n    </bndbox>\n  </object>\n"
            for name, (x1, y1, x2, y2) in scene
        )
        xml = (
            f"<annotation>\n  <folder>VOC</folder>\n  <filename>{stem}.jpg</filename>\n  <size>\n"
            f"    <width>{SIZE[0]}</width>\n    <height>{SIZE[1]}</height>\n    <depth>3</depth>\n  </size>\n"
            f"  <segmented>0</segmented>\n{objects}</annotation>\n"
        )
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{stem}.xml").write_text(xml)
        names["train" if number < count - 8 else "val" if number < count - 4 else "test"].append(stem)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, stems in {**names, "trainval": names["train"] + names["val"]}.items():
        (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")


def yolo(folder: Path, count: int = 20) -> None:
    """data.yaml with images/ and labels/, as Ultralytics and Roboflow write them.

    One photo has no label file, one label file no photo, and one box no width.
    """
    for number, scene in enumerate(_scenes(count, 2)):
        split = "train" if number < count - 8 else "val" if number < count - 4 else "test"
        _photo(folder / "images" / split / f"{number:03}.jpg", 1300 + number, scene)
        lines = [
            f"{NAMES.index(name)} {(x1 + x2) / 2 / SIZE[0]:.6f} {(y1 + y2) / 2 / SIZE[1]:.6f} "
            f"{(x2 - x1) / SIZE[0]:.6f} {(y2 - y1) / SIZE[1]:.6f}\n"
            for name, (x1, y1, x2, y2) in scene
        ]
        if number == 1:
            lines.append("0 0.500000 0.500000 0.000000 0.250000\n")
        labels = folder / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        if number != 2:
            (labels / f"{number:03}.txt").write_text("".join(lines))
    (folder / "labels" / "train" / "removed.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(
        f"path: ../datasets/flowers  # dataset root dir\ntrain: images/train\nval: images/val\ntest: images/test\n\n"
        f"names:\n{names}"
    )
