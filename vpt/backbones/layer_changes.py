"""Changes of a frozen network's layers that differ between the images of a batch, so that tasks tuned by LoRA or by
their biases run on one backbone: a layer adds to its output (x A) B or a bias, with those of the image's task.

Images whose tasks change the same layers with the same ranks are adjacent in a batch, and are computed by one batched
matmul; nothing is folded into the weights, and nothing is padded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vpt.backbones.quantization.linear import PLAIN


class LayerChange(NamedTuple):
    """What a task adds to the output of a layer; with a leading axis for the images of a batch, or of size 1."""

    down: Tensor | None = None  # (in, r)
    up: Tensor | None = None  # (r, out), scaled
    bias: Tensor | None = None  # (out,), the difference from the frozen one


Changes = Mapping[str, LayerChange]  # by the name of the layer
Segments = Mapping[str, Sequence[tuple[slice, LayerChange]]]  # images of a batch that have the change
CHANGED = "add_changes"  # attribute of a module, for code that reads its weight instead of calling it


class LayerChanges:
    """Lets the layers of a network add changes; each thread has its own.

    >>> net, changes = nn.Sequential(nn.Linear(1, 1)), LayerChanges()
    >>> own = {"0": LayerChange(bias=torch.ones(1))}
    >>> changes.watch(net, own)
    >>> before = net(torch.zeros(1, 1)).detach()
    >>> with torch.no_grad(), changes.during(StackedChanges([own]).of([0])):
    ...     print(net(torch.zeros(1, 1)) - before)
    tensor([[1.]])
    """

    def __init__(self) -> None:
        self._thread, self._lock = threading.local(), threading.Lock()

    @contextmanager
    def during(self, segments: Segments) -> Iterator[None]:
        """Apply changes in the passes of this thread, which must be without gradients."""
        before: Segments = getattr(self._thread, "segments", {})
        self._thread.segments = segments
        try:
            yield
        finally:
            self._thread.segments = before

    def watch(self, net: nn.Module, names: Changes) -> None:
        """Prepare the layers of these names; those that are prepared already are skipped."""
        with self._lock:
            for name in names:
                module = net.get_submodule(name)
                if CHANGED in vars(module):
                    continue
                add = self._adder(name, 1 if isinstance(module, nn.Conv2d) else -1)
                vars(module)[CHANGED] = add
                if not isinstance(module, nn.MultiheadAttention):
                    module.register_forward_hook(lambda _, given, out, add=add: add(given[0], out))

    def _adder(self, name: str, axis: int) -> Callable[..., Tensor]:
        def add(x: Tensor, out: Tensor, span: slice = slice(None)) -> Tensor:
            for rows, change in getattr(self._thread, "segments", {}).get(name, ()):
                _add(change, x[rows], out[rows], span, axis)
            return out

        return add


def _add(change: LayerChange, x: Tensor, out: Tensor, span: slice, axis: int) -> None:
    """Add a change to the outputs (B, ..., out) of inputs (B, ..., in), in place."""
    down, up, bias = (None if part is None else part.to(out.dtype) for part in change)
    if bias is not None:
        bias = bias[:, span]
        out += bias.unflatten(1, (*[1] * (out.ndim - 2), -1) if axis == -1 else (-1, *[1] * (out.ndim - 2)))
    if down is None or up is None:
        return
    x, up = x.to(out.dtype), up[..., span]
    if len(down) == 1:
        out += x @ down[0] @ up[0]
        return
    tokens = x.reshape(len(x), -1, x.shape[-1])
    out.view(len(x), -1, out.shape[-1]).baddbmm_(torch.bmm(tokens, down).to(out.dtype), up)


class StackedChanges:
    """Changes of several tasks, stacked by their form: which layers they change, and by which ranks.

    Args:
        tasks: the changes of each task; {} for none.
    """

    def __init__(self, tasks: Sequence[Changes]) -> None:
        forms: dict[Hashable, list[int]] = {}
        for task, changes in enumerate(tasks):
            forms.setdefault(_form(changes), []).append(task)
        self._place = {task: (form, row) for form, some in enumerate(forms.values()) for row, task in enumerate(some)}
        self._like = [tasks[some[0]] for some in forms.values()]
        self._values = [torch.stack([_flat(tasks[task]) for task in some]) for some in forms.values()]

    @property
    def is_empty(self) -> bool:
        """Whether no task changes anything."""
        return not any(self._like)

    def order(self, tasks: Sequence[int]) -> list[int]:
        """The positions of the images of a batch, whose tasks are given, in the order that `of` needs.

        >>> StackedChanges([{"a": LayerChange(bias=torch.ones(1))}, {}]).order([0, 1, 0])
        [0, 2, 1]
        """
        return sorted(range(len(tasks)), key=lambda at: self._place[tasks[at]])

    def of(self, tasks: Sequence[int]) -> Segments:
        """The changes for images that belong to tasks, in their order."""
        found: dict[str, list[tuple[slice, LayerChange]]] = {}
        places = [self._place[task] for task in tasks]
        for form, like in enumerate(self._like):
            rows = [row for other, row in places if other == form]
            if not rows or not like:
                continue
            values = self._values[form]
            one = rows[0] if len({*rows}) == 1 else None
            mine = values[one : one + 1] if one is not None else values[torch.tensor(rows, device=values.device)]
            start = next(at for at, place in enumerate(places) if place[0] == form)
            pieces = iter(mine.split([part.numel() for part in _parts(like)], dim=1))
            for name, change in like.items():
                own = [None if part is None else next(pieces).unflatten(1, part.shape) for part in change]
                found.setdefault(name, []).append((slice(start, start + len(rows)), LayerChange(*own)))
        return found


def _parts(changes: Changes) -> list[Tensor]:
    return [part for change in changes.values() for part in change if part is not None]


def _flat(changes: Changes) -> Tensor:
    return torch.cat([part.flatten() for part in _parts(changes)]) if changes else torch.empty(0)


def _form(changes: Changes) -> Hashable:
    return tuple((name, *(None if part is None else part.shape for part in each)) for name, each in changes.items())


def changes_bytes(changes: Changes) -> int:
    """Memory of the changes of a task.

    >>> changes_bytes({"a": LayerChange(bias=torch.ones(3))})
    12
    """
    return sum(part.nbytes for part in _parts(changes))


def adds_bias(module: nn.Module, name: str) -> bool:
    """Whether a layer's output ends with the addition of its bias, where a change of this bias can be added.

    >>> adds_bias(nn.Linear(1, 1), "bias"), adds_bias(nn.BatchNorm2d(1), "bias")
    (True, False)
    """
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    plain = (*PLAIN, nn.Conv2d, nn.modules.linear.NonDynamicallyQuantizableLinear)
    norm = isinstance(module, nn.LayerNorm) and type(module).__name__ in ("LayerNorm", "LayerNormFp32")
    return name == "bias" and (type(module) in plain or norm)
