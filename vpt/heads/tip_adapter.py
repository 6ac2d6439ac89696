"""Tip-Adapter: zero-shot scores plus a cache of training image features (Zhang et al. 2022, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.text_encoder import TextEncoder
from vpt.heads.zero_shot import ZeroShot
from vpt.utils.errors import UserError

STEPS = (200, 20)  # number of values searched for beta and alpha, as in the released code


class TipAdapter(ZeroShot):
    """Zero-shot scores plus alpha * exp(-beta (1 - f K^T)) Y, with keys K (N, D) and one-hot labels Y (N, K).

    Keys are set from training images (`remember`), alpha and beta are chosen on validation images (`search`). Only the
    keys are trainable, if at all (Tip-Adapter-F). The scale of the zero-shot scores is CLIP's own, which is 100 in
    OpenAI's models.

    Args:
        finetune: train the keys.
        mix: alpha and beta until they are chosen on validation images.

    The other arguments are those of ZeroShot.
    """

    role = "head"
    labels: Tensor
    mix: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        fingerprint: str,
        names: Sequence[str],
        templates: Sequence[str],
        finetune: bool,
        mix: tuple[float, float] = (1.0, 5.5),
    ) -> None:
        super().__init__(encoder, fingerprint, names, templates)
        self.keys = nn.Parameter(torch.zeros(0, self.fixed.shape[1]), requires_grad=finetune)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("mix", torch.tensor(mix))
        if not finetune:
            # Not a parameter because it is not trained, but it is stored with the task.
            keys = self.keys.data
            del self.keys
            self.register_buffer("keys", keys)

    def set_names(self, names: Sequence[str], templates: Sequence[str] | None = None) -> None:
        """Allowed only before keys are set.

        Raises:
            UserError: the cache belongs to other classes.
        """
        if "labels" in self._buffers and len(self.labels):
            raise UserError("a Tip-Adapter's cache supports its own classes only; use head=zeroshot for other names")
        super().set_names(names, templates)

    @property
    def width(self) -> int:
        """Width of the keys."""
        return self.fixed.shape[1]

    def resize_for(self, count: int) -> None:
        """Allocate `count` keys before a stored state is loaded."""
        width, device = self.width, self.fixed.device
        if isinstance(self.keys, nn.Parameter):
            self.keys.data = torch.zeros(count, width, device=device)
        else:
            self.keys = torch.zeros(count, width, device=device)
        self.labels = torch.zeros(count, dtype=torch.int64, device=device)

    @torch.no_grad()
    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Set the keys to the features (N, D) of training images, with their labels (N,).

        For several views of an image, `features` is the mean of their raw features; keys are normalised once.
        """
        self.resize_for(len(labels))
        self.keys.copy_(F.normalize(features, dim=-1))
        self.labels.copy_(labels)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, K) of image features (B, D)."""
        alpha, beta = self.mix
        return self.scores(features, self.text()) + alpha * self.cached(features, beta)

    def cached(self, features: Tensor, beta: Tensor | float) -> Tensor:
        """Scores of the cache, (B, K)."""
        near = torch.exp(-beta * (1 - F.normalize(features, dim=-1) @ self.keys.to(features.dtype).T))
        return near @ F.one_hot(self.labels, len(self.fixed)).to(near.dtype)

    def ready(self) -> Callable[[Tensor], Tensor]:
        """The head itself; all of it is constant."""
        return self.forward

    @torch.no_grad()
    def search(self, features: Tensor, labels: Tensor, alphas: float, betas: float) -> tuple[float, float, float]:
        """Choose alpha and beta by accuracy on validation features (N, D); ties go to the first values.

        Args:
            alphas: upper bound of alpha (exclusive); the smallest value is 0.1.
            betas: largest beta.

        Returns:
            alpha, beta and their accuracy.
        """
        zero = self.scores(features, self.text())
        best = (-1.0, 0.0, 0.0)
        for step in range(STEPS[0]):
            beta = 0.1 + step * (betas - 0.1) / STEPS[0]
            cached = self.cached(features, beta)
            for part in range(STEPS[1]):
                alpha = 0.1 + part * (alphas - 0.1) / STEPS[1]
                right = float(((zero + alpha * cached).argmax(1) == labels).float().mean())
                if right > best[0]:
                    best = (right, alpha, beta)
        self.mix.copy_(torch.tensor(best[1:]))
        return best[1], best[2], best[0]
