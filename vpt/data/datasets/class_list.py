"""The classes of a data set: which there are, in which order, and which half of them is used."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from vpt.config import DataConfig
from vpt.data.class_names import alike, clean, number_in
from vpt.data.datasets.entries import Found, NoTrainingImages, listed, number_of
from vpt.data.datasets.image_folder import nested
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError


def classes_of(found: Found, config: DataConfig) -> tuple[str, ...]:
    """The classes of the training images, or the data set's own list, in the order of `data.classes`.

    Raises:
        UserError: no training images, fewer than two classes, or an order that does not fit.
    """
    path, train = config.path, found.splits.get("train", [])
    if found.classes is not None and found.splits.get("test") and not train:
        return found.classes  # a data set with only test images
    if not train:
        raise NoTrainingImages(
            f"data.path={path} has no training images; give some of them the split 'train', or evaluate a run on it: "
            f"vpt eval RUN data={quote(str(path))}"
        )
    classes = _in_order(found.classes or sorted({label for entry in train for label in entry.labels}), found, config)
    if len(classes) < 2:
        if (inner := nested(at_home(path))) is not None:
            raise UserError(f"data.path={path} contains only the folder {inner.name}; did you mean data={inner}?")
        raise UserError(
            f"data.path={path} has only one class ({classes[0]}); a classifier needs the images of at least two"
        )
    return classes


def half_of(found: Found, classes: tuple[str, ...], half: str) -> tuple[str, ...]:
    """Keep the first half of the classes (one more if their number is odd) or the second, and only their images."""
    if found.multilabel:
        raise UserError("data.half splits the classes, which is not possible for multi-label data; leave it out")
    middle = (len(classes) + 1) // 2
    kept = classes[:middle] if half == "base" else classes[middle:]
    if len(kept) < 2:
        raise UserError(f"data.half={half} leaves {number_of(len(kept), 'class')} of {len(classes)}; it needs two")
    found.splits = {
        split: [entry for entry in entries if entry.labels[0] in set(kept)] for split, entries in found.splits.items()
    }
    return kept


def _in_order(names: Sequence[str], found: Found, config: DataConfig) -> tuple[str, ...]:
    """The classes in the order of `data.classes`."""
    wanted = config.classes
    if wanted is None or (wanted == "ordered" and found.classes is not None):
        return tuple(names)
    if wanted == "ordered":
        values = {name: number for name in names if (number := number_in(name)) is not None}
        if len(set(values.values())) < len(names):
            raise UserError(
                f"the classes of data.path={config.path} have no order that their names tell: {listed(list(names))}; "
                "give them in their order, as in data.classes=low,middle,high"
            )
        return tuple(sorted(names, key=lambda name: values[name]))
    given = tuple(clean(name) or name for name in wanted)
    if len(set(given)) < len(given):
        raise UserError(f"data.classes names a class twice: {listed(list(given))}")
    for what, one, other in (("has no training images of", given, names), ("lacks", names, given)):
        if missing := [name for name in one if name not in other]:
            subject = f"data.path={config.path}" if one is given else "data.classes"
            raise UserError(f"{subject} {what} {listed(missing)}{alike(missing[0], other)}")
    return given
