"""Data sets of Hugging Face's `datasets`: by their name on the hub, or a local folder of images, parquet files or what
`save_to_disk` wrote.

The package finds and stores the encoded images; they are decoded here, one at a time. No code of a data set is run.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpt.config import DataConfig
from vpt.data.dataset import Item
from vpt.data.datasets.csv_columns import LABEL_NAMES
from vpt.data.datasets.entries import SPLIT_NAMES, Entry, Found, listed, number_of
from vpt.data.datasets.tar_index import LARGEST
from vpt.data.groups import group_column
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError, nearest
from vpt.utils.file_names import one_line, shown
from vpt.utils.plugins import said
from vpt.utils.version import install

PREFIX = "hf:"
BUILDERS = ("imagefolder", "parquet", "arrow", "webdataset")  # their files hold encoded images, and no code
_SAVED = ("dataset_dict.json", "state.json")
UNLABELLED = "unlabelled"


class Encoded:
    """The encoded images in a column: `[at]` gives the bytes of one."""

    def __init__(self, table: Any, column: str) -> None:
        self._table, self._column = table.select_columns([column]), column

    def __getitem__(self, at: int) -> tuple[bytes, None]:
        value = self._table[at][self._column]
        content = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise OSError("it is not stored in the data set")  # a path there might lead anywhere
        if len(content) > LARGEST:
            raise OSError(f"it has {len(content)} bytes, more than {LARGEST}")
        return content, None


def read_hugging_face(name: str, config: DataConfig) -> Found:
    """Read the data set: images, the column of their labels, and its splits.

    Args:
        name: `OWNER/NAME` or `OWNER/NAME:CONFIGURATION` on the hub, which needs `data.download=true`; or a folder.
        config: the data section; `label_column` and `group` name columns.

    Raises:
        UserError: the package is not installed, the data set cannot be found or read, or has no such column.

    >>> read_hugging_face("owner/name", DataConfig())
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.path=hf:owner/name: there is no such folder; set data.download=true to get ...
    """
    path = at_home(name)
    local = path.exists() or name.startswith(("/", "./", "../", "~"))
    if local and not path.is_dir():
        raise UserError(f"data.path={PREFIX}{name}: there is no such folder; check data.path")
    if not local and not config.download:
        raise UserError(
            f"data.path={PREFIX}{name}: there is no such folder; set data.download=true to get the data set of this "
            "name from the Hugging Face hub (or from its cache)"
        )
    try:
        import datasets
    except ImportError:
        raise UserError(f"data.path={PREFIX}{name} needs the package datasets: {install('hf')}") from None
    with _failures_named(name), _quiet(datasets):
        tables = _local(datasets, path) if local else _hub(datasets, name)
        return _found(datasets, name, tables, config, path if local else None)


def _local(datasets: Any, folder: Path) -> dict[str, Any]:
    """The tables of a local folder by split. The kind is chosen here, because the package knows kinds that run code."""
    if any((folder / name).is_file() for name in _SAVED):
        saved = datasets.load_from_disk(str(folder))
        return dict(saved) if isinstance(saved, dict) else {"train": saved}
    place = glob.escape(str(folder))  # the package reads brackets as a pattern
    kinds = {Path(name).suffix.lower() for _, _, names in os.walk(folder) for name in names if name[0] != "."}
    for kind, suffix in (("parquet", ".parquet"), ("arrow", ".arrow")):
        if suffix in kinds and not (folder / "metadata.parquet").is_file():
            return dict(datasets.load_dataset(kind, data_dir=place))
    return dict(datasets.load_dataset("imagefolder", data_dir=place))


def _hub(datasets: Any, name: str) -> dict[str, Any]:
    repository, _, configuration = name.partition(":")
    builder = datasets.load_dataset_builder(repository, configuration or None)
    kind = type(builder).__module__.split(".")[-1]
    if kind not in BUILDERS:
        raise UserError(f"data.path={PREFIX}{name} is of the kind {kind}, which vpt does not read; known: {BUILDERS}")
    builder.download_and_prepare()
    return dict(builder.as_dataset())


def _found(datasets: Any, name: str, tables: dict[str, Any], config: DataConfig, root: Path | None) -> Found:
    by_split = {split: tables[split] for split in tables if split.lower() in SPLIT_NAMES}
    if not by_split and len(tables) == 1:
        by_split = {"train": next(iter(tables.values()))}
    found = Found(divided=len(by_split) > 1 or set(by_split) == {"test"})
    if others := sorted(set(tables) - set(by_split)):
        count = sum(len(tables[split]) for split in others if by_split.get("train") is not tables[split])
        if count:
            found.notes.append(f"splits that are not used: {listed(list(map(one_line, others)))}")
            found.left_out["of other splits"] += count
    if not by_split:
        raise UserError(f"data.path={PREFIX}{name} has no split called train; it has {listed(sorted(tables))}")
    for theirs, table in by_split.items():
        split = SPLIT_NAMES[theirs.lower()]
        if split in found.splits:
            raise UserError(f"data.path={PREFIX}{name} has two splits for {split}: {listed(sorted(by_split))}")
        found.splits[split] = _entries(datasets, name, theirs, table, config, root, found)
    return found


def _entries(
    datasets: Any, name: str, split: str, table: Any, config: DataConfig, root: Path | None, found: Found
) -> list[Entry]:
    image = _image_column(datasets, name, table.features)
    label = _label_column(datasets, name, table.features, config.label_column, image)
    if isinstance(table.features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    labels, classes = _labels(datasets, name, table, label)
    found.multilabel |= any(isinstance(each, list) for each in table.select_columns([label])[:1][label])
    if classes is not None:
        if found.classes not in (None, classes):
            raise UserError(f"data.path={PREFIX}{name}: its splits have different lists of classes")
        found.classes = classes
    groups = [""] * len(labels)
    if (column := group_column(config)) is not None:
        if column not in table.features:
            raise _no_column(name, "data.group", column, list(table.features))
        groups = [str(value) for value in table.select_columns([column])[:][column]]
    encoded = Encoded(table, image)
    title = (root.absolute().name if root is not None else name.replace("/", "-").replace(":", "-")) or "images"
    entries = []
    unlabelled = 0
    for at, (file, own) in enumerate(zip(_files(table, image, root), labels)):
        if own is None:
            unlabelled += 1
            continue
        place = one_line(f"{split}, row {at}")
        if file is not None and root is not None:
            entries.append(Entry(shown(file.relative_to(root)), file, own, place, groups[at]))
        else:
            entries.append(Entry(f"{title}/{split}/{at:06d}", Item(encoded, at), own, place, groups[at]))
    if unlabelled:
        found.notes.append(f"{number_of(unlabelled, 'image')} of {one_line(split)} without a label, not used")
        found.left_out[UNLABELLED] += unlabelled
    return entries


def _image_column(datasets: Any, name: str, features: Any) -> str:
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if not images:  # parquet files of other programs
        images = [column for column, kind in features.items() if _is_encoded(kind)]
    if len(images) == 1:
        return images[0]
    if "image" in images:
        return "image"
    what = (
        f"several columns of images ({listed(images)}); call one of them" if images else "no column of images, called"
    )
    raise UserError(f"data.path={PREFIX}{name} has {what} 'image' (its columns: {listed(list(features))})")


def _is_encoded(kind: Any) -> bool:
    """Whether a column holds files as bytes, plainly or with their path."""
    if isinstance(kind, dict):
        return {"bytes", "path"} <= set(kind)
    return getattr(kind, "dtype", None) in ("binary", "large_binary")


def _label_column(datasets: Any, name: str, features: Any, wanted: str | None, image: str) -> str:
    if wanted is not None:
        if wanted not in features or wanted == image:
            raise _no_column(name, "data.label_column", wanted, list(features))
        return wanted
    numbered = [column for column, kind in features.items() if isinstance(_inner(kind), datasets.ClassLabel)]
    named = [column for column in features if column.lower() in LABEL_NAMES and column != image]
    for found in (numbered, named):
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"data.path={PREFIX}{name} has several columns of labels; set data.label_column to one of "
                f"{listed(found)}"
            )
    raise UserError(
        f"data.path={PREFIX}{name} has no column of labels; set data.label_column to one of "
        f"{listed([column for column in features if column != image])}"
    )


def _labels(
    datasets: Any, name: str, table: Any, column: str
) -> tuple[list[tuple[str, ...] | None], tuple[str, ...] | None]:
    """The labels of every row, None for a row without; and the classes if the data set lists them."""
    kind = _inner(table.features[column])
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) and kind.names else None
    if (
        names is None
        and getattr(kind, "dtype", "") not in ("string", "large_string", "bool")
        and not str(getattr(kind, "dtype", "")).startswith(("int", "uint"))
    ):
        raise UserError(f"data.path={PREFIX}{name}: the column {one_line(column)} holds no names or numbers of classes")
    found: list[tuple[str, ...] | None] = []
    for value in table.select_columns([column])[:][column]:
        values = value if isinstance(value, list) else [value]
        if any(each is None or (names is not None and each == -1) for each in values):
            found.append(None)  # secret labels of a test split are -1
            continue
        if names is not None and not all(0 <= each < len(names) for each in values):
            raise UserError(f"data.path={PREFIX}{name} has a label {value}, but only {len(names)} classes")
        found.append(tuple(dict.fromkeys(str(each) if names is None else names[each] for each in values)))
    if names is None and found and all(label.lstrip("-").isdigit() for each in found if each for label in each):
        names = tuple(sorted({label for each in found if each for label in each}, key=int))
    return found, names


def _inner(kind: Any) -> Any:
    """The kind of the elements of a list."""
    if isinstance(kind, list):
        return kind[0]
    return getattr(kind, "feature", kind)


def _files(table: Any, column: str, root: Path | None) -> Iterator[Path | None]:
    """For every row the file that holds the image, if it is inside the folder that was named; else it is stored."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = table.select_columns([column]).with_format("arrow")
    kind = stored.features.arrow_schema.field(column).type
    if root is None or not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        yield from [None] * len(table)
        return
    top = Path(os.path.realpath(root))
    for batch in stored.iter(1000):
        missing = pc.is_null(pc.struct_field(batch[column], "bytes")).to_pylist()
        for absent, text in zip(missing, pc.struct_field(batch[column], "path").to_pylist()):
            inside = absent and isinstance(text, str) and Path(os.path.realpath(text)).is_relative_to(top)
            yield root / Path(os.path.realpath(text)).relative_to(top) if inside else None


def _no_column(name: str, setting: str, wanted: str, columns: list[str]) -> UserError:
    known = listed(list(map(one_line, columns)))
    return UserError(
        f"data.path={PREFIX}{name} has no column {setting}={wanted}{nearest(wanted, columns)}; it has {known}"
    )


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the package, a damaged file or the network gives
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        raise UserError(
            f"data.path={PREFIX}{name} cannot be read by the package datasets: {one_line(said(cause))}"
        ) from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without progress bars and warnings of its parts, which would be among the lines of a log."""
    shown_before = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown_before:
            datasets.enable_progress_bars()
