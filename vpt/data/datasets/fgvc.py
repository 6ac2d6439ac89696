"""The five fine-grained data sets of VPT (Jia et al. 2022, section 4.1) with the split files of its authors.

Layout: each data set has, next to its images, `train.json`, `val.json` and `test.json`, which map the path of an image
to its class index. Numbers of images and classes are those of VPT's table 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpt.data.datasets.entries import Entry, Found
from vpt.data.datasets.paths import inside
from vpt.data.datasets.split_files import folder_of, read_mapping
from vpt.utils.errors import UserError

SOURCE = "the split files that the README of github.com/KMnP/vpt links to"


@dataclass(frozen=True)
class FgvcSet:
    """Possible folder names, the subfolder of the images, and the numbers of classes and images."""

    folders: tuple[str, ...]
    images: str
    classes: int
    train: int
    val: int
    test: int


SETS: dict[str, FgvcSet] = {
    "cub": FgvcSet(("CUB_200_2011",), "images", 200, 5_394, 600, 5_794),
    "nabirds": FgvcSet(("nabirds",), "images", 555, 21_536, 2_393, 24_633),
    "flowers": FgvcSet(("OxfordFlowers", "OxfordFlower"), "", 102, 1_020, 1_020, 6_149),
    "dogs": FgvcSet(("StanfordDogs",), "Images", 120, 10_800, 1_200, 8_580),
    "cars": FgvcSet(("StanfordCars",), "", 196, 7_329, 815, 8_041),
}


def places(name: str) -> tuple[str, ...]:
    """Possible locations of a data set below the root.

    >>> places("cub")
    ('fgvc/CUB_200_2011', 'FGVC/CUB_200_2011', 'CUB_200_2011')
    """
    return tuple(f"{above}{folder}" for above in ("fgvc/", "FGVC/", "") for folder in SETS[name].folders)


def read_fgvc(name: str, root: Path) -> Found:
    """Read the data set `name` below `root`; classes are the numbers in the split files, in that order.

    Raises:
        UserError: no such name, or split files that are missing or damaged, by name.

    >>> read_fgvc("birds", Path("data"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.path=fgvc:birds does not exist; did you mean 'nabirds'?; known: cub, ...
    """
    folder = folder_of("fgvc", name, SETS, root, places)
    found = Found()
    for split in ("train", "val", "test"):
        file = folder / f"{split}.json"
        tree = read_mapping(file, SOURCE, "a number for every image")
        found.splits[split] = [_entry(folder / SETS[name].images, path, label, file) for path, label in tree.items()]
    seen = {int(entry.labels[0]) for entry in found.splits["train"]}
    found.classes = tuple(str(label) for label in sorted(seen))
    return found


def _entry(images: Path, path: str, label: Any, file: Path) -> Entry:
    if type(label) is not int:
        raise UserError(f"{file}: the class of {path} is {str(label)[:40]}, not a whole number; use another copy of it")
    return Entry(path, inside(images, path, file), (str(label),))
