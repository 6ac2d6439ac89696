"""Sharding of a frozen backbone across processes, for models too large for a single card.

Every process stores a slice of each layer's frozen weights. A layer is gathered when it computes and freed right after;
in the backward pass it is gathered and computed once more, so that no process ever has more than one whole layer.
Frozen weights have no gradients to reduce. All processes must therefore run every pass together.

FSDP does the same for modules that are called; the forward pass here reads the parts of a layer instead of calling it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from vpt.backbones.block import Block, KeyValue
from vpt.backbones.parallel.activation_checkpoint import recomputed
from vpt.backbones.quantization.linear import plain_parts
from vpt.utils.errors import UserError


class _Place(NamedTuple):
    """Owner of a weight, and its position in the bytes of the layer."""

    module: nn.Module
    key: str
    shape: torch.Size
    dtype: torch.dtype
    start: int
    stop: int


class Shard:
    """This process's slice of the frozen weights of one layer.

    Args:
        layer: the library's layer; its frozen weights are replaced by empty tensors.
        rank: rank of this process.
        ranks: number of processes.
        device: where the slice is stored.
    """

    def __init__(self, layer: nn.Module, rank: int, ranks: int, device: torch.device) -> None:
        self.ranks = ranks
        self.places: list[_Place] = []
        pieces, at = [], 0
        for module in layer.modules():
            for key, weight in list(module._parameters.items()):
                if weight is None or weight.requires_grad:
                    continue
                if plain_parts(weight) != [weight]:
                    raise UserError("train.shard does not support int8 or nf4 weights; set backbone.dtype=bf16")
                # Bytes, because not every backend gathers every dtype; each weight begins at a multiple of 16.
                data = weight.detach().contiguous().flatten().view(torch.uint8)
                self.places.append(_Place(module, key, weight.shape, weight.dtype, at, at + len(data)))
                pieces += [data, data.new_zeros(-len(data) % 16)]
                at += len(data) + (-len(data) % 16)
        self.count = sum(place.shape.numel() for place in self.places)
        each = -(-at // (16 * ranks)) * 16
        flat = torch.cat([*pieces, torch.zeros(each * ranks - at, dtype=torch.uint8)])
        self.mine = flat[rank * each : (rank + 1) * each].to(device, copy=True)
        for place in self.places:
            nothing = torch.empty(0, dtype=place.dtype, device=device)
            place.module._parameters[place.key] = nn.Parameter(nothing, requires_grad=False)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Context in which the layer's weights are complete."""
        whole = self.mine.new_empty(len(self.mine) * self.ranks)
        distributed.all_gather_into_tensor(whole, self.mine)
        held = [place.module._parameters[place.key] for place in self.places]
        try:
            for place in self.places:
                weight = whole[place.start : place.stop].view(place.dtype).view(place.shape)
                place.module._parameters[place.key] = weight  # type: ignore[assignment]  # frozen: no Parameter needed
            yield
        finally:
            for place, before in zip(self.places, held, strict=True):
                place.module._parameters[place.key] = before


@dataclass(frozen=True, kw_only=True)
class Sharded(Block):
    """A layer whose weights are gathered whenever it computes."""

    shard: Shard
    inner: Block  # its methods call each other without gathering again

    @classmethod
    def of(cls, block: Block, shard: Shard) -> Sharded:
        """Create it from another view of the same layer."""
        return cls(**block.parts(), shard=shard, inner=block)

    def whole(self) -> AbstractContextManager[None]:
        """See Block.whole."""
        return self.shard.gathered()

    def _gathered(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.shard.gathered():
                return compute(*args, **kwargs)

        return recomputed(run, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.forward."""
        return self._gathered(self.inner.forward, *args, **kwargs)

    def keys_values(self, *args: Any, **kwargs: Any) -> KeyValue:
        """See Block.keys_values."""
        return self._gathered(self.inner.keys_values, *args, **kwargs)

    def cross(self, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.cross."""
        return self._gathered(self.inner.cross, *args, **kwargs)

    def queried(self, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.queried."""
        return self._gathered(self.inner.queried, *args, **kwargs)

    def queries_keys_values(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See Block.queries_keys_values."""
        return self._gathered(self.inner.queries_keys_values, *args, **kwargs)
