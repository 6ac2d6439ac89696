"""torchvision's classification data sets by name, with their official splits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vpt.data.dataset import Item
from vpt.data.datasets.entries import Entry, Found
from vpt.utils.errors import UserError, nearest

_Splits = dict[str, dict[str, Any]]


def _flag() -> _Splits:
    return {"train": {"train": True}, "test": {"train": False}}


def _named(train: str = "train", val: str | None = None, test: str | None = "test") -> _Splits:
    names = {"train": train, "val": val, "test": test}
    return {ours: {"split": theirs} for ours, theirs in names.items() if theirs is not None}


# Our split -> torchvision's arguments for it. If a set has no validation or test split, one is split off later or left
# out. For ImageNet and others with secret test labels, the validation images are used for testing, as is usual.
SETS: dict[str, _Splits] = {
    "CIFAR10": _flag(),
    "CIFAR100": _flag(),
    "Caltech101": {"train": {}},
    "Caltech256": {"train": {}},
    "CLEVRClassification": _named(test="val"),
    "Country211": _named(val="valid"),
    "DTD": _named(val="val"),
    "EuroSAT": {"train": {}},
    "FER2013": _named(),
    "FGVCAircraft": _named(val="val"),
    "FashionMNIST": _flag(),
    "Flowers102": _named(val="val"),
    "Food101": _named(),
    "GTSRB": _named(),
    "ImageNet": _named(test="val"),
    "Imagenette": _named(test="val"),
    "KMNIST": _flag(),
    "MNIST": _flag(),
    "OxfordIIITPet": _named(train="trainval"),
    "Places365": _named(train="train-standard", test="val"),
    "RenderedSST2": _named(val="val"),
    "STL10": _named(),
    "SUN397": {"train": {}},
    "SVHN": _named(),
    "StanfordCars": _named(),
    "USPS": _flag(),
}


def read_torchvision(name: str, root: Path, download: bool) -> Found:
    """Read the data set `name` (case-insensitive) below `root`; classes and their order are torchvision's.

    Raises:
        UserError: no such name (with the closest match), or files that are missing or incomplete.

    >>> read_torchvision("cifar11", Path("data"), False)
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.path=torchvision:cifar11 does not exist; did you mean 'CIFAR10'?; known: ...
    """
    known = {key.lower(): key for key in SETS}
    key = known.get(name.lower())
    if key is None:
        match = nearest(name.lower(), known)
        for lower, proper in known.items():
            match = match.replace(f"'{lower}'", f"'{proper}'")
        raise UserError(f"data.path=torchvision:{name} does not exist{match}; known: {', '.join(SETS)}")
    found = Found()
    names: dict[int, str] = {}
    for split, arguments in SETS[key].items():
        dataset = _open(key, root, download, arguments)
        labels = _labels(dataset)
        if found.classes is None:
            named = _named_classes(dataset)
            # Without names, classes are called by their labels, which need not count from 0: CLEVR's are 3 to 10.
            names = dict(enumerate(named)) if named else {label: str(label) for label in sorted(set(labels))}
            found.classes = tuple(names.values())
        unknown = next((label for label in labels if label not in names), None)
        if unknown is not None:
            raise UserError(f"torchvision:{key} has a label {unknown} that is not one of its {len(names)} classes")
        found.splits[split] = [
            Entry(f"{key}/{split}/{at:06d}", Item(dataset, at), (names[label],)) for at, label in enumerate(labels)
        ]
    return found


def _open(key: str, root: Path, download: bool, arguments: dict[str, Any]) -> Any:
    import torchvision.datasets

    if download and key not in ("FER2013", "ImageNet", "StanfordCars"):  # these must be downloaded by hand
        arguments = {**arguments, "download": True}
    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
        return getattr(torchvision.datasets, key)(root=str(root), **arguments)
    except Exception as error:
        # Missing files raise RuntimeError, OSError, ... depending on the data set; a failed download raises URLError.
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = (
            "download it by hand"
            if download
            else "set data.download=true to download it, or data.root to the folder that contains it"
        )
        raise UserError(f"torchvision:{key} cannot be read from {root.absolute()} ({reason}); {remedy}") from error


def _labels(dataset: Any) -> list[int]:
    """All labels, without decoding images if the data set stores labels separately (every set above does)."""
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None:
            return _integers(values)
    for attribute in ("samples", "_samples"):
        pairs = getattr(dataset, attribute, None)
        if pairs is not None:
            return _integers(label for _, label in pairs)
    return _integers(dataset[at][1] for at in range(len(dataset)))


def _integers(values: Iterable[Any]) -> list[int]:
    return [int(value) for value in values]


def _named_classes(dataset: Any) -> tuple[str, ...]:
    """Class names according to torchvision, or none."""
    for attribute in ("classes", "categories"):
        names = getattr(dataset, attribute, None)
        if names:
            # ImageNet has several names per class.
            return _distinct([name if isinstance(name, str) else ", ".join(name) for name in names])
    return ()


def _distinct(names: list[str]) -> tuple[str, ...]:
    # "crane" is both a bird and a machine in ImageNet.
    return tuple(f"{name} ({at})" if names.count(name) > 1 else name for at, name in enumerate(names))
