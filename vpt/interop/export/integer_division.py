"""Division of integers that all runtimes compute alike."""

from __future__ import annotations

import torch
from torch import Tensor


def quotient(value: Tensor, by: Tensor | int) -> Tensor:
    """Integers divided by others and rounded down, written so that the exact result is never an integer.

    A runtime that multiplies by a rounded inverse, such as OpenVINO, is one too low where `value` is a multiple of
    `by`: 64 x 61 by 61 gives 63 there.

    >>> quotient(torch.tensor([-4, -3, 3903, 3904]), 61).tolist()
    [-1, -1, 63, 64]
    """
    return torch.div(2 * value + 1, 2 * by, rounding_mode="floor")
