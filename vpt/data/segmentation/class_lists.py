"""Classes of mask files: from a YAML file, a list of names, CVAT's labelmap.txt, or those that a layout stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vpt.config import read_yaml
from vpt.data.annotation_text import one_form, printable, whole_number
from vpt.data.datasets.entries import listed
from vpt.data.detection.split_names import list_lines
from vpt.data.segmentation.dataset import IGNORE, MOST_CLASSES
from vpt.data.segmentation.mask_files import ValueTable
from vpt.utils.errors import UserError
from vpt.utils.file_names import one_line

_LISTS = ("classes.yaml", "classes.yml", "labelmap.txt", "classes.txt", "class_names.txt", "labels.txt")
_EXAMPLE = (
    "as in 'classes: [road, car]' (values 0 and 1), 'classes: {7: road, 26: car}' (values) or "
    "'classes: {road: [128, 64, 128], car: [0, 0, 142]}' (colours)"
)


class ClassList(NamedTuple):
    """Names, in the order of class indices, and what the values or colours of mask files mean."""

    names: tuple[str, ...]
    table: ValueTable


def class_file(folder: Path) -> Path | None:
    """The file of a data set that lists its classes, or None.

    >>> class_file(Path("no/such")) is None
    True
    """
    return next((folder / name for name in _LISTS if (folder / name).is_file()), None)


def read_class_list(file: Path, ignore: int) -> ClassList:
    """Read a list of classes.

    A YAML file has `classes`: names in the order of the values, names by value, or colours by name; and `ignore`, if
    needed: further values, or colours. A text file has a name a line, in the order of the values; labelmap.txt has
    lines as in `road:128,64,128::`.

    Args:
        file: the file.
        ignore: value of ignored pixels.

    Raises:
        UserError: it cannot be read, or names no classes.
    """
    if file.suffix.lower() in (".yaml", ".yml"):
        return _of_yaml(read_yaml(file), file, ignore)
    lines = list_lines(file)
    if file.name == "labelmap.txt":
        colors: dict[str, Any] = {}
        for line in lines:
            name, _, rest = line.partition(":")
            if not line.startswith("#"):
                colors[name] = [whole_number(part) for part in rest.partition(":")[0].split(",")]
        return _of_colors(colors, [], file)
    return _of_values(dict(enumerate(lines)), [ignore], file)


def _of_yaml(tree: Mapping[str, Any], file: Path, ignore: int) -> ClassList:
    classes, ignored = tree.get("classes", tree.get("names")), tree.get("ignore", [])
    if unknown := sorted(set(tree) - {"classes", "names", "ignore"}):
        raise UserError(f"{file} has the unknown key {printable(unknown[0])}; known: classes, ignore")
    if not isinstance(ignored, list) or (ignored and all(_is_byte(value) for value in ignored) and len(ignored) == 3):
        ignored = [ignored]
    if isinstance(classes, list):
        classes = dict(enumerate(classes))
    if not isinstance(classes, dict) or not classes:
        raise UserError(f"{file} must name the classes, {_EXAMPLE}")
    if all(isinstance(key, int) and not isinstance(key, bool) for key in classes):
        flat = [value for part in ignored for value in (part if isinstance(part, list) else [part])]
        return _of_values(classes, [ignore, *flat], file)
    return _of_colors(classes, ignored, file)


def _of_values(names: Mapping[int, Any], ignored: Sequence[Any], file: Path) -> ClassList:
    values = {value: IGNORE for value in ignored if isinstance(value, int)}
    known: list[str] = []
    for value, name in sorted(names.items()):
        if not 0 <= value < 65_536:
            raise UserError(f"{file}: class {printable(name)} has the value {value}; values are 0 to 65535")
        if value not in values:  # a class whose value is ignored is none
            values[value] = len(known)
            known.append(name)
    return ClassList(checked_names(known, file), ValueTable(values))


def _of_colors(colors: Mapping[Any, Any], ignored: Sequence[Any], file: Path) -> ClassList:
    table: dict[int, int] = {}
    for label, (name, color) in enumerate([*colors.items(), *((None, color) for color in ignored)]):
        if not isinstance(color, list) or len(color) != 3 or not all(_is_byte(part) for part in color):
            raise UserError(
                f"{file}: the colour of {printable(name)} is {printable(color)}; it must be [red, green, blue]"
            )
        key = color[0] << 16 | color[1] << 8 | color[2]
        if key in table:
            raise UserError(f"{file}: the colour {color} is given twice")
        table[key] = IGNORE if name is None else label
    return ClassList(checked_names(list(colors), file), ValueTable(colors=table))


def checked_names(names: Sequence[Any], file: Path) -> tuple[str, ...]:
    """Class names, in one form.

    Raises:
        UserError: none, too many, one that is not text, is empty, or occurs twice.

    >>> checked_names(["road", "car"], Path("classes.txt"))
    ('road', 'car')
    """
    if not 0 < len(names) <= MOST_CLASSES:
        raise UserError(f"{file} names {len(names)} classes; masks may have 1 to {MOST_CLASSES}")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(
                f"{file}: a class is named {printable(name)}; names must be text, in quotes if YAML reads another type"
            )
    found = tuple(one_line(one_form(name.strip())) for name in names)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise UserError(f"{file}: a class name occurs twice: {listed([printable(name) for name in twice], 5)}")
    return found


def numbered(values: Sequence[int], ignore: int | None, notes: list[str], place: str) -> ClassList:
    """Classes of masks without a list, from the values that occur: 0 to the largest that is not ignored.

    Masks of 0 and 255 alone are background and foreground, unless `ignore` says otherwise.

    Raises:
        UserError: values too large for class indices.

    >>> numbered([0, 2, 255], None, [], "masks").names
    ('class_0', 'class_1', 'class_2')
    >>> numbered([0, 255], None, [], "masks").names
    ('background', 'foreground')
    """
    if ignore is None and set(values) == {0, IGNORE}:
        notes.append(f"the masks of {place} have the values 0 and 255: background and foreground")
        return ClassList(("background", "foreground"), ValueTable({0: 0, 255: 1}))
    ignored = IGNORE if ignore is None else ignore
    kept = [value for value in values if value != ignored]
    if not kept or max(kept) >= MOST_CLASSES:
        what = f"values up to {max(kept)}" if kept else "only ignored pixels"
        raise UserError(
            f"the masks of {place} have {what}, so their classes are unclear; name them in a YAML file, {_EXAMPLE}, "
            "with data.mask_classes"
        )
    notes.append(f"the classes of {place} have no names; list them in {place}/classes.txt, a line for each value")
    used = [value for value in range(max(kept) + 1) if value != ignored]
    table = {value: label for label, value in enumerate(used)}
    return ClassList(tuple(f"class_{value}" for value in used), ValueTable({**table, ignored: IGNORE}))


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
