"""Checks that runs compared image by image were evaluated on the same images, not only on the same names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from vpt.data.dataset import Item, LabelledData, Record
from vpt.data.medical.files import without_slice
from vpt.utils.errors import UserError


def refuse_other_pictures(measured: Mapping[str, LabelledData], split: str) -> None:
    """Compare the files of images that have the same name.

    Args:
        measured: run -> the data it was evaluated on.
        split: test or val.

    Raises:
        UserError: different images with the same name, or a file that cannot be read.

    >>> refuse_other_pictures({"one": LabelledData(("cat",), False, (), ())}, "test")
    """
    (first, data), *others = measured.items()
    known = {record.name: record for record in data.split(split)}
    for run, other in others:
        for record in other.split(split):
            same = known.get(record.name)
            if same is not None and _digest(same) != _digest(record):
                raise UserError(
                    f"{record.name} differs between {first} and {run}; they were evaluated on different data"
                )


def _digest(record: Record) -> object:
    """Identity of an image: a digest of its file; images of torchvision's data sets are identified by their names."""
    try:
        if isinstance(record.source, Item):
            content = record.source.dataset[record.source.at][0]
            if isinstance(content, bytes):
                return hashlib.sha256(content).digest()
            return type(record.source.dataset).__name__, record.source.at
        file, number = without_slice(record.source)
        return hashlib.sha256(file.read_bytes()).digest(), number
    except OSError as error:
        what = record.source if isinstance(record.source, Path) else record.name
        raise UserError(f"{what} cannot be read: {error.strerror or error}") from None
