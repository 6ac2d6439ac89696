"""Label mapping: reuses the backbone's own classifier by mapping its classes to those of the task.

Random and frequency mapping, and their repetition in every epoch (ILM-VP, Chen et al. 2023, algorithm 1); several
source classes for one class, and mapping by names (AutoVP, Tsao et al. 2024, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpt.config import LabelMapHead
from vpt.utils.errors import UserError


class LabelMap(nn.Module):
    """Scores of the task's classes: means over the source classes mapped to each.

    Args:
        sources: number of classes of the backbone's classifier.
        classes: number of classes of the task.
        each: number of source classes m for a class.

    >>> head = LabelMap(sources=4, classes=2, each=1)
    >>> head.index.copy_(torch.tensor([[3], [0]])).shape
    torch.Size([2, 1])
    >>> head(torch.arange(4.0)[None]).tolist()
    [[3.0, 0.0]]
    """

    index: Tensor

    def __init__(self, sources: int, classes: int, each: int = 1) -> None:
        super().__init__()
        self.sources = sources
        self.register_buffer("index", torch.zeros(classes, each, dtype=torch.int64))

    def forward(self, logits: Tensor) -> Tensor:
        """Map source scores (B, sources) to scores of the task (B, classes)."""
        return logits[:, self.index].mean(-1)


def build_label_map(config: LabelMapHead, features: int, classes: int) -> nn.Module:
    """Create the mapping from `features` source classes that `head=labelmap` describes.

    Raises:
        UserError: a mapping for more classes than there are source classes.

    >>> build_label_map(LabelMapHead(), features=1000, classes=10).index.shape
    torch.Size([10, 1])
    """
    if config.method == "full":
        return nn.Linear(features, classes)
    if classes * config.sources > features:
        raise UserError(
            f"head.kind=labelmap needs {classes * config.sources} source classes for {classes} classes "
            f"(head.sources={config.sources}), but the backbone's classifier has {features}; "
            "lower head.sources, or choose head.method=full or head=linear"
        )
    return LabelMap(features, classes, config.sources)


def random_map(sources: int, classes: int, each: int, seed: int) -> Tensor:
    """Random source classes without repetition, (classes, each).

    >>> sorted(random_map(4, 2, 2, seed=0).flatten().tolist())
    [0, 1, 2, 3]
    """
    order = torch.randperm(sources, generator=torch.Generator().manual_seed(seed))
    return order[: classes * each].view(classes, each)


def frequency_map(counts: Tensor, each: int) -> Tensor:
    """Greedy one-to-one mapping by counts: largest count first, each source class used once.

    Ties go to the lowest source class, then to the lowest class of the task.

    Args:
        counts: (sources, classes), how often images of a class were predicted as a source class.
        each: number of source classes m for a class.

    Returns:
        (classes, each), in the order in which they were selected.

    >>> frequency_map(torch.tensor([[5, 9], [4, 8], [0, 0]]), each=1).tolist()
    [[1], [0]]
    """
    left = counts.to(torch.float64, copy=True).cpu()
    found: list[list[int]] = [[] for _ in range(counts.shape[1])]
    for _ in range(counts.shape[1] * each):
        source, target = divmod(int(left.flatten().argmax()), counts.shape[1])
        found[target].append(source)
        left[source] = -1
        if len(found[target]) == each:
            left[:, target] = -1
    return torch.tensor(found)


def semantic_map(similarity: Tensor, each: int) -> Tensor:
    """Mapping by names: each class in turn takes the most similar unused source class, `each` times.

    Args:
        similarity: (classes, sources).
        each: number of source classes m for a class.

    Returns:
        (classes, each).

    >>> semantic_map(torch.tensor([[0.9, 0.2], [0.8, 0.1]]), each=1).tolist()
    [[0], [1]]
    """
    left = similarity.to(torch.float64, copy=True).cpu()
    rounds = []
    for _ in range(each):
        chosen = []
        for target in range(len(left)):
            chosen.append(int(left[target].argmax()))
            left[:, chosen[-1]] = -torch.inf
        rounds.append(chosen)
    return torch.tensor(rounds).T.contiguous()


def confusion_counts(predicted: Tensor, labels: Tensor, sources: int, classes: int) -> Tensor:
    """How often images of a class were predicted as a source class, (sources, classes).

    Args:
        predicted: (N,) source classes.
        labels: (N,) classes of the task.

    >>> confusion_counts(torch.tensor([2, 2, 0]), torch.tensor([0, 1, 0]), 3, 2).tolist()
    [[1, 0], [0, 0], [1, 1]]
    """
    return torch.bincount(predicted * classes + labels, minlength=sources * classes).view(sources, classes)
