"""Validation of boxes of every format: finite, inside the image, with an area; and each image only once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from vpt.data.dataset import SPLITS
from vpt.data.datasets.entries import listed, number_of
from vpt.data.datasets.paths import file_identity
from vpt.data.detection.dataset import BoxEntry, RawBox
from vpt.utils.errors import UserError


def within_images(entries: Sequence[BoxEntry], notes: list[str]) -> list[BoxEntry]:
    """Clip boxes to their images and drop invalid ones; changes are reported in `notes`, by name.

    Images without boxes are kept. Boxes that extend beyond the image are clipped. Boxes without area, those entirely
    outside, and those with numbers that are not finite are dropped.
    """
    cut: list[str] = []
    thin: list[str] = []
    lost: list[str] = []
    repeated: list[str] = []
    kept = []
    for entry in entries:
        if entry.size is None or entry.defect:  # the image cannot be used, so its boxes do not matter
            kept.append(entry)
            continue
        boxes = []
        for raw in entry.boxes:
            inside = _cut(raw, entry.size)
            if inside is None:
                lost.append(_described(entry, raw))
                continue
            # A pixel of rounding is common; more is reported.
            if max(abs(one - other) for one, other in zip(inside.box, raw.box, strict=True)) > 1.5:
                cut.append(entry.name)
            if min(inside.box[2] - inside.box[0], inside.box[3] - inside.box[1]) <= 1:
                thin.append(_described(entry, inside))
            boxes.append(inside)
        same = Counter((raw.label, raw.box, raw.crowd) for raw in boxes)
        repeated += [entry.name] * (len(boxes) - len(same))
        kept.append(entry._replace(boxes=tuple(boxes)))
    background = [entry for entry in kept if not entry.boxes and not entry.defect]
    without = [entry.name for entry in background if entry.file is None]
    empty = [entry.name for entry in background if entry.file is not None]
    if empty:
        notes.append(f"{number_of(len(empty), 'image')} without boxes, treated as background: {listed(empty, 5)}")
    if without:
        notes.append(
            f"{number_of(len(without), 'image')} with no label file, treated as background: {listed(without, 5)}"
        )
    if lost:
        notes.append(f"left out {number_of(len(lost), 'box')} without area inside the image: {listed(lost, 5)}")
    if cut:
        notes.append(f"clipped {number_of(len(cut), 'box')} at the image's edge: {listed(list(Counter(cut)), 5)}")
    if thin:
        notes.append(f"{number_of(len(thin), 'box')} at most one pixel wide or high: {listed(thin, 5)}")
    if repeated:
        names = listed(list(Counter(repeated)), 5)
        notes.append(f"{number_of(len(repeated), 'box')} repeated within an image, and kept: {names}")
    return kept


def _cut(raw: RawBox, size: tuple[int, int]) -> RawBox | None:
    """The part of a box inside the image, if it has an area."""
    if not all(map(math.isfinite, raw.box)):
        return None
    x1, y1, x2, y2 = raw.box
    inside = (max(0.0, x1), max(0.0, y1), min(float(size[0]), x2), min(float(size[1]), y2))
    return raw._replace(box=inside) if inside[2] > inside[0] and inside[3] > inside[1] else None


def _described(entry: BoxEntry, raw: RawBox) -> str:
    x1, y1, x2, y2 = raw.box
    finite = all(map(math.isfinite, raw.box))
    numbers = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})" if finite else "(a number that is not finite)"
    place = f" {raw.at} of {entry.file.name}" if raw.at and entry.file is not None else ""
    return f"{entry.name} {numbers}{place}"


def unique_images(splits: Mapping[str, Sequence[BoxEntry]], notes: list[str]) -> dict[str, list[BoxEntry]]:
    """Splits in which every image file occurs once.

    Raises:
        UserError: a file in two splits, or twice with different boxes, by name.
    """
    owners: dict[object, tuple[str, BoxEntry]] = {}
    shared: list[str] = []
    unequal: list[str] = []
    repeated: list[str] = []
    kept: dict[str, list[BoxEntry]] = {}
    for split in SPLITS:
        for entry in splits.get(split, ()):
            before, first = owners.setdefault(file_identity(entry.source), (split, entry))
            if before == split and first is entry:
                kept.setdefault(split, []).append(entry)
            elif before != split:
                shared.append(f"{first.source} is in {before} and in {split}")
            elif _content(first) == _content(entry):
                repeated.append(entry.name)
            else:
                unequal.append(f"{first.name} ({_file(first)}) and {entry.name} ({_file(entry)})")
    if shared:
        raise UserError(
            f"{listed(shared, 3)}, which makes the score meaningless; keep each image in one split only "
            f"({number_of(len(shared), 'image')})"
        )
    if unequal:
        raise UserError(
            f"the same image is annotated twice, with different boxes: {listed(unequal, 5)}; keep one annotation of "
            "each"
        )
    if repeated:
        notes.append(f"left out {number_of(len(repeated), 'repetition')} of an image: {listed(repeated, 5)}")
    return {split: kept.get(split, []) for split in splits}


def _content(entry: BoxEntry) -> object:
    return Counter((raw.label, raw.box, raw.crowd) for raw in entry.boxes)


def _file(entry: BoxEntry) -> str:
    return entry.file.name if entry.file is not None else "no label file"
