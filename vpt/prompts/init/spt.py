"""SPT: prompts are initialised with patch tokens of the training images (Wang et al. 2024, section 3).

"Revisiting the Power of Prompt for Visual Tuning": trained prompts come to resemble patch tokens, so they are
initialised as such: with patch embeddings without position in the first layer, and with the input patch tokens of
deeper layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Strategy = Literal["sample", "mean", "max", "kmeans"]


def prototypes(patches: Tensor, count: int, strategy: Strategy, seed: int) -> Tensor:
    """Reduce patch tokens to `count` prompts.

    'sample' takes random tokens (the paper's choice: as good as clustering, and free). 'mean' and 'max' pool over
    N // (count - 1) consecutive tokens of an image, and take random ones of the results. 'kmeans' takes cluster
    centres.

    Args:
        patches: (images, N, C) tokens of the training images at one layer.
        count: number of prompts; if there are fewer tokens, tokens are repeated.
        seed: random seed.

    Returns:
        (count, C).

    >>> prototypes(torch.ones(2, 6, 2), 3, "mean", seed=0)
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """
    if strategy == "kmeans" and patches.shape[0] * patches.shape[1] > count:
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(n_clusters=count, random_state=seed, n_init=3, batch_size=4096)
        means.fit(patches.flatten(0, 1).numpy())
        return torch.from_numpy(means.cluster_centers_).to(patches.dtype)
    if strategy in ("mean", "max"):
        groups = patches.split(max(1, patches.shape[1] // max(1, count - 1)), dim=1)
        pooled = [group.mean(1) if strategy == "mean" else group.amax(1) for group in groups]
        patches = torch.stack(pooled, dim=1)
    tokens = patches.flatten(0, 1)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    return tokens[order.repeat(-(-count // len(order)))[:count]].clone()


def initial_tokens(
    patches: Mapping[int, Tensor], inserted: Mapping[int, int], count: int, strategy: Strategy, seed: int
) -> Tensor:
    """All token sets, (sets, count, C); a set shared by several layers uses the tokens of the first one.

    Args:
        patches: layer -> (images, N, C) tokens at its input.
        inserted: layer -> index of its token set.

    >>> initial_tokens({0: torch.ones(1, 4, 2)}, {0: 0, 1: 0}, 3, "sample", seed=0).shape
    torch.Size([1, 3, 2])
    """
    first = {index: layer for layer, index in sorted(inserted.items(), reverse=True)}
    return torch.stack([prototypes(patches[first[index]], count, strategy, seed + index) for index in sorted(first)])
