"""Class names of pretrained timm classifiers, without network access."""

from __future__ import annotations

from typing import Any

from vpt.utils.errors import UserError


def source_names(net: Any, name: str) -> tuple[str, ...]:
    """Class names of a timm classifier in the order of its outputs, as in WordNet.

    Args:
        net: a timm network with its classifier.
        name: of the backbone, for messages.

    Raises:
        UserError: a classifier whose class names are unknown to timm.

    >>> import timm
    >>> source_names(timm.create_model("test_vit"), "test_vit")[0]
    'tench, Tinca tinca'
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(net)
    if subset is None and net.num_classes == 1000:
        subset = "imagenet-1k"
    if subset is None:
        raise UserError(
            f"the {net.num_classes} classes of backbone {name} have no known names; choose head.method=iterative"
        )
    return tuple(ImageNetInfo(subset).label_descriptions())
