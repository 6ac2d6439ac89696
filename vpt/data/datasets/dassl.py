"""The data sets of CoOp and its successors, with their folders and split files: eleven data sets, and four shifts of
ImageNet.

Layout: the split file `split_zhou_NAME.json` contains lists of [path, label, class name] for train, val and test;
ImageNet, FGVC-Aircraft and the shifts have none and are read from their own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpt.data.datasets.entries import Entry, Found, is_image
from vpt.data.datasets.paths import inside
from vpt.data.datasets.split_files import folder_of, read_lines, read_mapping
from vpt.utils.errors import UserError
from vpt.utils.file_names import shown


@dataclass(frozen=True)
class Layout:
    """Location of a data set below the root, its size, and its prompt template."""

    folder: str
    images_in: str  # below the folder; paths in a split file are relative to it
    split: str | None
    classes: int
    counts: tuple[int, ...]  # numbers of training, validation and test images; or of test images only
    template: str = "a photo of a {}."

    @property
    def images(self) -> dict[str, int]:
        """Number of images of each split, as far as it is known."""
        splits = ("train", "val", "test") if len(self.counts) == 3 else ("test",)
        return dict(zip(splits, self.counts, strict=True))


# Numbers are those of CoOp's table of data sets (Zhou et al. 2022, appendix A).
SETS: dict[str, Layout] = {
    "imagenet": Layout("imagenet", "images", None, 1000, (50_000,)),
    "caltech101": Layout(
        "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json", 100, (4_128, 1_649, 2_465)
    ),
    "oxford_pets": Layout(
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        37,
        (2_944, 736, 3_669),
        "a photo of a {}, a type of pet.",
    ),
    "stanford_cars": Layout("stanford_cars", "", "split_zhou_StanfordCars.json", 196, (6_509, 1_635, 8_041)),
    "oxford_flowers": Layout(
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        102,
        (4_093, 1_633, 2_463),
        "a photo of a {}, a type of flower.",
    ),
    "food101": Layout(
        "food-101",
        "images",
        "split_zhou_Food101.json",
        101,
        (50_500, 20_200, 30_300),
        "a photo of {}, a type of food.",
    ),
    "fgvc_aircraft": Layout(
        "fgvc_aircraft", "images", None, 100, (3_334, 3_333, 3_333), "a photo of a {}, a type of aircraft."
    ),
    "sun397": Layout("sun397", "SUN397", "split_zhou_SUN397.json", 397, (15_880, 3_970, 19_850)),
    "dtd": Layout("dtd", "images", "split_zhou_DescribableTextures.json", 47, (2_820, 1_128, 1_692), "{} texture."),
    "eurosat": Layout(
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        10,
        (13_500, 5_400, 8_100),
        "a centered satellite photo of {}.",
    ),
    "ucf101": Layout(
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        101,
        (7_639, 1_898, 3_783),
        "a photo of a person doing {}.",
    ),
    "imagenetv2": Layout("imagenetv2", "imagenetv2-matched-frequency-format-val", None, 1000, (10_000,)),
    "imagenet_sketch": Layout("imagenet-sketch", "images", None, 1000, (50_889,)),
    "imagenet_a": Layout("imagenet-adversarial", "imagenet-a", None, 200, (7_500,)),
    "imagenet_r": Layout("imagenet-rendition", "imagenet-r", None, 200, (30_000,)),
}
SHIFTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")


def template_of(path: str) -> str | None:
    """The prompt template of the data set `dassl:NAME`; None for any other data.

    >>> template_of("dassl:dtd"), template_of("photos")
    ('{} texture.', None)
    """
    layout = SETS.get(path.removeprefix("dassl:")) if path.startswith("dassl:") else None
    return layout.template if layout is not None else None


def read_dassl(name: str, root: Path) -> Found:
    """Read the data set `name` below `root`, with its official splits and class order.

    Raises:
        UserError: no such name, or files that are missing or damaged, by name.

    >>> read_dassl("caltech", Path("data"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.path=dassl:caltech does not exist; did you mean 'caltech101'?; known: imagenet, ...
    """
    folder = folder_of("dassl", name, SETS, root, lambda name: [SETS[name].folder])
    layout = SETS[name]
    if layout.split is not None:
        return _from_split(folder, layout)
    if name == "fgvc_aircraft":
        return _aircraft(folder, layout)
    return _imagenet(name, folder, layout)


def _from_split(folder: Path, layout: Layout) -> Found:
    assert layout.split is not None
    file = folder / layout.split
    tree = read_mapping(file, "the split files that CoOp's DATASETS.md links to", "train, val and test")
    found = Found()
    names: dict[int, str] = {}
    for split in ("train", "val", "test"):
        entries = []
        for row in _rows(tree.get(split, []), file):
            path, label, name = row
            known = names.setdefault(label, name)
            if known != name:
                raise UserError(
                    f"{file}: class {label} has two names, '{known[:60]}' and '{name[:60]}'; use another copy of it"
                )
            entries.append(Entry(path, inside(folder / layout.images_in, path, file), (name,)))
        found.splits[split] = entries
    found.classes = tuple(names[label] for label in sorted(names))
    return found


def _rows(rows: Any, file: Path) -> Iterable[tuple[str, int, str]]:
    if not isinstance(rows, list):
        raise UserError(f"{file} is not a split file: its splits must be lists of [path, label, class name]")
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and type(row[1]) is int):
            raise UserError(f"{file}: {str(row)[:80]} is not of the form [path, label, class name]")
        yield row[0], row[1], str(row[2])


def _aircraft(folder: Path, layout: Layout) -> Found:
    names = read_lines(folder / "variants.txt")
    found = Found(classes=tuple(names))
    for split in ("train", "val", "test"):
        file = folder / f"images_variant_{split}.txt"
        entries = []
        for line in read_lines(file):
            image, _, name = line.partition(" ")
            if name not in names:
                raise UserError(f"{file}: '{name}' is not among the variants; use another copy of it")
            entries.append(Entry(f"{image}.jpg", inside(folder / layout.images_in, f"{image}.jpg", file), (name,)))
        found.splits[split] = entries
    return found


def _imagenet(name: str, folder: Path, layout: Layout) -> Found:
    """ImageNet and its shifts: folders named by WordNet id, or by number in ImageNetV2; class names are CLIP's."""
    names = _imagenet_names(folder)
    found = Found()
    if name == "imagenet":
        found.splits["train"] = _by_id(folder / layout.images_in / "train", names.__getitem__)
        found.splits["test"] = _by_id(folder / layout.images_in / "val", names.__getitem__)
        found.classes = tuple(names.values())
        return found
    by_number = list(names.values())
    read = (lambda number: by_number[int(number)]) if name == "imagenetv2" else names.__getitem__
    entries = _by_id(folder / layout.images_in, read)
    present = {entry.labels[0] for entry in entries}
    found.splits["test"] = entries
    found.classes = tuple(label for label in by_number if label in present)
    return found


def _by_id(folder: Path, name: Callable[[str], str]) -> list[Entry]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; check data.root")
    entries = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            label = name(inner.name)
        except (KeyError, ValueError, IndexError):
            raise UserError(f"{inner} is not a class of ImageNet; folders must be named by WordNet id") from None
        files = sorted(file for file in inner.iterdir() if is_image(file.name))
        entries += [Entry(shown(file.relative_to(folder)), file, (label,)) for file in files]
    return entries


def _imagenet_names(folder: Path) -> dict[str, str]:
    """WordNet id -> name, in the order of ids: from classnames.txt if it exists, else CLIP's equivalent list."""
    file = folder / "classnames.txt"
    if file.is_file():
        pairs = [line.partition(" ") for line in read_lines(file)]
        names = {identity: name for identity, _, name in pairs}
    else:
        import open_clip
        from timm.data import ImageNetInfo

        names = dict(zip(ImageNetInfo().label_names(), open_clip.IMAGENET_CLASSNAMES, strict=True))
    counts: dict[str, int] = {}
    for identity, name in sorted(names.items()):
        counts[name] = counts.get(name, 0) + 1
        # Two names occur twice ("missile", "sunglasses"); make class names unique.
        names[identity] = name if counts[name] == 1 else f"{name} ({counts[name]})"
    return dict(sorted(names.items()))
