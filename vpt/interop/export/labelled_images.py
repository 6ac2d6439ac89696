"""Labelled images for exported files: the run's own, or other data. Files are calibrated and measured with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vpt.config import full_words, word
from vpt.data.dataset import LabelledData, Record
from vpt.data.decode import read
from vpt.inference.evaluate import NoSplit, evaluation_config, evaluation_data
from vpt.interop.export.program import Run
from vpt.interop.export.task_export import TaskExport
from vpt.interop.export.written import Accuracy
from vpt.models.artifact import Artifact
from vpt.models.trusted_settings import Named
from vpt.utils.console import Console

MEASURED, CALIBRATED = 500, 128  # images at most, a random sample that is always the same


@dataclass(frozen=True)
class LabelledImages:
    """Records to calibrate with and to measure on.

    Args:
        calibration: training images of the run; of other data the same as `records`.
        records: images to measure on.
        split: the split that those are from.
        max_pixels: limit of an image.
    """

    calibration: Sequence[Record]
    records: Sequence[Record]
    split: str
    max_pixels: int


@dataclass(frozen=True)
class Inputs(Sequence[Tensor]):
    """Inputs of a file for records, read when they are needed."""

    made: TaskExport
    records: Sequence[Record]
    max_pixels: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, at: int) -> Tensor:  # type: ignore[override]
        return self.made.input(self.made.fit(read(self.records[at], self.max_pixels).pixels))


def find_images(artifact: Artifact, data: str | Path | None, named: Named, console: Console) -> LabelledImages:
    """The test images of a run, or its validation images where it has none; or those of other data.

    Raises:
        UserError: neither is available, as in `vpt.inference.evaluate.evaluate`.
    """
    words = [] if data is None else full_words([word("data", data)], artifact.config.model_dump())

    def split_of(name: str | None) -> tuple[LabelledData, str]:
        config = evaluation_config(artifact, name, words, named)
        _, found, split = evaluation_data(artifact, config, name, words, console)
        return found, split

    try:
        found, split = split_of(None)
    except NoSplit:
        if data is not None:
            raise
        found, split = split_of("val")
    records = _some(found.split(split), MEASURED)
    calibration = records if data is not None else split_of("train")[0].train
    return LabelledImages(_some(calibration, CALIBRATED), records, split, artifact.config.data.max_pixels)


def accuracies(made: TaskExport, runs: Mapping[str, Run], images: LabelledImages) -> dict[str, Accuracy]:
    """Measure written files on labelled images, and compare them with prediction."""
    reference: list[Any] = []
    measured: dict[str, list[Any]] = {name: [] for name in runs}
    agreed = {name: np.zeros(2, np.int64) for name in runs}
    for record in images.records:
        fitted = made.fit(read(record, images.max_pixels).pixels)
        wanted = made.reference(fitted)
        reference.append(made.measured(wanted, record))
        for name, run in runs.items():
            found = run(made.input(fitted))
            measured[name].append(made.measured(found, record))
            agreed[name] += made.agreement(found, wanted)
    base = made.score(reference)
    return {
        name: Accuracy(
            made.metric,
            made.score(measured[name]),
            base,
            float(same / of) if of else 1.0,
            len(images.records),
            images.split,
            made.unit,
        )
        for name, (same, of) in agreed.items()
    }


def _some(records: Sequence[Record], most: int) -> list[Record]:
    chosen = np.random.default_rng(0).permutation(len(records))[:most]
    return [records[at] for at in sorted(chosen.tolist())]
