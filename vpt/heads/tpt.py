"""TPT: the context is tuned on views of every test image (Shu et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.heads.zero_shot import ZeroShot
from vpt.prompts.clip.text_context import Contexts


def tuned_scores(head: ZeroShot, views: Tensor, share: float, rate: float, steps: int) -> Tensor:
    """Scores (K,) of an image whose views have features (V, D); the first view is the unaugmented one.

    The fraction `share` of views with the lowest entropy is kept; AdamW steps on the context minimise the entropy of
    their mean prediction; the unaugmented view is scored with the tuned context, which is then reset.
    """
    contexts = head.contexts
    assert isinstance(contexts, Contexts)
    before = contexts.tokens.detach().clone()
    with torch.inference_mode(False), torch.enable_grad():
        views = views.clone()  # autograd does not accept features created in inference mode
        tokens = contexts.tokens
        tokens.requires_grad_(True)
        try:
            optimizer = torch.optim.AdamW([tokens], lr=rate)
            kept: Tensor | None = None
            for _ in range(steps):
                scores = head.scores(views, head.text())
                if kept is None:
                    kept = entropy(scores).argsort(stable=True)[: max(1, int(len(views) * share))]
                loss = mean_entropy(scores[kept])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                return head.scores(views[:1], head.text())[0]
        finally:
            tokens.requires_grad_(False)
            tokens.grad = None
            with torch.no_grad():
                tokens.copy_(before)


def entropy(scores: Tensor) -> Tensor:
    """Entropy (V,) of the softmax of scores (V, K), in nats.

    >>> entropy(torch.zeros(1, 4)).item() == torch.tensor(4.0).log().item()
    True
    """
    logs = scores.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def mean_entropy(scores: Tensor) -> Tensor:
    """Entropy of the mean prediction of scores (V, K)."""
    logs = scores.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(scores)), device=scores.device).log()
    logs = logs.clamp_min(torch.finfo(logs.dtype).min)
    return -(logs.exp() * logs).sum()


def tuning_forward(
    features: Callable[[Tensor], Tensor], head: ZeroShot, share: float, rate: float, steps: int
) -> Callable[[Tensor], Tensor]:
    """A forward pass that tunes the context for every image: views (B, V, 3, S, S) to scores (B, K)."""

    def forward(images: Tensor) -> Tensor:
        rows = []
        for views in images:
            with torch.no_grad():
                found = torch.cat([features(some) for some in views.split(16)])
            rows.append(tuned_scores(head, F.normalize(found.float(), dim=-1), share, rate, steps))
        return torch.stack(rows)

    return forward
