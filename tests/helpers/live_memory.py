"""Memory that a computation holds, counted by objects: the same in any process, unlike resident memory, in which the
heap keeps what was freed."""

from __future__ import annotations

import tracemalloc
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors that operators return inside this context, as long as their storages are alive, and
    those of Python objects and numpy arrays. What an operator allocates for itself is not seen."""

    def __enter__(self) -> Any:
        self._live: dict[int, int] = {}  # storage -> bytes
        self._now = self._most = self._objects = 0
        tracemalloc.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._objects = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self._now += storage.nbytes()
            self._most = max(self._most, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._live.pop(key)

    def peak_bytes(self) -> int:
        """The peak of tensors plus that of all else, at least as much as was held at a time."""
        return self._most + self._objects
