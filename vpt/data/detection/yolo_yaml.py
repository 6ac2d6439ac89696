"""Reader of YOLO's data.yaml that keeps every value as text: YAML 1.1 would read `no` and `on` as booleans, `010` as 8,
and `1.10` as 1.1, which changes class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vpt.data.annotation_text import one_form, printable, whole_number
from vpt.data.datasets.entries import listed
from vpt.data.datasets.split_files import read_text
from vpt.utils.errors import UserError

_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "minival": "val", "test": "test"}
_MOST_CLASSES = 100_000


class Description(NamedTuple):
    """Contents of a data.yaml.

    Args:
        names: class names.
        path: the folder that paths are relative to, or "".
        places: paths of each split, as written.
        keypoints: number of values after the box in pose labels; None if the data has no poses.
        notes: messages for the user.
    """

    names: tuple[str, ...]
    path: str
    places: dict[str, list[str]]
    keypoints: int | None
    notes: tuple[str, ...]


class _Texts(yaml.BaseLoader):
    """YAML loader that keeps scalars as text and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return mapping


def read_texts(file: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping, with all scalars as text.

    Raises:
        UserError: it is missing, not YAML, or contains something else.
    """
    try:
        tree = yaml.load(read_text(file, "check data.path"), _Texts)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file} must contain 'key: value' lines, as in 'train: images/train' and 'names: [cat, dog]'")
    return {str(key): value for key, value in tree.items()}


def describes_boxes(file: Path) -> bool:
    """Whether a YAML file names classes and splits, as YOLO's do.

    >>> describes_boxes(Path("no/such.yaml"))
    False
    """
    try:
        tree = read_texts(file)
    except UserError:
        return False
    return "names" in tree and any(key in tree for key in _KEYS)


def read_description(file: Path) -> Description:
    """Read a data.yaml.

    Raises:
        UserError: it cannot be read, or does not describe a data set.
    """
    tree = read_texts(file)
    notes: list[str] = []
    places: dict[str, list[str]] = {}
    for key, value in tree.items():
        split = _KEYS.get(key.lower())
        if split is not None and value not in ("", "~", "null", []):
            texts = value if isinstance(value, list) else [value]
            if not all(isinstance(text, str) and text for text in texts):
                raise UserError(f"{file}: {key} must be a folder, a list, or several of them, not {printable(value)}")
            places.setdefault(split, []).extend(texts)
    path = tree.get("path", "")
    if not isinstance(path, str):
        raise UserError(f"{file}: path must be a folder, not {printable(path)}")
    names = _names(tree, file, notes)
    return Description(names, "" if path in ("~", "null") else path, places, _keypoints(tree, file), tuple(notes))


def _names(tree: dict[str, Any], file: Path, notes: list[str]) -> tuple[str, ...]:
    value, count = tree.get("names"), whole_number(str(tree.get("nc", "")))
    if value in (None, "", [], {}) and count is not None and 0 < count <= _MOST_CLASSES:
        notes.append(f"{file.name} has no class names; using class_0 to class_{count - 1}")
        return tuple(f"class_{number}" for number in range(count))
    if isinstance(value, dict):
        ordered = {whole_number(key): name for key, name in value.items()}
        if None in ordered:
            raise UserError(f"{file}: the keys of names must be numbers from 0 on")
        if sorted(ordered, key=lambda key: key or 0) != list(range(len(value))):
            raise UserError(f"{file}: the keys of names must be the numbers 0 to {len(value) - 1}")
        value = [ordered[number] for number in range(len(ordered))]
    if not isinstance(value, list) or not value:
        raise UserError(f"{file} needs the class names, as in 'names: [cat, dog]'")
    if count is not None and count != len(value):
        notes.append(f"{file.name} has nc: {count} but {len(value)} class names; using the names")
    return class_names(value, file)


def class_names(values: list[Any], file: Path) -> tuple[str, ...]:
    """Class names, in order.

    Raises:
        UserError: a name that is not text, is empty, or occurs twice.

    >>> class_names(["cat", "dog"], Path("data.yaml"))
    ('cat', 'dog')
    """
    for number, name in enumerate(values):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{file}: the name of class {number} is {printable(name)}; it must be text")
    names = tuple(one_form(name) for name in values)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1}) if len(names) < 1000 else list(names)
        raise UserError(f"{file}: a class name occurs twice: {listed([printable(name) for name in twice], 5)}")
    return names


def _keypoints(tree: dict[str, Any], file: Path) -> int | None:
    value = tree.get("kpt_shape")
    if value in (None, "", "~", "null"):
        return None
    numbers = [whole_number(str(number)) for number in value] if isinstance(value, list) else []
    if len(numbers) != 2 or not numbers[0] or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise UserError(f"{file}: kpt_shape must be the number of keypoints and 2 or 3, as in [17, 3]")
    return numbers[0] * numbers[1]
