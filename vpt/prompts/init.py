"""Data-driven initialisation: prompts start as patch tokens of the task's own images.

Self-Prompt Tuning (SPT, Wang et al. 2024, "Revisiting the Power of Prompt for Visual Tuning", section 3): prompts
come to resemble patch tokens as they train, so they start as prototypes of them. The tokens that enter a prompted
layer of the frozen backbone are collected over training images and reduced to as many prototypes as there are prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Strategy = Literal["sample", "mean", "max", "kmeans"]


def prototypes(patches: Tensor, count: int, strategy: Strategy, seed: int) -> Tensor:
    """Reduce patch tokens to `count` prompts.

    'sample' takes random tokens (the paper's choice: as good as clustering and free); 'mean' and 'max' pool over
    equal groups of shuffled tokens; 'kmeans' takes cluster centres.

    Args:
        patches: (N, C) tokens of the training images at one layer.
        count: prompts wanted; when there are fewer tokens, tokens repeat.
        seed: of the sampling.

    Returns:
        (count, C).

    >>> prototypes(torch.ones(6, 2), 3, "mean", seed=0)
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(patches), generator=generator)
    if len(patches) < count:
        order = order.repeat(-(-count // len(patches)))
    if strategy == "sample" or len(patches) <= count:
        return patches[order[:count]].clone()
    if strategy == "kmeans":
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(n_clusters=count, random_state=seed, n_init=3, batch_size=4096)
        means.fit(patches.numpy())
        return torch.from_numpy(means.cluster_centers_).to(patches.dtype)
    groups = patches[order[: len(order) // count * count]].unflatten(0, (count, -1))
    return groups.mean(1) if strategy == "mean" else groups.amax(1)


def initial_tokens(
    patches: Mapping[int, Tensor], inserted: Mapping[int, int], count: int, strategy: Strategy, seed: int
) -> Tensor:
    """All token sets, (sets, count, C); a set shared by several layers draws on the first of them.

    Args:
        patches: layer -> (N, C) tokens that enter it.
        inserted: layer -> index of its token set.

    >>> initial_tokens({0: torch.ones(4, 2)}, {0: 0, 1: 0}, 3, "sample", seed=0).shape
    torch.Size([1, 3, 2])
    """
    first = {index: layer for layer, index in sorted(inserted.items(), reverse=True)}
    return torch.stack([prototypes(patches[first[index]], count, strategy, seed + index) for index in sorted(first)])
