"""Images with boxes that a finished artifact is measured on: see `vpt.data.measured`."""

from __future__ import annotations

from collections import Counter

from vpt.config import DataConfig
from vpt.data.boxes.coco import find_coco, read_coco
from vpt.data.boxes.records import BoxEntry, BoxFound, BoxRecord, mended
from vpt.data.boxes.sources import _read
from vpt.data.entries import listed, number_of
from vpt.data.labels import alike, clean, visible
from vpt.data.measured import Asked, chosen, said
from vpt.data.records import SPLITS, LabelledData
from vpt.errors import UserError
from vpt.files import at_home


def load_boxes_measured(config: DataConfig, asked: Asked) -> tuple[LabelledData, str]:
    """Read what is to be measured and no more, and say which split it is, as `load_measured` does.

    Boxes of classes that the artifact does not know are left out, with a warning; their images are measured.

    Raises:
        UserError: the data cannot be found or read, lacks the split, or has no box of a known class.
    """
    wanted = asked.split or "test"
    path = {"val": config.val, "test": config.test}.get(wanted)
    found = _found(path or config.path, config.max_pixels)
    if path is not None:
        splits = {wanted: found.splits.get(wanted) or found.splits.get("train") or []}
        if not splits[wanted]:
            raise UserError(f"data.{wanted}={path} lists {listed(sorted(found.splits))} images alone")
        divided = True
    else:
        splits, divided = found.splits, set(found.splits) != {"train"}
    place = path or config.path
    split = chosen(splits, divided, asked.split, place)
    notes = [*found.notes, *said(splits, divided, split, asked.split, place)]
    entries = mended(splits[split], notes)
    labels = found.classes or tuple(sorted({raw.label for entry in entries for raw in entry.boxes}))
    classes = labels if asked.classes is None else asked.classes
    numbers = _numbers(classes)
    notes += _unknown(entries, numbers)
    records = tuple(_record(entry, numbers) for entry in entries)
    if not any(record.boxes for record in records):
        raise UserError(
            f"{place} has no box of a class that the artifact was trained on: it has {listed(list(labels))}; the "
            f"artifact knows {listed(list(classes))}"
        )
    split = asked.split or (split if divided else "test")
    train, val, test = (records if name == split else () for name in SPLITS)
    return LabelledData(classes, False, train, val, test, tuple(notes)), split


def _found(path: str, max_pixels: int) -> BoxFound:
    place = at_home(path)
    if place.is_dir() and (files := find_coco(place)) and "train" not in files:
        return read_coco(files)
    return _read(path, max_pixels)


def _numbers(classes: tuple[str, ...]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for spelling in (lambda name: name, clean):
        for number, name in enumerate(classes):
            numbers.setdefault(spelling(name), number)
    return numbers


def _number(label: str, numbers: dict[str, int]) -> int | None:
    return numbers.get(label, numbers.get(clean(label)))


def _unknown(entries: list[BoxEntry], numbers: dict[str, int]) -> list[str]:
    counts = Counter(raw.label for entry in entries for raw in entry.boxes if _number(raw.label, numbers) is None)
    if not counts:
        return []
    told = [
        f"{visible(label)} ({number_of(count, 'box')}{alike(label, numbers)})"
        for label, count in sorted(counts.items())
    ]
    return [f"warning: boxes not measured, of classes that the artifact does not know: {listed(told)}"]


def _record(entry: BoxEntry, numbers: dict[str, int]) -> BoxRecord:
    boxes = [(number, raw) for raw in entry.boxes if (number := _number(raw.label, numbers)) is not None]
    return BoxRecord(
        entry.name,
        entry.source,
        tuple(number for number, _ in boxes),
        tuple(raw.box for _, raw in boxes),
        tuple(raw.crowd for _, raw in boxes),
        entry.size,
    )
