"""Predictions for a batch of prepared images of several tasks; a task that fails affects only its own results."""

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
from vpt.inference.result import Result
from vpt.utils.errors import UserError

Scores = Callable[[Tensor, Sequence[LoadedClassifier], bool], list[Tensor]]


class BrokenTaskError(TaskError):
    """Raised if a forward pass of a task fails with an unexpected error."""


class ReplacedTaskError(TaskError):
    """Raised if a task was replaced by one with other preprocessing after an image was prepared."""


class Wants(Protocol):
    """Properties of a task that are needed to prepare an image for it."""

    @property
    def view(self) -> Any:
        """Transform from an image (H, W, 3) uint8 to pixels (3, h, w) uint8; hashable."""

    @property
    def shape(self) -> Hashable:
        """Tasks with equal shape share forward passes."""


@dataclass(frozen=True)
class Prepared:
    """An image after preprocessing for a task; the full image is no longer needed.

    Args:
        name: name of the image.
        pixels: pixels (3, h, w) uint8.
        view: transform that was used; equal for tasks with the same preprocessing.
        shape: shape of the task; tasks with equal shape share forward passes and have the same cost.
        width: width of the original image, in pixels.
        height: height of the original image, in pixels.
    """

    name: str
    pixels: Tensor
    view: Hashable
    shape: Hashable
    width: int
    height: int


def prepare(pixels: np.ndarray, name: str, tasks: Sequence[Wants]) -> list[Prepared]:
    """Preprocess an image (H, W, 3) uint8 for each task; equal transforms are computed once and shared."""
    made: dict[Any, Tensor] = {}
    height, width = pixels.shape[:2]
    for task in tasks:
        if task.view not in made:
            made[task.view] = task.view(pixels)
    return [Prepared(name, made[task.view], task.view, task.shape, width, height) for task in tasks]


def answer_each(
    images: Sequence[Prepared], tasks: Sequence[LoadedTask], top: int, scores: Scores, pixels: int | None = None
) -> list[Result | UserError]:
    """Result of each image's task, or its error.

    Args:
        images: images prepared for their tasks.
        tasks: the task of each image.
        top: number of classes in a classification result.
        scores: maps images (B, 3, S, S) and their tasks to scores in as few passes as possible; with True, separately
            from other loaded tasks.
        pixels: reduce each result to images of at most that many pixels, before the next one is computed.

    Raises:
        TooSlowError: the thread's deadline has passed.
    """
    results: list[Result | UserError | None] = [None] * len(images)
    passes: dict[Hashable, list[int]] = {}
    for index, (image, task) in enumerate(zip(images, tasks, strict=True)):
        if task.view != image.view:
            results[index] = ReplacedTaskError(f"task {task.name} was replaced in the meantime; send the image again")
        elif isinstance(task, LoadedClassifier):
            passes.setdefault((task.shape, image.pixels.shape), []).append(index)
        else:
            found = _guarded(task, lambda task=task, image=image: task.answer(image, top))  # type: ignore[misc]
            results[index] = found.within(pixels) if pixels is not None and isinstance(found, Result) else found
    for places in passes.values():
        mine = [task for task in (tasks[index] for index in places) if isinstance(task, LoadedClassifier)]
        rows = _scored(torch.stack([images[index].pixels for index in places]), mine, scores)
        for index, task, row in zip(places, mine, rows, strict=True):
            name = images[index].name
            results[index] = (
                row
                if isinstance(row, UserError)
                else _guarded(task, lambda task=task, name=name, row=row: task.result(name, row, top))  # type: ignore[misc]
            )
    return [result for result in results if result is not None]


def _scored(images: Tensor, tasks: Sequence[LoadedClassifier], scores: Scores) -> list[Tensor | UserError]:
    """Scores of images in one pass. If it fails, each task gets its own pass, so that only faulty tasks fail."""
    try:
        return list(scores(images, tasks, False))
    except TooSlowError:
        raise
    except Exception:
        pass  # the faulty task is found below
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
    """Error result of a task whose pass raised an unexpected exception."""
    made = BrokenTaskError(f"task {task} failed; see the log of the server")
    made.__cause__ = error
    return made
