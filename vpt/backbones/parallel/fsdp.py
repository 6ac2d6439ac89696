"""Frozen layers sharded across processes by PyTorch's FSDP2, for backbones too large for a single card.

FSDP gathers a layer's weights for each call and frees them afterwards. It hooks into calls of the layer, whereas views
read its parts; so a layer gets a method that runs any function, and views are computed in that method. All processes
must call the same layers in the same order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.utils._pytree import tree_map_only

from vpt.backbones.backbone import Backbone
from vpt.backbones.block import Block, KeyValue
from vpt.backbones.quantization.linear import plain_parts
from vpt.utils.errors import UserError


class _Root(nn.Module):
    """FSDP's root: it owns all layers, and no weights of its own."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self) -> None:
        """Do nothing: calling it makes FSDP set up the layers."""


def shard_layers(backbone: Backbone, device: torch.device, ranks: int) -> None:
    """Shard the frozen weights of all layers, also those of a text tower, and move them to the device, in place.

    Trainable parameters are not sharded, and their gradients not reduced.

    Raises:
        UserError: weights in int8 or nf4, or a version of PyTorch that cannot leave parameters out.
    """
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise UserError(f"train.shard needs PyTorch 2.7 or newer, not {torch.__version__}")
    layers: list[Any] = [block.layer for block in backbone.all_blocks()]
    new = [layer for layer in layers if not isinstance(layer, FSDPModule)]  # another run may have sharded them
    if any(plain_parts(weight) != [weight] for layer in new for weight in layer.parameters()):
        raise UserError("train.shard does not support int8 or nf4 weights; set backbone.dtype=bf16")
    mesh = init_device_mesh(device.type, (ranks,))
    for layer in new:
        whole = {weight for weight in layer.parameters() if weight.requires_grad or not weight.ndim}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        layer.compute = _compute
        register_fsdp_forward_method(layer, "compute")
    if new:
        root = _Root(new)
        fully_shard(root, mesh=mesh)
        root()
        for layer in new:  # allocated once; by inference first, they could not be used for training
            layer.unshard()
            layer.reshard()
    backbone.with_blocks(Sharded.of)


def _compute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # FSDP's hooks on results do not survive in-place operations on views.
    return tree_map_only(Tensor, lambda out: out if out._base is None else out.clone(), function(*args, **kwargs))


@dataclass(frozen=True, kw_only=True)
class Sharded(Block):
    """A layer whose weights are gathered whenever it computes."""

    inner: Block  # its methods call each other without gathering again

    @classmethod
    def of(cls, block: Block) -> Sharded:
        """Create it from another view of the same layer."""
        return cls(**block.parts(), inner=block)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See Block.whole."""
        layer: Any = self.layer
        layer.unshard()
        try:
            yield
        finally:
            layer.reshard()

    def _gathered(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        layer: Any = self.layer
        return layer.compute(compute, *args, **kwargs)

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

    def attended(self, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.attended."""
        return self._gathered(self.inner.attended, *args, **kwargs)

    def unattended(self, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.unattended."""
        return self._gathered(self.inner.unattended, *args, **kwargs)

    def queries_keys_values(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See Block.queries_keys_values."""
        return self._gathered(self.inner.queries_keys_values, *args, **kwargs)
