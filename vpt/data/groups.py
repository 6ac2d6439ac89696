"""`data.group`: what images have in common, such as a patient, so that a split never separates them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from vpt.config import DataConfig
from vpt.config.data import PATTERN, TAG
from vpt.data.dataset import Record
from vpt.data.datasets.entries import listed, number_of
from vpt.data.medical.files import kind_of, without_slice
from vpt.data.medical.slices import Unreadable
from vpt.utils.errors import UserError

LONGEST = 255  # characters of a name that a regular expression is applied to, which bounds the time
R = TypeVar("R", bound=Record)


def group_column(config: DataConfig) -> str | None:
    """The column of a CSV that `data.group` names.

    >>> group_column(DataConfig(group="patient")), group_column(DataConfig(group="re:(P[0-9]+)_"))
    ('patient', None)
    """
    return None if config.group is None or config.group.startswith((PATTERN, TAG)) else config.group


def with_groups(records: Sequence[R], config: DataConfig) -> list[R]:
    """Records with the group of each, by the column that was read, by the regular expression for its name, or by the
    DICOM tag of its file, of which the group is a digest.

    Raises:
        UserError: images without a group.

    >>> from pathlib import Path
    >>> with_groups([Record("cat/P7_1.png", Path(), ())], DataConfig(group="re:(P[0-9]+)_"))[0].group
    'P7'
    """
    if config.group is None:
        return list(records)
    if config.group.startswith(TAG):
        found = _tagged(records, config)
    elif group_column(config) is None:
        pattern = re.compile(config.group.removeprefix(PATTERN))
        found = [_matched(pattern, record.name) for record in records]
    else:
        found = [record.group for record in records]
    lacking = [record for record, group in zip(records, found, strict=True) if not group]
    if lacking:
        if group_column(config) is not None and not any(record.place for record in lacking):
            remedy = "it names a column of a CSV; for other data give a regular expression: data.group='re:(P[0-9]+)_'"
        else:
            remedy = "give every image a group, or change data.group"
        raise UserError(
            f"data.group={config.group}: {number_of(len(lacking), 'image')} without a group: "
            f"{listed([place_of(record) for record in lacking], 5)}; {remedy}"
        )
    return [replace(record, group=group) for record, group in zip(records, found, strict=True)]


def shared_groups(splits: Mapping[str, Sequence[Record]]) -> list[str]:
    """A warning about groups that the data set itself has in several splits; [] if there are none."""
    first: dict[str, tuple[str, Record]] = {}
    shared: dict[str, str] = {}
    for split, records in splits.items():
        for record in records:
            before, other = first.setdefault(record.group, (split, record))
            if record.group and before != split:
                shared.setdefault(record.group, f"{place_of(other)} ({before}) and {place_of(record)} ({split})")
    if not shared:
        return []
    return [
        f"warning: {number_of(len(shared), 'group')} of data.group in more than one given split, so scores may be too "
        f"high; such as {listed(list(shared.values()), 3)}"
    ]


def place_of(record: Record) -> str:
    """Where a record is listed, or its name."""
    return record.place or record.name


def _tagged(records: Sequence[Record], config: DataConfig) -> list[str]:
    """The digest of each record's tag. Files that cannot be read are groups of their own; decoding reports them.

    Raises:
        UserError: an unknown tag, images that are not DICOM files, or files without the tag.
    """
    from vpt.data.medical.tags import tag_number, usable, value_digest

    keyword = str(config.group).removeprefix(TAG)
    tag = tag_number(keyword)
    digests: dict[Path, str] = {}
    others, lacking = [], []
    for record in records:
        file = without_slice(record.source)[0] if isinstance(record.source, Path) else None
        if file is None or (file.exists() and kind_of(file) != "DICOM"):
            others.append(record.name)
            continue
        if file not in digests:
            try:
                digests[file] = value_digest(file, tag, config.max_pixels)
            except (Unreadable, OSError):
                digests[file] = "" if usable(file, config.max_pixels) else f"unreadable {file}"
        if not digests[file]:
            lacking.append(record.name)
    for names, what in ((others, "not from a DICOM file"), (lacking, f"without the DICOM tag {keyword}")):
        if names:
            remedy = "use another tag, a column of a CSV, or a regular expression: data.group='re:(P[0-9]+)_'"
            raise UserError(
                f"data.group={config.group}: {number_of(len(names), 'image')} {what}: {listed(names, 5)}; {remedy}"
            )
    return [digests[without_slice(record.source)[0]] for record in records if isinstance(record.source, Path)]


def _matched(pattern: re.Pattern[str], name: str) -> str:
    if len(name) > LONGEST:
        raise UserError(f"data.group: the name {name[:80]}... is longer than {LONGEST} characters; use a CSV column")
    found = pattern.search(name)
    return "" if found is None else found.group(pattern.groups) or ""
