"""Images with masks for evaluating a finished artifact: see `vpt.data.evaluation_data`."""

from __future__ import annotations

from vpt.config import DataConfig
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.datasets.entries import listed
from vpt.data.evaluation_data import EvaluationRequest, place_given, split_in
from vpt.data.segmentation.mask_validation import validated
from vpt.data.segmentation.registry import read_masks
from vpt.utils.errors import UserError


def load_masks_measured(config: DataConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
    """Read the split to evaluate and return it with its name, as `load_measured` does.

    Classes are matched by name; pixels of classes that the artifact does not know are ignored, with a warning.

    Raises:
        UserError: the data cannot be found or read, lacks the split, or has no class of the artifact.
    """
    place = place_given(config, request) or config.path
    found = read_masks(place, config)
    split, name, entries, notes = split_in(found.splits, config, request)
    classes = request.classes or found.classes
    if not set(classes) & set(found.classes):
        raise UserError(
            f"{place} has no class that the artifact was trained on: it has {listed(list(found.classes))}; the "
            f"artifact knows {listed(list(classes))}"
        )
    if unknown := [one for one in found.classes if one not in classes]:
        notes.append(f"warning: pixels ignored, of classes that the artifact does not know: {listed(unknown)}")
    found.splits = {split: list(entries)}
    renumbered = found.with_classes(classes)
    records = tuple(validated(renumbered, config)[split])
    train, val, test = (records if each == name else () for each in SPLITS)
    return LabelledData(tuple(classes), False, train, val, test, (*found.notes, *notes)), name
