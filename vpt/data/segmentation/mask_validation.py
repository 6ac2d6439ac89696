"""Validation of masks of every layout: there is one for each image, of its size, with known values and some class."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from vpt.config import DataConfig
from vpt.data.annotation_text import escaped
from vpt.data.dataset import SPLITS
from vpt.data.datasets.entries import listed, number_of
from vpt.data.datasets.paths import file_identity
from vpt.data.decode import BadImage
from vpt.data.detection.image_sizes import MISSING, read_header
from vpt.data.image_cache import threads
from vpt.data.segmentation.dataset import IGNORE, UNKNOWN, MaskEntry, MaskFound, MaskRecord, Size
from vpt.utils.errors import UserError

_SHOWN = 5
NO_MASK = "it has no mask"


def validated(found: MaskFound, config: DataConfig) -> dict[str, list[MaskRecord]]:
    """Records by split, with the classes of each mask. Every mask is read once.

    An image without mask, of another size than its mask, with values that are no class, or ignored as a whole gets a
    defect; an image of a file that cannot be read is left to the data check.

    Raises:
        UserError: an image in two splits; defects, unless `config.on_bad` is "skip", all in one message.
    """
    _refuse_shared(found.splits)
    entries = [(split, entry) for split in SPLITS for entry in found.splits.get(split, ())]
    with ThreadPoolExecutor(threads()) as pool:
        results = list(pool.map(lambda pair: _record(pair[1], config.max_pixels), entries))
    records: dict[str, list[MaskRecord]] = {}
    for (split, _), record in zip(entries, results, strict=True):
        records.setdefault(split, []).append(record)
    defects = [record for record in results if record.defect]
    if defects and config.on_bad == "error":
        _refuse(defects, found.remedy)
    found.notes += _notes(records, found.classes)
    return records


def _record(entry: MaskEntry, max_pixels: int) -> MaskRecord:
    record = MaskRecord(escaped(entry.name).replace("\n", "\\n"), entry.source, (), mask=entry.mask)
    if entry.mask is None:
        return replace(record, defect=NO_MASK)
    header = read_header(entry.source, max_pixels)
    if header is None:  # the data check says why
        return record if entry.source.exists() else replace(record, defect=MISSING)
    record = replace(record, size=header.upright)
    try:
        stated = entry.mask.size(max_pixels)
        if stated is not None and stated != header.upright:
            return replace(record, defect=_other(stated, header.upright, header.stored))
        mask = entry.mask.read(header.upright)
    except BadImage as error:
        return replace(record, defect=f"{error.name}: {error.reason}")
    counts = np.bincount(mask.reshape(-1), minlength=256)
    defect = ""
    if counts[UNKNOWN]:
        strange = listed(entry.mask.unknown(header.upright), _SHOWN)
        defect = f"{counts[UNKNOWN]} pixels of its mask are {strange}, which is no class"
    elif counts[IGNORE] == mask.size:
        defect = "all of its mask is ignored"
    labels = tuple(np.flatnonzero(counts[:UNKNOWN]).tolist())
    return replace(record, labels=labels, digest=hashlib.sha256(mask.tobytes()).hexdigest(), defect=defect)


def _other(stated: Size, size: Size, stored: Size) -> str:
    text = f"its mask is for {stated[0]}x{stated[1]} pixels and it has {size[0]}x{size[1]}"
    return f"{text} after the rotation that its EXIF data ask for" if stated == stored else text


def _refuse(defects: Sequence[MaskRecord], remedy: str) -> None:
    parts, remedies = [], []
    for defect, text, what in (
        (NO_MASK, "without a mask", remedy),
        (MISSING, "that cannot be found", "correct the paths"),
    ):
        if some := [record.name for record in defects if record.defect == defect]:
            parts.append(f"{number_of(len(some), 'image')} {text}: {listed(some, _SHOWN)}")
            remedies.append(what)
    other = [f"{record.name} ({record.defect})" for record in defects if record.defect not in (NO_MASK, MISSING)]
    if other:
        parts.append(f"{number_of(len(other), 'image')} with a mask that cannot be used: {listed(other, _SHOWN)}")
        remedies.append(
            "correct the masks (data.mask_classes names values and colours, data.ignore_index the ignored value)"
        )
    raise UserError(f"{'; '.join(parts)}; {', and '.join(remedies)}, or set data.on_bad=skip to leave such images out")


def _notes(records: Mapping[str, Sequence[MaskRecord]], classes: Sequence[str]) -> list[str]:
    """Messages about classes that no mask of a split contains, and masks of a single class."""
    notes = []
    for split, some in records.items():
        present = {label for record in some for label in record.labels}
        if absent := [name for label, name in enumerate(classes) if label not in present]:
            what = "training" if split == "train" else "validation" if split == "val" else split
            notes.append(f"{number_of(len(absent), 'class')} in no {what} mask: {listed(absent, _SHOWN)}")
    train = [record for record in records.get("train", ()) if not record.defect]
    single = Counter(record.labels[0] for record in train if len(record.labels) == 1)
    for label, count in single.items():
        if len(classes) > 1 and count:
            names = [record.name for record in train if record.labels == (label,)]
            notes.append(f"{number_of(count, 'training mask')} of {classes[label]} alone: {listed(names, _SHOWN)}")
    return notes


def _refuse_shared(splits: Mapping[str, Sequence[MaskEntry]]) -> None:
    owners: dict[object, tuple[str, str]] = {}
    shared = []
    for split in SPLITS:
        for entry in splits.get(split, ()):
            first, name = owners.setdefault(file_identity(entry.source), (split, entry.name))
            if first != split:
                shared.append(f"{name} is in {first} and in {split}")
            elif name != entry.name:
                shared.append(f"{name} and {entry.name} of {split} are the same file")
    if shared:
        raise UserError(f"{listed(shared, 3)}; keep each image in one split only ({number_of(len(shared), 'image')})")
