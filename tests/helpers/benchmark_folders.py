"""Stand-ins for the folders of the benchmarks: their layout, with a few small images of a few classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vpt.data.datasets import dassl, fgvc, vtab

CLASSES = 4
COUNTS = {"train": 4, "val": 2, "test": 3}  # of each class


def picture(path: Path, label: int, number: int) -> None:
    """A bar whose place tells the class, over noise that makes every image another."""
    chance = np.random.default_rng([label, number, len(path.name)])
    pixels = chance.integers(0, 60, (32, 32, 3), dtype=np.uint8)
    pixels[8 * label : 8 * label + 8] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _each(split: str) -> Iterator[tuple[int, int]]:
    first = 100 * list(COUNTS).index(split)
    return ((label, first + number) for label in range(CLASSES) for number in range(COUNTS[split]))


def vtab_task(root: Path, name: str) -> Path:
    """As NOAH's script writes them: every list has images of its own, joined ones are copies."""
    folder = root / "vtab-1k" / name
    lists = {vtab.TRAIN: ["train"], vtab.VAL: ["val"], vtab.JOINED: ["train", "val"], vtab.TEST: ["test"]}
    classes = min(CLASSES, vtab.TASKS[name].classes)
    for file, splits in lists.items():
        lines = []
        for label, number in (pair for split in splits for pair in _each(split)):
            if label < classes:
                path = f"images/{Path(file).stem}/{len(lines):06d}.jpg"
                picture(folder / path, label, number)
                lines.append(f"{path} {label}")
        (folder / file).write_text("\n".join(lines) + "\n")
    return folder


def fgvc_set(root: Path, name: str) -> Path:
    """As VPT's split files: a mapping of paths to class numbers, counted from 1."""
    folder = root / "fgvc" / fgvc.SETS[name].folders[0]
    for split in COUNTS:
        tree = {}
        for label, number in _each(split):
            path = f"{label:03d}/{split}_{number}.jpg"
            picture(folder / fgvc.SETS[name].images / path, label, number)
            tree[path] = label + 1
        (folder / f"{split}.json").write_text(json.dumps(tree))
    return folder


def dassl_set(root: Path, name: str) -> Path:
    """As CoOp's split files: lists of path, class number, class name."""
    layout = dassl.SETS[name]
    folder = root / layout.folder
    tree: dict[str, list[tuple[str, int, str]]] = {}
    for split in COUNTS:
        for label, number in _each(split):
            path = f"{label}/{split}_{number}.jpg"
            picture(folder / layout.images_in / path, label, number)
            tree.setdefault(split, []).append((path, label, ["cat", "dog", "owl", "fox"][label]))
    assert layout.split is not None
    (folder / layout.split).write_text(json.dumps(tree))
    return folder


IMAGENET = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "shark", "n01491361": "tiger"}


def imagenet(root: Path) -> None:
    """As it unpacks, of a few classes: folders by WordNet id for training and validation, and their names."""
    _by_id(root / "imagenet", "images/train", "train")
    _by_id(root / "imagenet", "images/val", "test")


def imagenet_r(root: Path) -> None:
    """ImageNet-R: one folder of folders by WordNet id."""
    _by_id(root / "imagenet-rendition", "imagenet-r", "test")


def _by_id(folder: Path, inner: str, split: str) -> None:
    for label, number in _each(split):
        picture(folder / inner / list(IMAGENET)[label] / f"{number}.jpg", label, number)
    (folder / "classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in IMAGENET.items()))


def resisc(root: Path) -> Path:
    """As NWPU-RESISC45 unpacks: a folder a class, no splits."""
    for label in range(CLASSES):
        for number in range(10):
            picture(root / "NWPU-RESISC45" / f"class_{label}" / f"{number}.jpg", label, number)
    return root / "NWPU-RESISC45"
