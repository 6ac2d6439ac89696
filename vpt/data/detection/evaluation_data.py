"""Images with boxes for evaluating a finished artifact: see `vpt.data.evaluation_data`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vpt.config import DataConfig
from vpt.data.class_names import alike, clean, visible
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.datasets.entries import listed, number_of
from vpt.data.detection.dataset import BoxEntry
from vpt.data.detection.registry import finished, read_place, to_records
from vpt.data.evaluation_data import EvaluationRequest, place_given, split_in
from vpt.utils.errors import UserError


def load_boxes_measured(config: DataConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
    """Read the split to evaluate and return it with its name, as `load_measured` does.

    Boxes of classes that the artifact does not know are left out, with a warning; their images are evaluated.

    Raises:
        UserError: the data cannot be found or read, lacks the split, or has no box of a known class.
    """
    place = place_given(config, request) or config.path
    found = read_place(place)
    split, name, entries, chosen_notes = split_in(found.splits, config, request)
    notes = [*found.notes, *chosen_notes]
    entries = finished({split: list(entries)}, config, notes)[split]
    there = {raw.label for entry in entries for raw in entry.boxes}
    classes = request.classes or found.classes or tuple(sorted(there))
    spelt = {clean(name): name for name in reversed(classes)} | {name: name for name in classes}
    notes += _unknown(entries, spelt)
    known = [_of_classes(entry, spelt) for entry in entries]
    if there and not any(entry.boxes for entry in known):
        raise UserError(
            f"{place} has no box of a class that the artifact was trained on: it has {listed(sorted(there))}; the "
            f"artifact knows {listed(list(classes))}"
        )
    records = tuple(to_records(known, name, {label: number for number, label in enumerate(classes)}))
    train, val, test = (records if each == name else () for each in SPLITS)
    return LabelledData(classes, False, train, val, test, tuple(notes)), name


def _unknown(entries: Sequence[BoxEntry], spelt: Mapping[str, str]) -> list[str]:
    labels = Counter(raw.label for entry in entries for raw in entry.boxes if _spelling(raw.label, spelt) is None)
    if not labels:
        return []
    names = [
        f"{visible(label)} ({number_of(count, 'box')}{alike(label, spelt)})" for label, count in sorted(labels.items())
    ]
    return [f"warning: boxes not evaluated, of classes that the artifact does not know: {listed(names)}"]


def _of_classes(entry: BoxEntry, spelt: Mapping[str, str]) -> BoxEntry:
    """The image with its boxes of known classes, in the artifact's spelling."""
    boxes = [raw._replace(label=name) for raw in entry.boxes if (name := _spelling(raw.label, spelt)) is not None]
    return entry._replace(boxes=tuple(boxes))


def _spelling(label: str, spelt: Mapping[str, str]) -> str | None:
    return spelt.get(label, spelt.get(clean(label)))
