"""Checks whether the data of a suite on disk matches the published data: missing tasks, counts, broken lists.

Lists are read and files are located; no image is decoded (`vpt data check` does that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpt.config import load_config
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.datasets import vtab
from vpt.data.datasets.entries import listed, number_of
from vpt.data.datasets.registry import load_data
from vpt.data.datasets.split_files import read_lines
from vpt.experiments.benchmarks.suites import Suite, Task
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class TaskReport:
    """Result of the check of one task.

    Args:
        task: name of the task.
        summary: description of its data in one line.
        missing: the data does not exist.
        broken: why the data cannot be used.
        odd: differences from the published data, which can still be used.
    """

    task: str
    summary: str = ""
    missing: bool = False
    broken: str | None = None
    odd: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the data matches the published data."""
        return not (self.missing or self.broken or self.odd)

    def lines(self) -> list[str]:
        """The report as lines of text.

        >>> TaskReport("dtd", missing=True).lines()
        ['dtd: missing']
        """
        if self.missing:
            return [f"{self.task}: missing"]
        if self.broken is not None:
            return [f"{self.task}: {self.broken}"]
        if self.odd:
            return [f"{self.task}: {self.summary}", *(f"  {line}" for line in self.odd)]
        return [f"{self.task}: {self.summary}, as published"]


def check(suite: Suite, root: Path, tasks: Sequence[Task] | None = None) -> list[TaskReport]:
    """Check the data of each task below `root`.

    >>> from vpt.experiments.benchmarks.suites import SUITES
    >>> check(SUITES["fgvc"], Path("no/such/root"))[0].lines()
    ['cub: missing']
    """
    return [_task(suite, task, root) for task in (suite.tasks.values() if tasks is None else tasks)]


def _task(suite: Suite, task: Task, root: Path) -> TaskReport:
    place = task.lies_in(root)
    if place is None:
        return TaskReport(task.name, missing=True)
    try:
        data = load_data(load_config(overrides=[*suite.words, *task.settings(root)]).data)
        odd = [*_counts(task, data), *(_joined(place) if suite.name == "vtab" else [])]
    except UserError as error:
        return TaskReport(task.name, broken=str(error))
    if not data.test:
        return TaskReport(task.name, broken="it has no test images")
    return TaskReport(task.name, data.summary(), odd=tuple(odd))


def _counts(task: Task, data: LabelledData) -> list[str]:
    odd = []
    if task.classes is not None and len(data.classes) != task.classes:
        odd.append(f"{len(data.classes)} classes, published are {task.classes}")
    for split in SPLITS:
        count, wanted = len(data.split(split)), task.images.get(split)
        if wanted is not None and count != wanted:
            odd.append(f"{count} {split} images, published are {wanted}")
    records = [record for split in SPLITS for record in data.split(split)]
    absent = [record.name for record in records if isinstance(record.source, Path) and not record.source.exists()]
    if absent:
        odd.append(f"{number_of(len(absent), 'image')} cannot be found: {listed(absent, 5)}")
    seen = {label for record in records for label in record.labels}
    if len(seen) < len(data.classes):
        odd.append(f"{len(data.classes) - len(seen)} of {len(data.classes)} classes have no image")
    return odd


def _joined(folder: Path) -> list[str]:
    """Check that the list of 1,000 is the union of the other two, by labels: its images are copies with other names."""
    parts = [folder / vtab.TRAIN, folder / vtab.VAL]
    if not (folder / vtab.JOINED).is_file() or not all(file.is_file() for file in parts):
        return []
    labels = [sorted(line.rpartition(" ")[2] for line in read_lines(file)) for file in [*parts, folder / vtab.JOINED]]
    if sorted(labels[0] + labels[1]) == labels[2]:
        return []
    return [f"{vtab.JOINED} has other labels than {vtab.TRAIN} and {vtab.VAL} together"]
