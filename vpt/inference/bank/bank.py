"""Bank: one frozen backbone in memory, any number of tasks, and batches in which every image has its own task."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpt.config import BackboneConfig
from vpt.data.decode import BadImage, decode
from vpt.inference.bank.answers import Prepared, Result, answer_each, broken, prepare
from vpt.inference.bank.attention import look_at
from vpt.inference.bank.deadline import Deadline, TooSlowError
from vpt.inference.bank.entry import Entry, ReadOptions, TaskInfo
from vpt.inference.bank.forward_groups import Group, logits_of
from vpt.inference.bank.shared_backbone import SharedBackbone
from vpt.inference.bank.task import (
    LoadedClassifier,
    LoadedTask,
    TaskError,
    check_shares,
    load_task,
    name_of,
)
from vpt.inference.image_inputs import Picture
from vpt.models.artifact import Artifact, find_artifact, read_artifact
from vpt.utils.device import autocast, pick_device, pick_precision
from vpt.utils.errors import UserError, nearest
from vpt.utils.precision import Precision


class Bank:
    """Runs many tasks on one shared backbone.

    Args:
        backbone: the backbone; default: that of the first artifact that is added. A repository, a folder or a weight
            file must be named here, unless you have trained on it on this machine: see
            vpt/models/trusted_settings.py.
        device: auto, cpu, cuda, cuda:1, mps.
        memory: maximum bytes for tasks besides the backbone; the least recently used tasks are evicted and loaded again
            from their files when needed. None for no limit.
        precision: auto, fp32, bf16, fp16, as in `vpt.load`.
        load_s: maximum seconds to prepare a task, without loading the backbone; None for no limit.

    Tasks can be added and removed while others predict. Results equal those of each task's own model.
    """

    def __init__(
        self,
        backbone: BackboneConfig | None = None,
        device: str = "auto",
        memory: int | None = None,
        precision: Precision = "fp32",
        load_s: float | None = None,
    ) -> None:
        self._load_s = load_s
        self._device = pick_device(device)
        self._precision = pick_precision(precision, self._device)
        self._autocast = autocast(self._precision, self._device)
        self._memory = memory
        self._lock = threading.RLock()
        self._deadline = Deadline()
        self._tasks: OrderedDict[str, Entry] = OrderedDict()  # least recently used first
        self._groups: dict[Hashable, Group] = {}
        self._backbone = SharedBackbone(backbone, self._device, self._precision, self._deadline)

    def add(self, name: str, artifact: str | Path) -> TaskInfo:
        """Add a task from an artifact file or run folder, or replace the task of that name.

        Raises:
            UserError: the artifact is damaged, belongs to another backbone, or changes all weights of the backbone.
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
        """Remove a task; running batches still finish with it.

        Raises:
            UserError: no such task.
        """
        with self._lock:
            self._entry(name)
            del self._tasks[name]
            self._groups.clear()

    @property
    def chosen(self) -> bool:
        """Whether the backbone was named explicitly, rather than taken from the first task."""
        return self._backbone.chosen

    @property
    def backbone_name(self) -> str | None:
        """The backbone; None until it is loaded."""
        return self._backbone.name

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def names(self) -> list[str]:
        """Names of all tasks, sorted."""
        with self._lock:
            return sorted(self._tasks)

    def info(self, name: str) -> TaskInfo:
        """Description of a task.

        Raises:
            UserError: no such task.
        """
        with self._lock:
            return self._entry(name).info(name)

    def read_options(self, name: str) -> ReadOptions:
        """How images are read for a task; window "full" and three channels if it was removed."""
        # Without the lock: the event loop of a server must not wait for a task that is being loaded.
        entry = self._tasks.get(name)
        if entry is None:
            return ReadOptions("full")
        return ReadOptions(entry.artifact.config.data.window, entry.artifact.config.data.channels)

    def bytes(self) -> int:
        """Bytes used by loaded tasks besides the backbone."""
        with self._lock:
            return sum(entry.bytes for entry in self._tasks.values() if entry.loaded is not None)

    def predict(self, images: Sequence[Picture], tasks: Sequence[str], top: int = 5) -> list[Result | BadImage]:
        """Predict each image with its task; an image that cannot be read gives a BadImage instead of a result.

        Args:
            images: paths, PIL images or uint8 arrays.
            tasks: the task of each image.
            top: number of classes in a classification result.

        Raises:
            UserError: no such task, a task that cannot be loaded again from its file, or lists of different lengths.
        """
        if top < 1:
            raise UserError(f"top={top} must be at least 1")
        if len(images) != len(tasks):
            raise UserError(f"{len(images)} images with {len(tasks)} tasks; give one task per image")
        loaded = self._use(tasks)
        found: list[Result | UserError | None] = [None] * len(images)
        ready: list[tuple[int, Prepared]] = []
        before: tuple[Picture, tuple[Any, ...]] | None = None
        for index, (image, name) in enumerate(zip(images, tasks, strict=True)):
            task, label = loaded[name], name_of(image, index)
            data = task.artifact.config.data
            options = data.max_pixels, data.window, data.channels
            if before is None or before[0] is not image or before[1] != options:  # else decoded for the task before
                before = None
                try:
                    pixels = _decoded(image, task.artifact, label)
                except BadImage as error:
                    found[index] = error
                    continue
                before = image, options
            ready.append((index, prepare(pixels, label, [task])[0]))
        mine = [loaded[tasks[index]] for index, _ in ready]
        answers = answer_each([image for _, image in ready], mine, top, self._scores)
        for (index, _), answer in zip(ready, answers, strict=True):
            found[index] = answer
            if isinstance(answer, Result):
                artifact, label = loaded[tasks[index]].artifact, name_of(images[index], index)
                answer.read = partial(_decoded, images[index], artifact, label)
        with self._lock:
            self._make_room(keep=set())  # a batch may have needed more tasks than fit into memory
        results: list[Result | BadImage] = []
        for each in found:
            if isinstance(each, UserError) and not isinstance(each, BadImage):
                raise each.__cause__ or each
            assert each is not None
            results.append(each)
        return results

    def prepare(self, pixels: np.ndarray, name: str, tasks: Sequence[str]) -> list[Prepared | UserError]:
        """Prepare an image (H, W, 3) uint8 for each task, for `answer`; an error for tasks that cannot use it."""
        height, width = pixels.shape[:2]
        found: list[Prepared | UserError] = []
        wanted: list[tuple[int, Entry]] = []
        for task in tasks:
            try:
                with self._lock:
                    entry = self._entry(task)
                limit = entry.artifact.config.data.max_pixels
                if width * height > limit:
                    raise BadImage(name, f"task {task} accepts images of at most {limit} pixels")
                wanted.append((len(found), entry))
                found.append(_PENDING)
            except UserError as error:
                found.append(error)
        for (index, _), ready in zip(wanted, prepare(pixels, name, [entry for _, entry in wanted]), strict=True):
            found[index] = ready
        return found

    def answer(
        self,
        images: Sequence[Prepared],
        tasks: Sequence[str],
        top: int = 5,
        seconds: float | None = None,
        pixels: int | None = None,
    ) -> list[Result | UserError]:
        """Predict each prepared image with its task; a task that fails or was removed gives errors for its own images
        only.

        Args:
            images: images from `prepare`.
            tasks: the task of each image.
            top: number of classes in a classification result.
            seconds: time limit after which passes are stopped between two layers.
            pixels: largest number of pixels of a mask; larger ones are reduced, see `Segmentation.within`.

        Raises:
            TooSlowError: the time limit was reached.
        """
        loaded, failed = self._use_each(tasks)
        served = [index for index, name in enumerate(tasks) if name in loaded]
        with self._deadline.within(seconds):
            answers = iter(
                answer_each(
                    [images[index] for index in served],
                    [loaded[tasks[index]] for index in served],
                    top,
                    self._scores,
                    pixels,
                )
            )
        with self._lock:
            self._make_room(keep=set())
        return [next(answers) if name in loaded else failed[name] for name in tasks]

    def attention(self, image: Picture, task: str) -> dict[str, Any]:
        """Attention maps of a task for an image, over the square that the backbone sees, each scaled to 0..1.

        Returns:
            square, the input of the backbone as (S, S, 3) uint8; grid (rows, columns); rollout, and for every layer
            cls and prompts, as nested lists.

        Raises:
            UserError: no such task, a detection task, or a backbone without patches.
        """
        loaded = self._use([task])[task]
        pixels = _decoded(image, loaded.artifact, "image")
        return look_at(loaded, prepare(pixels, "image", [loaded])[0], self._device)

    def look(self, image: Prepared, task: str, seconds: float | None = None) -> dict[str, Any]:
        """Result of `attention` for a prepared image.

        Raises:
            TaskError: the task has no attention maps.
            TooSlowError: the time limit was reached.
        """
        loaded, failed = self._use_each([task])
        if failed:
            raise failed[task]
        with self._deadline.within(seconds):
            return look_at(loaded[task], image, self._device)

    def logits(self, images: Tensor, tasks: Sequence[str]) -> list[Tensor]:
        """Logits (classes of its task,) of each image, on the CPU in float32.

        Args:
            images: images (B, 3, S, S) uint8, in the size expected by their tasks.
            tasks: the task of each image; tasks of different shapes need separate passes.

        Raises:
            UserError: no such task.
        """
        loaded = self._use(tasks)
        mine = [_classifier(loaded[name]) for name in tasks]
        return [row[: len(task.artifact.classes)] for row, task in zip(self._scores(images, mine), mine, strict=True)]

    @torch.inference_mode()
    def _scores(self, images: Tensor, tasks: Sequence[LoadedClassifier], alone: bool = False) -> list[Tensor]:
        """Result of `logits` for images (B, 3, S, S) and their tasks; with `alone`, without other loaded tasks."""

        def group(mine: Sequence[LoadedClassifier]) -> Group:
            return Group({task.name: task for task in mine}) if alone else self._group(mine)

        with self._autocast():
            return logits_of(images, tasks, group, self._device)

    def _group(self, tasks: Sequence[LoadedClassifier]) -> Group:
        """Group of all loaded tasks with this shape; created again after tasks are added or removed."""
        wanted = {task.name: task for task in tasks}
        shape = tasks[0].shape
        with self._lock:
            group = self._groups.get(shape)
            if group is None or not group.holds(wanted):
                every = [entry.loaded for entry in self._tasks.values()]
                members = {t.name: t for t in every if isinstance(t, LoadedClassifier) and t.shape == shape}
                group = self._groups[shape] = Group(members | wanted)
            return group

    def _use(self, tasks: Sequence[str]) -> dict[str, LoadedTask]:
        """Load tasks and mark them as used; a task that is evicted meanwhile still finishes its batch."""
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
                        raise UserError(
                            f"task {name} was evicted from memory and cannot be loaded again: {error}"
                        ) from error
                assert entry.loaded is not None
                found[name] = entry.loaded
            if missing:
                self._groups.clear()
                self._make_room(keep=set(wanted))
            return found

    def _use_each(self, tasks: Sequence[str]) -> tuple[dict[str, LoadedTask], dict[str, UserError]]:
        """Tasks that can be used, and the errors of the others."""
        try:
            return self._use(tasks), {}
        except Exception:
            pass  # of one of the tasks; it is found below
        found: dict[str, LoadedTask] = {}
        failed: dict[str, UserError] = {}
        for name in dict.fromkeys(tasks):
            try:
                found |= self._use([name])
            except UserError as error:
                failed[name] = TaskError(f"task {name} is no longer served")
                failed[name].__cause__ = error
            except Exception as error:
                failed[name] = broken(name, error)
        return found, failed

    def _read(self, name: str, path: Path) -> Entry:
        """Load a task from the current content of its file; this also applies to evicted tasks."""
        artifact = read_artifact(path)
        check_shares(name, artifact)
        backbone = self._backbone.fitting(name, artifact)
        try:
            with self._deadline.within(self._load_s):
                loaded = load_task(name, artifact, backbone, self._backbone.changes, self._device, self._precision)
        except TooSlowError:
            raise UserError(f"task {name} takes longer than {self._load_s:g} seconds to prepare") from None
        self._deadline.watch(loaded.predictor.model)
        return Entry(loaded.artifact, loaded.bytes, loaded.view, loaded.shape, loaded)

    def _entry(self, name: str) -> Entry:
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


_PENDING = UserError("not prepared yet")


def _decoded(image: Picture, artifact: Artifact, label: str) -> np.ndarray:
    data = artifact.config.data
    return decode(image, data.max_pixels, label, window=data.window, channels=data.channels)


def _classifier(task: LoadedTask) -> LoadedClassifier:
    assert isinstance(task, LoadedClassifier)
    return task
