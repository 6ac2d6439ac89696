"""What a batch of prepared images shows to their tasks, where a task that fails costs only its own answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vpt.data.decode import BadImage
from vpt.inference.bank.deadline import TooSlowError
from vpt.inference.bank.task import LoadedClassifier, LoadedTask, TaskError
from vpt.inference.results import Classification, Detections
from vpt.utils.errors import UserError

Result = Classification | Detections
Scores = Callable[[Tensor, Sequence[LoadedClassifier], bool], list[Tensor]]


class BrokenTaskError(TaskError):
    """A pass of a task raised something that no task should raise."""


class ReplacedTaskError(TaskError):
    """A task wants images otherwise than when this one was prepared."""


class Wants(Protocol):
    """What there is to know of a task before an image is prepared for it."""

    @property
    def view(self) -> Any:
        """What makes pixels (3, h, w) uint8 of a picture (H, W, 3) uint8; hashable."""

    @property
    def shape(self) -> Hashable:
        """Tasks for which it is equal share passes."""


@dataclass(frozen=True)
class Prepared:
    """An image as a task wants it; its full picture is needed no more.

    Args:
        name: of the image.
        pixels: (3, h, w) uint8.
        view: what made them of the picture; equal for tasks that want the same.
        shape: of the task: those for which it is equal share passes, and cost the same.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """

    name: str
    pixels: Tensor
    view: Hashable
    shape: Hashable
    width: int
    height: int


def prepare(pixels: np.ndarray, name: str, tasks: Sequence[Wants]) -> list[Prepared]:
    """A picture (H, W, 3) uint8 as each task wants it; what is equal is computed once and shared."""
    made: dict[Any, Tensor] = {}
    height, width = pixels.shape[:2]
    for task in tasks:
        if task.view not in made:
            made[task.view] = task.view(pixels)
    return [Prepared(name, made[task.view], task.view, task.shape, width, height) for task in tasks]


def answer_each(
    images: Sequence[Prepared], tasks: Sequence[LoadedTask], top: int, scores: Scores
) -> list[Result | UserError]:
    """The answer of each image's task, or what went wrong with it.

    Args:
        images: prepared by each task's own view.
        tasks: the task of each image.
        top: how many classes a classification names.
        scores: images (B, 3, S, S) and their tasks to scores, in as few passes as may be; or, with True, apart from
            whatever other tasks are loaded.

    Raises:
        TooSlowError: the thread's deadline has passed.
    """
    results: list[Result | UserError | None] = [None] * len(images)
    passes: dict[Hashable, list[int]] = {}
    for index, (image, task) in enumerate(zip(images, tasks, strict=True)):
        if task.view != image.view:
            results[index] = ReplacedTaskError(f"task {task.name} was replaced meanwhile; send the image again")
        elif isinstance(task, LoadedClassifier):
            passes.setdefault((task.shape, image.pixels.shape[-1]), []).append(index)
        else:
            results[index] = _guarded(task, lambda task=task, image=image: task.boxes(image))  # type: ignore[misc]
    for places in passes.values():
        mine = [task for task in (tasks[index] for index in places) if isinstance(task, LoadedClassifier)]
        found = _scored(torch.stack([images[index].pixels for index in places]), mine, scores)
        for index, task, row in zip(places, mine, found, strict=True):
            name = images[index].name
            results[index] = (
                row
                if isinstance(row, UserError)
                else _guarded(task, lambda task=task, name=name, row=row: task.result(name, row, top))  # type: ignore[misc]
            )
    return [result for result in results if result is not None]


def _scored(images: Tensor, tasks: Sequence[LoadedClassifier], scores: Scores) -> list[Tensor | UserError]:
    """Scores of images in one pass. If that fails, each task takes a pass of its own, so that one fails alone."""
    try:
        return list(scores(images, tasks, False))
    except TooSlowError:
        raise
    except Exception:
        pass  # of which task it comes is found below
    found: dict[int, Tensor | UserError] = {}
    for name in dict.fromkeys(task.name for task in tasks):
        rows = [row for row, task in enumerate(tasks) if task.name == name]
        mine = [tasks[row] for row in rows]
        try:
            found |= zip(rows, scores(images[rows], mine, True), strict=True)
        except TooSlowError:
            raise
        except Exception as error:
            found |= dict.fromkeys(rows, broken(mine[0].name, error))
    return [found[row] for row in range(len(tasks))]


def _guarded(task: LoadedTask, compute: Callable[[], Result]) -> Result | UserError:
    try:
        return compute()
    except (TooSlowError, BadImage):
        raise
    except TaskError as error:
        return error
    except Exception as error:
        return broken(task.name, error)


def broken(task: str, error: Exception) -> BrokenTaskError:
    """What is answered for a task whose pass raised something unforeseen."""
    made = BrokenTaskError(f"task {task} cannot answer; the log of the server says why")
    made.__cause__ = error
    return made
