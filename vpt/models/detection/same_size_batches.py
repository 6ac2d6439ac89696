"""Batches of images of equal size, for detectors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def each_with_its_like(
    images: Sequence[T], kind: Callable[[T], Hashable], find: Callable[[list[T]], Sequence[Any]]
) -> list[Any]:
    """Apply `find` to batches of images of the same kind; returns results in the order of the images.

    A batch of several sizes would be padded to the largest, and attention sees the padding: the result of an image
    would depend on the others in its batch.

    >>> each_with_its_like(["a", "bb", "c"], len, lambda some: [(image, len(some)) for image in some])
    [('a', 2), ('bb', 1), ('c', 2)]
    """
    places: dict[Hashable, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(kind(image), []).append(place)
    found: dict[int, Any] = {}
    for some in places.values():
        found |= zip(some, find([images[place] for place in some]), strict=True)
    return [found[place] for place in range(len(images))]
