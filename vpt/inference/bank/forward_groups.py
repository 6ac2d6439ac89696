"""Groups of tasks that share forward passes through the backbone.

If several tasks are asked about the same image, the layers below their prompts are computed only once for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor

from vpt.backbones.forward import execute
from vpt.backbones.layer_changes import StackedChanges
from vpt.backbones.layer_prompt import NOTHING, LayerPrompt
from vpt.inference.bank.task import LoadedClassifier
from vpt.prompts.batching import Stack, stack


class Group:
    """Tasks that share forward passes through the backbone, with stacked prompts."""

    def __init__(self, members: Mapping[str, LoadedClassifier]) -> None:
        self.members = members
        self.place = {name: place for place, name in enumerate(members)}
        self.stack: Stack = stack([member.layers for member in members.values()])
        self.changes = StackedChanges([member.own for member in members.values()])

    def layers(self, tasks: Sequence[LoadedClassifier], device: torch.device) -> list[LayerPrompt] | None:
        """The prompts for a batch of images of these tasks."""
        return self.stack.of(torch.tensor([self.place[task.name] for task in tasks], device=device))

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


def logits_of(
    images: Tensor,
    tasks: Sequence[LoadedClassifier],
    group_of: Callable[[Sequence[LoadedClassifier]], Group],
    device: torch.device,
) -> list[Tensor]:
    """Logits (classes of its task,) of each image (3, S, S) uint8, on the CPU in float32.

    Args:
        images: (B, 3, S, S) uint8.
        tasks: the task of each image.
        group_of: group of tasks of one shape.
        device: device of the tasks.
    """
    shapes: dict[Hashable, list[int]] = {}
    for row, task in enumerate(tasks):
        shapes.setdefault(task.shape, []).append(row)
    trunks = _trunks(images, tasks, device)
    images = images.to(device)
    found: dict[int, Tensor] = {}
    for rows in sorted(shapes.values(), key=lambda rows: tasks[rows[0]].first_prompted):
        mine = [tasks[row] for row in rows]
        group = group_of(mine)
        trunk = trunks.get(_size(mine[0])) if mine[0].first_prompted else None
        features = _features(rows_of(images, rows), mine, group) if trunk is None else trunk.features(rows, mine, group)
        for name, task in {task.name: task for task in mine}.items():
            places = [place for place, other in enumerate(mine) if other.name == name]
            logits = task.head(rows_of(features, places)).float().cpu()
            found |= zip([rows[place] for place in places], logits, strict=True)
    return [found[row] for row in range(len(tasks))]


def _features(images: Tensor, tasks: Sequence[LoadedClassifier], group: Group) -> Tensor:
    """Features (B, D) of images of one group, by one whole pass."""
    model = tasks[0].model
    if group.changes.is_empty:
        layers = group.layers(tasks, images.device)
        return model.backbone.features(normalised(images, tasks), model.steps, model.pool, layers)
    order = group.changes.order([group.place[task.name] for task in tasks])
    tasks = [tasks[at] for at in order]
    layers = group.layers(tasks, images.device)
    at = torch.tensor(order, device=images.device)
    with tasks[0].changes.during(group.changes.of([group.place[task.name] for task in tasks])):
        found = model.backbone.features(normalised(images[at], tasks), model.steps, model.pool, layers)
    return found[at.argsort()]


class Trunk:
    """Tokens of images on their way through the layers below the prompts of their tasks, once for each image.

    Args:
        images: (B, 3, S, S) uint8.
        tasks: the task of each image.
        keys: by row, the key of an image's pixels after normalisation, for all rows whose tasks have such layers.
        device: device of the tasks.
    """

    def __init__(
        self, images: Tensor, tasks: Sequence[LoadedClassifier], keys: Mapping[int, Hashable], device: torch.device
    ) -> None:
        first: dict[Hashable, int] = {}
        for row, key in keys.items():
            first.setdefault(key, row)
        rows = list(first.values())
        some = [tasks[row] for row in rows]
        self._keys, self._plan = keys, some[0].model.steps
        self._first = {row: tasks[row].first_prompted for row in keys}
        self._tower = some[0].model.backbone.require_tower("token prompts")
        self._tokens, self._rotary = self._tower.embed(normalised(images[rows].to(device), some))
        self._place = {key: place for place, key in enumerate(first)}
        self._layer = 0

    def features(self, rows: Sequence[int], tasks: Sequence[LoadedClassifier], group: Group) -> Tensor:
        """Features (B, D) of the rows of a group; groups are asked for from low to high first prompts."""
        model, layer = tasks[0].model, tasks[0].first_prompted
        self._advance(layer)
        layers = group.layers(tasks, self._tokens.device)
        keys = [self._keys[row] for row in rows]
        wanted = list(dict.fromkeys(keys)) if layers is None else keys  # without prompts, tasks differ in the head only
        tokens = self._tokens[[self._place[key] for key in wanted]]
        above = model.backbone.features_above(layer, tokens, self._rotary, model.steps, model.pool, layers)
        return above if layers is not None else above[[wanted.index(key) for key in keys]]

    def _advance(self, layer: int) -> None:
        """Compute the layers up to `layer`, of images that this or a later group reads."""
        left = list(dict.fromkeys(key for row, key in self._keys.items() if self._first[row] >= layer))
        self._tokens = self._tokens[[self._place[key] for key in left]]
        self._place = {key: place for place, key in enumerate(left)}
        nothing = [NOTHING] * len(self._plan)
        start, self._layer = self._layer, layer
        self._tokens, _ = execute(
            self._tower, self._plan, self._tokens, self._rotary, nothing, 1, start=start, stop=layer
        )


def _trunks(images: Tensor, tasks: Sequence[LoadedClassifier], device: torch.device) -> dict[int, Trunk]:
    """By the size of the backbone's images, the layers below the prompts, where some images occur several times."""
    keys: dict[int, dict[int, Hashable]] = {}
    for row, task in enumerate(tasks) if len(tasks) > 1 else ():
        if task.first_prompted:
            keys.setdefault(_size(task), {})[row] = (task.sees, images[row].cpu().numpy().tobytes())
    several = {size: mine for size, mine in keys.items() if len({*mine.values()}) < len(mine)}
    return {size: Trunk(images, tasks, mine, device) for size, mine in several.items()}


def _size(task: LoadedClassifier) -> int:
    return task.model.backbone.preprocess.size
