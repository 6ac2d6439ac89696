"""Score of images that belong to none of the classes: virtual-logit matching (ViM, Wang et al. 2022).

What a feature has outside the leading directions of the training features becomes the logit of one more class, which
competes with the logits of the head. Nothing is trained. docs/medical.md compares it with other scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RANK = 64  # leading directions at most


class UnknownScore(nn.Module):
    """Maps features (B, D) and logits (B, K) to scores (B,) from 0 to 1, above 0.5 for images of none of the classes.

    Args:
        width: D.
        device: of its buffers.

    Before `fit` and `accept`, as in the artifact of a run that has not finished, all scores are 0.

    >>> score = UnknownScore(4)
    >>> rows = torch.tensor([[1.0, 0.0, 0.1, 0.0], [-1.0, 0.0, 0.0, 0.1], [1.1, 0.1, 0.0, 0.0], [-1.1, 0.0, 0.0, 0.0]])
    >>> logits = rows[:, :1] * torch.tensor([5.0, -5.0])
    >>> score.fit(rows, logits)
    >>> score.accept(rows, logits, 0.95)
    >>> (score(rows, logits) > 0.5).any(), score(rows + torch.tensor([0.0, 3.0, -2.0, 0.0]), logits).min() > 0.5
    (tensor(False), tensor(True))
    """

    def __init__(self, width: int, device: str = "cpu") -> None:
        super().__init__()
        self.center: Tensor
        self.directions: Tensor
        self.alpha: Tensor
        self.threshold: Tensor
        shapes = {"center": (width,), "directions": (width, min(RANK, width // 2)), "alpha": (), "threshold": ()}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, device=device))
        self.threshold.fill_(1e30)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Scores (B,), float32."""
        if torch.is_autocast_enabled(features.device.type):  # differences of squares need float32
            with torch.autocast(features.device.type, enabled=False):
                return self.forward(features, logits)
        return torch.sigmoid(self.raw(features, logits) - self.threshold)

    def raw(self, features: Tensor, logits: Tensor) -> Tensor:
        """Scores (B,) without the threshold: the virtual logit, less the energy of the logits."""
        return self.alpha * self._outside(features) - logits.float().logsumexp(1)

    def _outside(self, features: Tensor) -> Tensor:
        """Norm (B,) of what features have outside the leading directions."""
        rows = features.float() - self.center
        return (rows.square().sum(1) - (rows @ self.directions).square().sum(1)).clamp(min=1e-12).sqrt()

    @torch.no_grad()
    def fit(self, features: Tensor, logits: Tensor) -> None:
        """Find the leading directions, and scale the virtual logit to the largest logits, of the training images.

        Args:
            features: (N, D).
            logits: (N, K).
        """
        rows = features.double()
        center = rows.mean(0)
        # With few images all directions would explain them without a rest.
        count = min(self.directions.shape[1], max(1, len(rows) // 2))
        vectors = torch.linalg.svd(rows - center, full_matrices=False)[2][:count].T
        self.center.copy_(center)
        self.directions.zero_()[:, : vectors.shape[1]] = vectors
        outside = self._outside(features.to(self.center.device)).mean().clamp(min=1e-6)
        self.alpha.copy_(logits.float().amax(1).mean().abs() / outside)
        self.threshold.zero_()

    @torch.no_grad()
    def accept(self, features: Tensor, logits: Tensor, fraction: float) -> None:
        """Choose the threshold so that at least this fraction of the validation images has a score of at most 0.5."""
        found = self.raw(features.to(self.center.device), logits.to(self.center.device))
        self.threshold.copy_(torch.quantile(found, fraction, interpolation="higher"))
