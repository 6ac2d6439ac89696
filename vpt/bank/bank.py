"""One frozen backbone in memory, any number of tasks beside it, and batches in which every image is another task's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.artifact import Artifact, find_artifact, read_artifact
from vpt.attention import as_heat, attention_of, require_attention
from vpt.backbones.backbone import Backbone
from vpt.backbones.loading import load_backbone
from vpt.bank.stacking import Stack, stack
from vpt.bank.task import (
    LoadedClassifier,
    LoadedTask,
    check_fits,
    check_shares,
    load_task,
    name_of,
    reads_names,
)
from vpt.config import BackboneConfig
from vpt.data.images import BadImage, decode
from vpt.device import autocast, pick_device, pick_precision
from vpt.errors import UserError, nearest
from vpt.inputs import Picture
from vpt.precision import Precision
from vpt.results import Classification, Detections
from vpt.trust import backbone_of

Result = Classification | Detections


@dataclass(frozen=True)
class TaskInfo:
    """What a bank tells of a task."""

    name: str
    task: str  # classification or detection
    classes: tuple[str, ...]
    prompt: str
    image_size: int
    bytes: int
    loaded: bool


@dataclass
class _Entry:
    """A task: what is known of it, and, unless memory was short, what it computes with."""

    artifact: Artifact  # without its tensors
    bytes: int
    loaded: LoadedTask | None


class _Group:
    """Tasks that go through the backbone together, with their prompts stacked."""

    def __init__(self, members: Mapping[str, LoadedClassifier]) -> None:
        self.members = members
        self.place = {name: place for place, name in enumerate(members)}
        self.stack: Stack = stack([member.layers for member in members.values()])

    def holds(self, tasks: Mapping[str, LoadedClassifier]) -> bool:
        """Whether these very tasks are among its members: a name may have come to mean another one."""
        return all(self.members.get(name) is task for name, task in tasks.items())


class Bank:
    """Serves tasks from one backbone.

    Args:
        backbone: which one; default: that of the first artifact that is added. A repository, a folder or a file of
            weights must be named here, unless you have trained on it on this machine: see vpt/trust.py.
        device: auto, cpu, cuda, cuda:1, mps.
        memory: bytes that tasks may take beside the backbone; the least recently used leave first and come back from
            their files. None for no limit.
        precision: auto, fp32, bf16, fp16, as of `vpt.load`.

    Tasks are added and removed while others predict. Results equal each task's own model.
    """

    def __init__(
        self,
        backbone: BackboneConfig | None = None,
        device: str = "auto",
        memory: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self._config = backbone
        self._device = pick_device(device)
        self._precision = pick_precision(precision, self._device)
        self._autocast = autocast(self._precision, self._device)
        self._memory = memory
        self._lock = threading.RLock()
        self._tasks: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._groups: dict[Hashable, _Group] = {}
        self._backbone: Backbone | None = None
        self._brought: BackboneConfig | None = None  # the settings by which it was loaded

    def add(self, name: str, artifact: str | Path) -> TaskInfo:
        """Add a task, or replace the one of that name, by its artifact file or run folder.

        Raises:
            UserError: a damaged artifact, one of another backbone, or one that changes backbone weights.
        """
        if not name or len(name) > 200:
            raise UserError("a task needs a name of at most 200 characters")
        entry = self._read(name, find_artifact(artifact))
        with self._lock:
            self._tasks[name] = entry
            self._tasks.move_to_end(name)
            self._groups.clear()
            self._make_room(keep={name})
        return self.info(name)

    def remove(self, name: str) -> None:
        """Remove a task; batches that are under way still finish with it.

        Raises:
            UserError: no such task.
        """
        with self._lock:
            self._entry(name)
            del self._tasks[name]
            self._groups.clear()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def names(self) -> list[str]:
        """Names of all tasks, in order."""
        with self._lock:
            return sorted(self._tasks)

    def info(self, name: str) -> TaskInfo:
        """What a task is.

        Raises:
            UserError: no such task.
        """
        with self._lock:
            entry = self._entry(name)
            config, found = entry.artifact.config, entry.artifact
            return TaskInfo(
                name,
                config.task,
                found.classes,
                config.prompt.kind,
                found.preprocess.size,
                entry.bytes,
                entry.loaded is not None,
            )

    def bytes(self) -> int:
        """Bytes that loaded tasks take beside the backbone."""
        with self._lock:
            return sum(entry.bytes for entry in self._tasks.values() if entry.loaded is not None)

    def predict(self, images: Sequence[Picture], tasks: Sequence[str], top: int = 5) -> list[Result | BadImage]:
        """What each image shows to its task; an image that cannot be read gives its BadImage instead.

        Args:
            images: paths, PIL pictures or uint8 arrays.
            tasks: the task of each image.
            top: how many classes a classification names.

        Raises:
            UserError: no such task, one that cannot come back from its file, or lists of different lengths.
        """
        if top < 1:
            raise UserError(f"top={top} must be at least 1")
        if len(images) != len(tasks):
            raise UserError(f"{len(images)} images with {len(tasks)} tasks; give one task an image")
        loaded = self._use(tasks)
        results: list[Result | BadImage | None] = [None] * len(images)
        waiting: dict[Hashable, list[tuple[int, Tensor]]] = {}
        for index, (image, name) in enumerate(zip(images, tasks, strict=True)):
            task = loaded[name]
            label = name_of(image, index)
            try:
                pixels = decode(image, task.artifact.config.data.max_pixels, label)
            except BadImage as error:
                results[index] = error
                continue
            if isinstance(task, LoadedClassifier):
                ready = task.predictor.transform(pixels, 0)
                waiting.setdefault((task.shape, ready.shape[-1]), []).append((index, ready))
            else:
                results[index] = task.predictor.batch([label], [pixels], top)[0]
        for batch in waiting.values():
            mine = [_classifier(loaded[tasks[index]]) for index, _ in batch]
            scores = self._scores(torch.stack([ready for _, ready in batch]), mine)
            for (index, _), task, row in zip(batch, mine, scores, strict=True):
                results[index] = task.result(name_of(images[index], index), row, top)
        with self._lock:
            self._make_room(keep=set())  # a batch may have needed more tasks than there is room for
        return [result for result in results if result is not None]

    def attention(self, image: Picture, task: str) -> dict[str, Any]:
        """Where a task looks on an image: maps over the square that the backbone sees, each 0 to 1 by its own range.

        Returns:
            square, what the backbone sees as (S, S, 3) uint8; grid (rows, columns); rollout, and of every layer cls
            and prompts, as nested lists.

        Raises:
            UserError: no such task, one that finds boxes, or a backbone without patches.
        """
        loaded = self._use([task])[task]
        model = require_attention(loaded.predictor.model)
        assert isinstance(loaded, LoadedClassifier)
        square = loaded.predictor.transform(decode(image, loaded.artifact.config.data.max_pixels, "image"), 0)
        (maps,) = attention_of(model, square[None].to(self._device))

        def lists(layers: Tensor | None) -> list[Any]:
            return [] if layers is None else [as_heat(layer).round(4).tolist() for layer in layers]

        return {
            "task": task,
            "square": square.permute(1, 2, 0).numpy(),
            "grid": list(maps.rollout.shape),
            "rollout": as_heat(maps.rollout).round(4).tolist(),
            "cls": lists(maps.cls),
            "prompts": lists(maps.prompts),
        }

    def logits(self, images: Tensor, tasks: Sequence[str]) -> list[Tensor]:
        """Scores (classes of its task,) of each image, on the CPU in float32, before softmax or sigmoid.

        Args:
            images: (B, 3, S, S) uint8, of the size that their tasks want.
            tasks: the task of each image; of one shape, or they are passed in turn.

        Raises:
            UserError: no such task.
        """
        loaded = self._use(tasks)
        return self._scores(images, [_classifier(loaded[name]) for name in tasks])

    @torch.inference_mode()
    def _scores(self, images: Tensor, tasks: Sequence[LoadedClassifier]) -> list[Tensor]:
        """What `logits` gives, of images (B, 3, S, S) and the task of each."""
        images = images.to(self._device)
        found: dict[int, Tensor] = {}
        shapes: dict[Hashable, list[int]] = {}
        for index, task in enumerate(tasks):
            shapes.setdefault(task.shape, []).append(index)
        for places in shapes.values():
            found |= zip(places, self._pass(_rows(images, places), [tasks[index] for index in places]), strict=True)
        return [found[index] for index in range(len(tasks))]

    def _pass(self, images: Tensor, tasks: Sequence[LoadedClassifier]) -> list[Tensor]:
        """Scores of images whose tasks have one shape, by one pass through the backbone."""
        group = self._group(tasks)
        model = tasks[0].model
        ids = torch.tensor([group.place[task.name] for task in tasks], device=self._device)
        found: dict[int, Tensor] = {}
        with self._autocast():
            seen = _normalised(images, tasks)
            features = model.backbone.features(seen, model.steps, model.pool, group.stack.of(ids))
            for name, task in {task.name: task for task in tasks}.items():
                rows = [row for row, other in enumerate(tasks) if other.name == name]
                found |= zip(rows, task.head(_rows(features, rows)).float().cpu(), strict=True)
        return [found[row] for row in range(len(tasks))]

    def _group(self, tasks: Sequence[LoadedClassifier]) -> _Group:
        """A group of all loaded tasks of the shape that these have, made anew after tasks came or went."""
        wanted = {task.name: task for task in tasks}
        shape = tasks[0].shape
        with self._lock:
            group = self._groups.get(shape)
            if group is None or not group.holds(wanted):
                every = [entry.loaded for entry in self._tasks.values()]
                members = {t.name: t for t in every if isinstance(t, LoadedClassifier) and t.shape == shape}
                group = self._groups[shape] = _Group(members | wanted)
            return group

    def _use(self, tasks: Sequence[str]) -> dict[str, LoadedTask]:
        """Tasks, loaded and marked as used; one that is evicted meanwhile still finishes its batch."""
        with self._lock:
            wanted = {name: self._entry(name) for name in dict.fromkeys(tasks)}
            for name in wanted:
                self._tasks.move_to_end(name)
            found, missing = {}, False
            for name, entry in wanted.items():
                if entry.loaded is None:
                    missing = True
                    try:
                        self._tasks[name] = entry = self._read(name, entry.artifact.path)
                    except UserError as error:
                        raise UserError(f"task {name} left memory and cannot come back: {error}") from error
                assert entry.loaded is not None
                found[name] = entry.loaded
            if missing:
                self._groups.clear()
                self._make_room(keep=set(wanted))
            return found

    def _read(self, name: str, path: Path) -> _Entry:
        """A task from its file, as it is now: what left for want of memory comes back as what is there by then."""
        artifact = read_artifact(path)
        check_shares(name, artifact)
        loaded = load_task(name, artifact, self._backbone_for(name, artifact), self._device, self._precision)
        return _Entry(loaded.artifact, loaded.bytes, loaded)

    def _entry(self, name: str) -> _Entry:
        if name not in self._tasks:
            raise UserError(f"there is no task '{name}'{nearest(name, self._tasks)}; known: {len(self._tasks)} tasks")
        return self._tasks[name]

    def _make_room(self, keep: set[str]) -> None:
        if self._memory is None:
            return
        for name in list(self._tasks):
            if self.bytes() <= self._memory:
                return
            entry = self._tasks[name]
            if entry.loaded is not None and name not in keep:
                entry.loaded = None
                self._groups.clear()

    def _backbone_for(self, name: str, artifact: Artifact) -> Backbone:
        """The backbone for one more task: the first task brings it, and the first that reads names its text tower."""
        wanted = self._config or self._brought or backbone_of(artifact)
        with self._lock:
            if self._backbone is None:
                self._backbone = self._placed(load_backbone(wanted, text=reads_names(artifact), dynamic=True))
                self._brought = wanted
            elif self._backbone.text is None and reads_names(artifact) and self._backbone.library == "open_clip":
                whole = load_backbone(wanted, text=True, dynamic=True)
                if self._backbone.fingerprint in whole.fingerprints:
                    self._backbone = self._placed(self._backbone.with_text(whole))
            backbone = self._backbone
        check_fits(name, artifact, backbone)
        return backbone

    def _placed(self, backbone: Backbone) -> Backbone:
        """A backbone that came, as its passes want it: rounded, on the device."""
        backbone.round_to(self._precision)
        return backbone.to(self._device)


def _classifier(task: LoadedTask) -> LoadedClassifier:
    assert isinstance(task, LoadedClassifier)
    return task


def _rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows; not copied where they are all."""
    return values if len(rows) == len(values) else values[torch.tensor(rows, device=values.device)]


def _normalised(images: Tensor, tasks: Sequence[LoadedClassifier]) -> Tensor:
    """Normalised images, each by its own task's mean and std, and under that task's pixel prompt if it has one."""
    if len({task.sees for task in tasks}) == 1:
        return tasks[0].model.normalise(images)
    return torch.cat([task.model.normalise(images[row : row + 1]) for row, task in enumerate(tasks)])
