"""DA-VPT: deep prompts that stand for groups of classes, by a metric loss (Ren et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import DavptPrompt
from vpt.prompts.base import Shape, TrainingImages, prompted_layers, set_per_layer
from vpt.prompts.visual.vpt import VisualPrompts
from vpt.utils.distributed import all_summed
from vpt.utils.errors import UserError

ONE_LABEL = "prompt=davpt needs one label for every image; choose prompt=deep"
ROUNDS = 20  # of k-means


class DistributionPrompts(VisualPrompts):
    """VPT-Deep. In guided layers the first tokens stand for groups of classes: a Proxy-Anchor loss pulls the mean patch
    token and the class token's query of an image towards the token of its group, and pushes them from all others.

    Classes are grouped by k-means of their mean class tokens at the output of the backbone: before training without
    prompts, then after every epoch from the images of that epoch.

    Args:
        config: settings.
        shape: shape of the backbone.

    Parameters: LPC, and LC for value biases. Those of the keys, which the paper trains too, add the same number to all
    attention scores of a query and have no effect.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> prompt = DistributionPrompts(DavptPrompt(tokens=20, value_bias=True), shape)
    >>> sum(parameter.numel() for parameter in prompt.parameters()) == 12 * 20 * 768 + 12 * 768
    True
    """

    of_step = ("_seen", "_leaving")
    training_only = ("group", "centroids", "sums", "counts", "grouped")
    group: Tensor  # (classes,) index of the token of each class
    centroids: Tensor  # (guided tokens, C)
    sums: Tensor  # (classes, C) class tokens of this epoch
    counts: Tensor  # (classes,) images of this epoch
    grouped: Tensor  # the epoch that the groups are for

    def __init__(self, config: DavptPrompt, shape: Shape) -> None:
        super().__init__(shape, set_per_layer(config.layers, shape), config.tokens, config.dropout)
        self.config, self.prefix, self.depth, self.width = config, shape.prefix, shape.depth, shape.width
        self.guided = prompted_layers(config.guided, shape.depth)
        if missing := sorted(set(self.guided) - set(self.inserted)):
            raise UserError(f"prompt.guided: layer {missing[0]} has no prompt; choose some of prompt.layers")
        if config.class_weight and not shape.prefix:
            raise UserError("the backbone has no class token; set prompt.class_weight=0")
        self.count = min(config.guided_tokens, config.tokens)
        self.values = nn.Parameter(torch.zeros(shape.depth, shape.width)) if config.value_bias else None
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}  # guided layer -> mean patch token and class token's query
        self._leaving: Tensor | None = None

    def set_classes(self, count: int) -> None:
        """Create the buffers for a number of classes."""
        like = self.tokens
        for name, shape in {
            "group": (count,),
            "centroids": (self.count, self.width),
            "sums": (count, self.width),
            "counts": (count,),
            "grouped": (),
        }.items():
            self.register_buffer(name, torch.zeros(shape, device=like.device))
        self.group.copy_(torch.arange(count) % self.count)

    @torch.no_grad()
    def initialize(self, config: DavptPrompt, data: TrainingImages) -> None:
        """Group the classes by the class tokens of the backbone without prompts."""
        if not data.labels or not all(isinstance(each, Tensor) and each.ndim == 1 for each in data.labels):
            raise UserError(ONE_LABEL)
        if not hasattr(self, "group"):
            self.set_classes(max(int(each.max()) for each in data.labels) + 1)
        tower = data.backbone.require_tower("token prompts")
        for images, labels in zip(data.images, data.labels, strict=True):
            rows, rotary = tower.embed(images)
            for layer, block in enumerate(tower.blocks):
                rows = block.forward(rows, None, None, tower.rope(rotary, layer), tower.prefix)
            self._count(self._class_token(rows), labels)
        self._group(fresh=True, seed=data.seed)

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """Group the classes by the class tokens of the epoch before, once."""
        if hasattr(self, "grouped") and epoch > int(self.grouped):
            self._group(fresh=False, seed=0)
            self.grouped.fill_(epoch)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """Add the value bias, and in training what the loss reads."""
        if self.values is not None:
            plain = replace(plain, value_bias=self.values[layer])
        if not self.training:
            return plain

        def entering(rows: Tensor) -> None:
            query = block.queries_keys_values(rows[:, :1])[0].transpose(1, 2).flatten(1)
            self._seen[layer] = rows[:, self.prefix :].float().mean(1), query.float()

        def leaving(rows: Tensor) -> None:
            self._leaving = rows.detach()

        return replace(
            plain,
            entering=entering if layer in self.guided else None,
            leaving=leaving if layer == self.depth - 1 else None,
        )

    def extra_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """Proxy-Anchor losses between the tokens of guided layers and patches, and class tokens."""
        seen, leaving = self._seen, self._leaving
        self._seen, self._leaving = {}, None  # tensors of this step only
        if not isinstance(labels, Tensor) or labels.ndim != 1:
            raise UserError(ONE_LABEL)
        if leaving is not None and leaving.shape[1]:
            self._count(self._class_token(leaving), labels)
        config, paper = self.config, self.config.form == "paper"
        own = self.group[labels].long()[:, None] == torch.arange(self.count, device=labels.device)
        losses = {"patches": labels.new_zeros((), dtype=torch.float32)}
        losses["class token"] = losses["patches"]
        for layer, points in seen.items():
            proxies = self.tokens[self.inserted[layer], : self.count].float()
            for name, weight, each in zip(losses, (config.patch_weight, config.class_weight), points, strict=True):
                with torch.autocast(labels.device.type, enabled=False):
                    found = proxy_anchor(proxies, each, own, config.scale, config.margin, paper)
                losses[name] = losses[name] + weight * found
        return losses

    def _class_token(self, rows: Tensor) -> Tensor:
        """The class token (B, C), or the mean of the patches; normalised."""
        token = (rows[:, 0] if self.prefix else rows.mean(1)).float()
        return F.layer_norm(token, token.shape[-1:])

    @torch.no_grad()
    def _count(self, tokens: Tensor, labels: Tensor) -> None:
        self.sums.index_add_(0, labels, tokens.to(self.sums))
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self.counts.dtype))

    @torch.no_grad()
    def _group(self, fresh: bool, seed: int) -> None:
        """Assign classes to tokens; those without an image keep theirs."""
        sums, counts = all_summed(self.sums), all_summed(self.counts)
        present = (counts > 0).nonzero()[:, 0]
        clusters = min(self.count, len(present))
        if clusters:
            means = F.normalize(sums[present], dim=-1)
            first = None if fresh else self.centroids[:clusters]
            group, centroids = grouped(means, clusters, first, seed)
            self.group[present] = group.to(self.group)
            self.centroids[:clusters] = centroids.to(self.centroids)
        self.sums.zero_()
        self.counts.zero_()


def grouped(means: Tensor, count: int, centroids: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster unit vectors (K, C): the cluster of each, (K,), and the centroids (count, C).

    Args:
        count: clusters, at most K.
        centroids: to start from; default: k-means++.

    >>> [int(each) for each in grouped(torch.eye(3), 3, torch.eye(3), seed=0)[0]]
    [0, 1, 2]
    """
    from sklearn.cluster import KMeans

    start = "k-means++" if centroids is None else centroids.cpu().double().numpy()
    rounds = 10 if centroids is None else 1
    found = KMeans(count, init=start, n_init=rounds, max_iter=ROUNDS, random_state=seed).fit(
        means.cpu().double().numpy()
    )
    return torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_)


def proxy_anchor(
    proxies: Tensor, points: Tensor, own: Tensor, scale: float = 32.0, margin: float = 0.1, paper: bool = False
) -> Tensor:
    """Proxy-Anchor loss (Kim et al. 2020) of points and the proxies they belong to, by cosines.

    Args:
        proxies: (M, C).
        points: (B, C).
        own: (B, M), True for the proxy of a point.
        scale: of the exponents.
        margin: of the cosines.
        paper: average over proxies with a point, instead of all; without the factor 5 of cosines in the released code.

    >>> proxy_anchor(torch.eye(2), torch.eye(2), torch.eye(2) > 0) < 4
    tensor(True)
    """
    cosines = (1.0 if paper else 5.0) * F.normalize(points, dim=-1) @ F.normalize(proxies, dim=-1).T
    near, far = -scale * (cosines - margin), scale * (cosines + margin)
    pulled, pushed = (
        torch.cat([exponents.masked_fill(~chosen, -torch.inf), exponents.new_zeros(1, len(proxies))]).logsumexp(0)
        for exponents, chosen in ((near, own), (far, ~own))
    )
    present = own.any(0).sum().clamp(min=1) if paper else len(proxies)
    return pulled.sum() / present + pushed.mean()
