"""Which columns of a CSV file hold paths, labels and splits, under the names that other tools give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vpt.data.class_names import visible
from vpt.data.datasets.entries import SPLIT_NAMES, listed
from vpt.data.decode import EXTENSIONS
from vpt.data.medical.files import extension
from vpt.utils.errors import UserError, nearest

Rows = Sequence[tuple[int, Sequence[str]]]  # line numbers and cells

# Names that other tools write, all lower case, with "_" for spaces and "s" for "(s)".
_ALSO = {
    "path": "file_path filepath image_path imagepath img_path filename file_name image_name imagename image_file "
    "img_name file image images img picture photo name image_id imageid img_id id id_code",
    "label": "labels class classes class_name classname label_name category categories category_name target targets "
    "tag tags species diagnosis",
}
LABEL_NAMES = frozenset({"label", *_ALSO["label"].split()})
_SPLITS = {"set", "subset", "partition", "phase", "fold", "dataset", "data_set", "usage"}
_BOXES = ({"xmin", "ymin"}, {"x_min", "y_min"}, {"x1", "y1"}, {"bbox"}, {"bbox_x", "bbox_y"})
_INDEX = re.compile(r"|index|unnamed:_\d+")  # as pandas writes its index
_ON, _OFF, _MINUS = {"1", "1.0", "true"}, {"0", "0.0", "false", ""}, {"-1", "-1.0"}


class Columns(NamedTuple):
    """Positions of the columns.

    Args:
        path: of the images.
        label: of the label cells; None if every class has a column of its own.
        classes: name of the class of each column of 0 and 1.
        split: of the splits, if there is such a column.
        group: of the groups, if one is asked for.
        notes: what was understood, for the user.
    """

    path: int
    label: int | None
    classes: dict[int, str]
    split: int | None
    notes: list[str]
    group: int | None = None

    def marked(self, cells: Sequence[str]) -> list[str]:
        """The classes that a row marks with 1."""
        return [name for at, name in self.classes.items() if cells[at].lower() in _ON]


def columns_of(
    file: Path, names: Sequence[str], rows: Rows, group: str | None = None, wanted: str | None = None
) -> Columns:
    """Find the columns by their names, and columns of 0 and 1 by their cells.

    Args:
        file: for messages.
        names: the cells of the header line.
        rows: the lines below it.
        group: name of the column of groups.
        wanted: name of the column of labels; default: found by its name.

    Raises:
        UserError: no column, or several, for paths or labels; a table of boxes.

    >>> columns_of(Path("a.csv"), ["image", "cat", "dog"], [(2, ["1.png", "0", "1"])]).classes
    {1: 'cat', 2: 'dog'}
    """
    keys = [re.sub(r"[\s\-]+", "_", name.lower()).replace("(s)", "s") for name in names]
    if not any(keys):
        raise UserError(f"{file} is empty; its first line must name the columns path,label")
    named = [key for key in keys if key]
    if len(set(named)) < len(named):
        raise UserError(f"{file} names a column twice: {','.join(names)[:200]}; rename one of them")
    if any(corner <= set(keys) for corner in _BOXES):
        raise UserError(
            f"{file} is a table of boxes ({','.join(names)[:200]}); a CSV is for whole images, boxes are read from "
            "COCO, Pascal VOC or YOLO files (task=detection)"
        )
    grouped = None if group is None else _named(file, names, group, "data.group")
    given = None if wanted is None else _named(file, names, wanted, "data.label_column")
    if grouped is not None:
        keys[grouped] = ""  # it has no other meaning
    path = _find(file, "path", names, keys, rows)
    if path is None:
        raise _absent(file, "path", names, keys)
    split = keys.index("split") if "split" in keys else None
    label = _find(file, "label", names, keys, rows) if given is None else given
    if label is not None and label in (path, split, grouped):
        raise UserError(f"{file}: the column '{names[label]}' has another meaning than labels; see data.label_column")
    notes = []
    classes: dict[int, str] = {}
    if label is None:
        classes = {
            at: name
            for at, name in enumerate(names)
            if at not in (path, split) and not _is_index(keys[at]) and _is_binary(cells[at] for _, cells in rows)
        }
        if len(classes) < 2 or not rows:
            raise _absent(file, "label", names, keys)
        notes.append(
            f"{file}: images are in the column '{names[path]}', and {len(classes)} columns of 0 and 1 are the classes: "
            f"{listed(list(classes.values()))}"
        )
        others = [
            name for at, name in enumerate(names) if at not in (path, split, *classes) and not _is_index(keys[at])
        ]
        if others:
            notes.append(f"{file}: columns that are not used: {listed(others)}")
    elif (keys[path], keys[label]) != ("path", "label"):
        notes.append(f"{file}: images are in the column '{names[path]}', labels in the column '{names[label]}'")
    if split is None:
        notes += _like_splits(file, names, keys, rows)
    return Columns(path, label, classes, split, notes, grouped)


def _named(file: Path, names: Sequence[str], wanted: str, setting: str) -> int:
    """Position of the column that a setting names."""
    found = [at for at, name in enumerate(names) if name == wanted] or [
        at for at, name in enumerate(names) if name.lower() == wanted.lower()
    ]
    if not found:
        listing = listed([visible(name) for name in names])
        raise UserError(
            f"{file} has no column '{wanted}' ({setting}){nearest(wanted, names)}; its columns are {listing}"
        )
    return found[0]


def _find(file: Path, wanted: str, names: Sequence[str], keys: Sequence[str], rows: Rows) -> int | None:
    """Position of the path or label column."""
    if wanted in keys:
        return keys.index(wanted)
    found = [at for at, key in enumerate(keys) if key in _ALSO[wanted].split()]
    if wanted == "path" and len(found) > 1:
        found = [at for at in found if any(_is_image(cells[at]) for _, cells in rows[:100])] or found
    if len(found) > 1:
        raise UserError(
            f"{file} has several columns that could be '{wanted}': {', '.join(names[at] for at in found)}; rename the "
            f"one to be used to '{wanted}'"
        )
    return found[0] if found else None


def _absent(file: Path, wanted: str, names: Sequence[str], keys: Sequence[str]) -> UserError:
    first = ",".join(map(visible, names))[:200]
    if any(_is_image(name) for name in names):
        return UserError(
            f"{file} begins with a row, {visible(','.join(names)[:80])}; above it the first line must name the "
            "columns: path,label"
        )
    other = {"path": "label", "label": "path"}[wanted]
    taken = {"split", other, *_ALSO[other].split()}
    rest = [name for name, key in zip(names, keys) if not _is_index(key) and key not in taken]
    advice = nearest(wanted, keys) or (
        f"; rename the column '{visible(rest[0])[:80]}' to '{wanted}'" if len(rest) == 1 else ""
    )
    return UserError(
        f"{file} has no column '{wanted}'{advice} (its first line is {first}); the first line must name the columns "
        "path,label, or path and a column of 0 and 1 for every class"
        + ("; another column is named by data.label_column" if wanted == "label" else "")
    )


def _like_splits(file: Path, names: Sequence[str], keys: Sequence[str], rows: Rows) -> list[str]:
    """A warning about a column with names of splits that is not called so."""
    return [
        f"warning: {file}: the column '{names[at]}' is not used; if it divides the images into training, validation "
        "and test, rename it to 'split'"
        for at, key in enumerate(keys)
        if key in _SPLITS and rows and all(cells[at].lower() in SPLIT_NAMES for _, cells in rows)
    ]


def _is_binary(cells: Iterable[str]) -> bool:
    """Whether cells are all 0 or 1 (an empty one is 0, as pandas writes missing values), or all -1 or 1."""
    found = {cell.lower() for cell in cells}
    return found != {""} and (found <= _ON | _OFF or found <= _ON | _MINUS)


def _is_index(key: str) -> bool:
    return _INDEX.fullmatch(key) is not None


def _is_image(text: str) -> bool:
    return extension(text) in EXTENSIONS
