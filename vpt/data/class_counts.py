"""Counts of images by class and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from vpt.data.class_names import visible
from vpt.data.dataset import SPLITS, LabelledData, NumberRecord
from vpt.data.datasets.entries import number_of

MOST = 100  # classes that are listed
WORDS = {"train": "training", "val": "validation", "test": "test"}


def class_lines(data: LabelledData, unusable: Collection[tuple[str, str]] = ()) -> list[str]:
    """A line for each class with its number of images by split, and one for images without a label.

    Args:
        data: a data set of whole images.
        unusable: split and name of images that cannot be used, which are not counted.

    >>> class_lines(LabelledData(("cat",), False, (), ()))
    ['cat: no images']
    """
    if data.numeric:
        return _ranges(data, unusable)
    counts: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    for split in SPLITS:
        for record in data.split(split):
            if (split, record.name) not in unusable:
                counts[split].update(set(record.labels) or {-1})

    def line(name: str, label: int) -> str:
        parts = [number_of(counts[split][label], f"{WORDS[split]} image") for split in SPLITS if counts[split][label]]
        return f"{name}: {', '.join(parts) or 'no images'}"

    lines = [line(visible(name), label) for label, name in enumerate(data.classes[:MOST])]
    if len(data.classes) > MOST:
        lines.append(f"and {len(data.classes) - MOST} more classes")
    if any(counts[split][-1] for split in SPLITS):
        lines.append(line("none of the classes", -1))
    return lines


def _ranges(data: LabelledData, unusable: Collection[tuple[str, str]]) -> list[str]:
    """A line for each split with the range of its numbers."""
    lines = []
    for split in SPLITS:
        found = [record for record in data.split(split) if (split, record.name) not in unusable]
        numbers = [record.number for record in found if isinstance(record, NumberRecord)]
        if numbers:
            lines.append(
                f"{WORDS[split]}: {number_of(len(numbers), 'image')}, {data.classes[0]} from {min(numbers):.6g} to "
                f"{max(numbers):.6g}, mean {sum(numbers) / len(numbers):.6g}"
            )
    return lines
