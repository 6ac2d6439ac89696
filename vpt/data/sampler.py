"""Seeded random choices that depend only on their arguments: not on numpy's version, workers or history."""

from __future__ import annotations

import numpy as np

# Purpose of a draw, so that no two purposes share a random stream.
_ORDER, _AUGMENT, _SPLIT = 1, 2, 3


def _shuffled(n: int, *key: int) -> np.ndarray:
    # numpy guarantees the raw streams of its bit generators, but not Generator.permutation.
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(n), kind="stable")


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..n-1 (int64), a pure function of its arguments.

    >>> sorted(epoch_order(4, seed=0, epoch=1).tolist())
    [0, 1, 2, 3]
    """
    return _shuffled(n, _ORDER, seed, epoch)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The augmentation seed of image `index` in an epoch: 64 bits, a pure function of its arguments.

    >>> sample_seed(0, 0, 1) == sample_seed(0, 1, 0)
    False
    """
    return int(np.random.SeedSequence((_AUGMENT, seed, epoch, index)).generate_state(1, np.uint64)[0])


def split_order(n: int, seed: int, *key: int) -> np.ndarray:
    """A permutation of 0..n-1 (int64) for splitting data, a pure function of its arguments.

    >>> len(split_order(3, 0, 7))
    3
    """
    return _shuffled(n, _SPLIT, seed, *key)
