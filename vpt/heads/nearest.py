"""Heads that compare features with those of training images: nearest neighbours and class means. Nothing is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.config import KnnHead, PrototypeHead

LEAST = 1e-6  # probability of a class that none of the neighbours has


class Neighbours(nn.Module):
    """The k stored features that are most similar to an image vote for their classes.

    A vote weighs exp(cosine / temperature), as in DINO's evaluation (Caron et al. 2021, appendix). Scores are the
    logarithms of the classes' shares of the votes, so their softmax are these shares.

    Args:
        features: width of the features.
        classes: number of classes.
        k: number of neighbours.
        temperature: of the votes.
    """

    role = "head"
    keys: Tensor
    labels: Tensor

    def __init__(self, features: int, classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.width, self.classes, self.k, self.temperature = features, classes, k, temperature
        self.register_buffer("keys", torch.zeros(0, features, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def resize_for(self, count: int) -> None:
        """Allocate `count` features before a stored state is loaded."""
        self.keys = torch.zeros(count, self.width, dtype=torch.float16, device=self.keys.device)
        self.labels = torch.zeros(count, dtype=torch.int64, device=self.labels.device)

    @torch.no_grad()
    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Store features (N, D) of training images, and their labels (N,)."""
        self.keys = F.normalize(features.float(), dim=-1).half()
        self.labels = labels.long()

    @torch.no_grad()
    def add_class(self, features: Tensor) -> None:
        """Store features (N, D) of images of a new class, the last one."""
        self.keys = torch.cat([self.keys, F.normalize(features.float(), dim=-1).half().to(self.keys.device)])
        self.labels = torch.cat([self.labels, self.labels.new_full((len(features),), self.classes)])
        self.classes += 1

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, classes) of features (B, D)."""
        with _exact(features):
            near = F.normalize(features.float(), dim=-1) @ self.keys.float().T
            found = near.topk(min(self.k, self.keys.shape[0]), dim=1)
            weights = ((found.values - found.values[:, :1]) / self.temperature).exp()
            named = self.labels[found.indices]
            places = torch.arange(self.classes, device=named.device)
            votes = (weights[..., None] * (named[..., None] == places)).sum(1)
            return (votes / votes.sum(1, keepdim=True)).clamp_min(LEAST).log()


class Prototypes(nn.Module):
    """Cosine similarity to the mean of each class's normalised features, divided by a temperature.

    Args:
        features: width of the features.
        classes: number of classes.
        temperature: of the scores.
    """

    role = "head"
    means: Tensor

    def __init__(self, features: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("means", torch.zeros(classes, features))

    @torch.no_grad()
    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Set the means to those of features (N, D) of training images, with their labels (N,)."""
        rows = F.normalize(features.float(), dim=-1)
        sums = torch.zeros_like(self.means, device=rows.device).index_add_(0, labels, rows)
        self.means = F.normalize(sums, dim=-1)  # a sum has the direction of its mean

    @torch.no_grad()
    def add_class(self, features: Tensor) -> None:
        """Add the mean of features (N, D) of images of a new class, the last one."""
        mean = F.normalize(F.normalize(features.float(), dim=-1).sum(0, keepdim=True), dim=-1)
        self.means = torch.cat([self.means, mean.to(self.means.device)])

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, classes) of features (B, D)."""
        with _exact(features):
            return F.normalize(features.float(), dim=-1) @ self.means.T / self.temperature


def build_neighbours(config: KnnHead, features: int, classes: int) -> Neighbours:
    """Create the head of `head=knn`, without features.

    >>> build_neighbours(KnnHead(), features=8, classes=3).keys.shape
    torch.Size([0, 8])
    """
    return Neighbours(features, classes, config.k, config.temperature)


def build_prototypes(config: PrototypeHead, features: int, classes: int) -> Prototypes:
    """Create the head of `head=prototype`, with means of zero.

    >>> build_prototypes(PrototypeHead(), features=8, classes=3).means.shape
    torch.Size([3, 8])
    """
    return Prototypes(features, classes, config.temperature)


def _exact(features: Tensor) -> AbstractContextManager[object]:
    """Without autocast: similarities differ in digits that bfloat16 does not have."""
    kind = features.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
