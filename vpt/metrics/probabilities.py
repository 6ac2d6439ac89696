"""Probabilities from logits, computed the same way everywhere."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Values = TypeVar("Values", Tensor, np.ndarray)


def probabilities(logits: Values, multilabel: bool = False) -> Values:
    """Probabilities of logits (..., K): softmax over the classes, or with `multilabel` the sigmoid of each logit.

    >>> probabilities(torch.zeros(1, 2)), probabilities(np.zeros(2), multilabel=True)
    (tensor([[0.5000, 0.5000]]), array([0.5, 0.5]))
    """
    if isinstance(logits, np.ndarray):
        return probabilities(torch.tensor(logits), multilabel).numpy()
    return logits.sigmoid() if multilabel else logits.softmax(-1)
