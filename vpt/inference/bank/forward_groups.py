"""What tasks that go through the backbone together share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vpt.inference.bank.task import LoadedClassifier
from vpt.prompts.batching import Stack, stack


class Group:
    """Tasks that go through the backbone together, with their prompts stacked."""

    def __init__(self, members: Mapping[str, LoadedClassifier]) -> None:
        self.members = members
        self.place = {name: place for place, name in enumerate(members)}
        self.stack: Stack = stack([member.layers for member in members.values()])

    def holds(self, tasks: Mapping[str, LoadedClassifier]) -> bool:
        """Whether these very tasks are among its members: a name may have come to mean another one."""
        return all(self.members.get(name) is task for name, task in tasks.items())


def rows_of(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows; not copied where they are all."""
    return values if len(rows) == len(values) else values[torch.tensor(rows, device=values.device)]


def normalised(images: Tensor, tasks: Sequence[LoadedClassifier]) -> Tensor:
    """Normalised images, each by its own task's mean and std, and under that task's pixel prompt if it has one."""
    if len({task.sees for task in tasks}) == 1:
        return tasks[0].model.normalise(images)
    return torch.cat([task.model.normalise(images[row : row + 1]) for row, task in enumerate(tasks)])
