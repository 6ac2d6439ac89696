"""Work that is computed in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vpt.inference.bank.answers import Prepared, broken
from vpt.inference.bank.bank import Bank
from vpt.inference.bank.deadline import TooSlowError
from vpt.inference.bank.task import TaskError
from vpt.utils.errors import UserError

MOST_PIXELS = 1_000_000  # of a mask in a response; larger ones are reduced


@dataclass(frozen=True)
class Prediction:
    """Prediction of an image with a task; `top` is the number of classes in the result."""

    image: Prepared
    task: str
    top: int

    @staticmethod
    def compute(bank: Bank, works: Sequence[Prediction], seconds: float) -> Sequence[Any]:
        """Results of several pieces of work, in as few passes as possible.

        Raises:
            TooSlowError: the time limit was reached.
        """
        tasks = [work.task for work in works]
        top = max(work.top for work in works)
        return bank.answer([work.image for work in works], tasks, top, seconds, MOST_PIXELS)


@dataclass(frozen=True)
class Attention:
    """Attention maps of a task for an image."""

    image: Prepared
    task: str

    @staticmethod
    def compute(bank: Bank, works: Sequence[Attention], seconds: float) -> Sequence[Any]:
        """Results of several pieces of work.

        Raises:
            TooSlowError: the time limit of one of them was reached.
        """
        found: list[Any] = []
        for work in works:
            try:
                found.append(bank.look(work.image, work.task, seconds))
            except TooSlowError:
                raise
            except Exception as error:
                found.append(_failed(work.task, error))
        return found


def _failed(task: str, error: Exception) -> TaskError:
    if isinstance(error, TaskError):
        return error
    return TaskError(str(error)) if isinstance(error, UserError) else broken(task, error)
