"""Ordinal head: one direction in feature space and ordered thresholds between the classes."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.config import OrdinalHead


class Ordinal(nn.Module):
    """P(class > k) = sigmoid(w f + b_k) with one weight vector w, as in CORAL (Cao et al. 2020, section 3).

    CORAL's biases b_k are ordered at the optimum of its loss; here they are ordered always, as sums of positive steps,
    so that the probabilities never contradict each other. Scores are the logarithms of P(class = k). They sum to one,
    so that softmax, cross-entropy and calibration work as for any classifier; their cross-entropy is the likelihood of
    the proportional odds model (McCullagh 1980).

    Args:
        features: width of the features.
        classes: number of classes, at least two.
        dropout: on the input.
    """

    def __init__(self, features: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.direction = nn.Linear(features, 1, bias=False)
        nn.init.trunc_normal_(self.direction.weight, std=0.02)
        # At first all classes are equally likely.
        start = [math.log((classes - k) / k) for k in range(1, classes)]
        steps = torch.tensor([first - second for first, second in itertools.pairwise(start)])
        self.first = nn.Parameter(torch.tensor(start[:1]))
        self.steps = nn.Parameter(steps.expm1().log())  # the inverse of softplus

    @torch.no_grad()
    def put(self, weight: Tensor, bias: Tensor) -> None:
        """Set the direction (D,), and b_k (K - 1,), which fall by at least 0.001."""
        self.direction.weight.copy_(weight[None])
        self.first.copy_(bias[:1])
        self.steps.copy_((bias[:-1] - bias[1:]).clamp_min(1e-3).expm1().log())

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, classes) of features (B, D)."""
        rank = self.direction(self.dropout(features)).float()
        steps = F.softplus(self.steps.float())
        bias = torch.cat([self.first.float(), self.first.float() - steps.cumsum(0)])
        above, below = F.logsigmoid(rank + bias), F.logsigmoid(-rank - bias)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
        between = above[:, :-1] + below[:, 1:] + torch.log(-torch.expm1(-steps))
        return torch.cat([below[:, :1], between, above[:, -1:]], 1)


def build_ordinal(config: OrdinalHead, features: int, classes: int) -> Ordinal:
    """Create the head of `head=ordinal`.

    >>> build_ordinal(OrdinalHead(), features=8, classes=4)(torch.zeros(1, 8)).exp().detach()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return Ordinal(features, classes, config.dropout)
