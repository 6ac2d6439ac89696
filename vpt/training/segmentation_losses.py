"""Losses of segmentation: cross-entropy, Dice and focal loss of scores (B, K, H, W) and masks (B, H, W).

Pixels of `IGNORE` count nowhere; a batch in which all are ignored has a loss of zero. Any shape (B, K, ...) with masks
(B, ...) is accepted, so that images of several sizes may be given as one row of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.data.segmentation.dataset import IGNORE

_TINY = 1e-8


Total = Callable[[Tensor], Tensor]  # sums over the processes that a batch is divided across


def _own(sums: Tensor) -> Tensor:
    return sums


def cross_entropy(scores: Tensor, masks: Tensor, weights: Tensor | None = None, total: Total = _own) -> Tensor:
    """Cross-entropy averaged over pixels, weighted by the weights (K,) of their classes, as torch's.

    >>> float(cross_entropy(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, 255]]])))
    1.386...
    """
    return focal(scores, masks, 0.0, weights, total)


def focal(
    scores: Tensor, masks: Tensor, gamma: float = 2.0, weights: Tensor | None = None, total: Total = _own
) -> Tensor:
    """Focal loss (Lin et al. 2017) of softmax probabilities: cross-entropy times (1 - p) ** gamma, where p is the
    probability of the true class; averaged as `cross_entropy`.

    >>> masks = torch.tensor([[[0]]])
    >>> bool(focal(torch.zeros(1, 2, 1, 1), masks, 2.0) == 0.25 * cross_entropy(torch.zeros(1, 2, 1, 1), masks))
    True
    """
    wanted = masks.long()
    entropy = F.cross_entropy(scores.float(), wanted, ignore_index=IGNORE, reduction="none")
    counted = wanted != IGNORE
    share = counted.float()
    if weights is not None:
        share = share * weights.to(scores.device)[wanted.where(counted, 0)]
    loss = entropy if gamma == 0 else (-torch.expm1(-entropy)).clamp(min=_TINY) ** gamma * entropy
    losses, shares = total(torch.stack([(loss * share).sum(), share.sum()]))
    return losses / shares.clamp(min=_TINY)


def dice(scores: Tensor, masks: Tensor, total: Total = _own) -> Tensor:
    """One minus the Dice coefficient of softmax probabilities, 2 |P T| / (|P| + |T|), summed over all pixels of the
    batch and averaged over the classes that occur in it (Milletari et al. 2016, without squares).

    >>> perfect = torch.tensor([[[[50.0, 0.0]], [[0.0, 50.0]]]])
    >>> float(dice(perfect, torch.tensor([[[0, 1]]])).round(decimals=3))
    0.0
    """
    wanted = masks.long()
    counted = wanted != IGNORE
    labels = wanted.where(counted, 0)
    likely = scores.float().softmax(1) * counted.unsqueeze(1)
    correct = likely.gather(1, labels.unsqueeze(1)).squeeze(1)[counted]
    zeros = likely.new_zeros(scores.shape[1])
    both = zeros.index_add(0, wanted[counted], correct)
    true = zeros.index_add(0, wanted[counted], torch.ones_like(correct))
    found = likely.transpose(0, 1).flatten(1).sum(1)
    both, true, found = total(torch.stack([both, true, found]))
    there = true > 0
    return ((1 - 2 * both / (found + true).clamp(min=_TINY)) * there).sum() / there.sum().clamp(min=1)


def segmentation_loss(
    terms: Sequence[str], weights: Tensor | None = None, gamma: float = 2.0, total: Total = _own
) -> Callable[[Tensor, Tensor], Tensor]:
    """The sum of losses: a function of scores (B, K, ...) and masks (B, ...).

    Args:
        terms: some of cross_entropy, dice and focal.
        weights: of the classes (K,), in cross_entropy and focal.
        gamma: of focal.
        total: sums over the processes that a batch is divided across, such as a `DividedSum`; default: there is one.

    >>> loss = segmentation_loss(["cross_entropy", "dice"])
    >>> float(loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1)))
    1.026...
    """
    known: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "cross_entropy": lambda scores, masks: cross_entropy(scores, masks, weights, total),
        "dice": lambda scores, masks: dice(scores, masks, total),
        "focal": lambda scores, masks: focal(scores, masks, gamma, weights, total),
    }
    chosen = [known[term] for term in terms]

    def loss(scores: Tensor, masks: Tensor) -> Tensor:
        return torch.stack([one(scores, masks) for one in chosen]).sum()

    return loss
