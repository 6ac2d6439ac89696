"""Groups of tasks that share forward passes through the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vpt.inference.bank.task import LoadedClassifier
from vpt.prompts.batching import Stack, stack


class Group:
    """Tasks that share forward passes through the backbone, with stacked prompts."""

    def __init__(self, members: Mapping[str, LoadedClassifier]) -> None:
        self.members = members
        self.place = {name: place for place, name in enumerate(members)}
        self.stack: Stack = stack([member.layers for member in members.values()])

    def holds(self, tasks: Mapping[str, LoadedClassifier]) -> bool:
        """Whether exactly these tasks are members; a name may refer to a new task by now."""
        return all(self.members.get(name) is task for name, task in tasks.items())


def rows_of(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Select rows; without a copy if all of them are selected."""
    return values if len(rows) == len(values) else values[torch.tensor(rows, device=values.device)]


def normalised(images: Tensor, tasks: Sequence[LoadedClassifier]) -> Tensor:
    """Normalise images by the mean and std of their tasks, and add the pixel prompts of these tasks."""
    if len({task.sees for task in tasks}) == 1:
        return tasks[0].model.normalise(images)
    return torch.cat([task.model.normalise(images[row : row + 1]) for row, task in enumerate(tasks)])
