"""Frozen weights in fewer bits than they were trained in, so that larger backbones fit into memory.

Trainable parameters stay in float32, and so do norms, biases and embeddings, which are small. A low-precision layer
computes in bfloat16 and returns the dtype of its input, so the code around it does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vpt.backbones.quantization import nf4
from vpt.utils.errors import UserError
from vpt.utils.version import install

Dtype = Literal["fp32", "bf16", "int8", "nf4"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, span: slice | None = None) -> Tensor:
    """`F.linear` for a weight in any dtype; the result has the dtype of `x`, or that of autocast if it is enabled.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,), or None.
        span: the outputs to compute, all by default.

    >>> linear(torch.ones(1, 2), torch.ones(3, 2, dtype=torch.bfloat16), torch.zeros(3), slice(1, 3))
    tensor([[2., 2.]])
    """
    if bias is not None and span is not None:
        bias = bias[span]
    if nf4.is_packed(weight):
        rounded = None if bias is None else bias.to(weight.dtype)
        out = nf4.packed_linear(x.to(weight.dtype), weight, rounded, span)
        return out.to(asked_dtype(x))
    if span is not None:
        # torchao's weights cannot be divided in inference mode. They are frozen: no gradient is recorded outside of it.
        with torch.inference_mode(False) if is_traceable_wrapper_subclass(weight) else nullcontext():
            weight = weight[span]
    if weight.dtype is torch.float32:
        return F.linear(x, weight, bias)
    out = F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
    return out.to(asked_dtype(x))


def asked_dtype(x: Tensor) -> torch.dtype:
    """Dtype that a product with `x` should have: that of `x`, or that of autocast if it is enabled.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     asked_dtype(torch.ones(1))
    torch.bfloat16
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class LowPrecisionLinear(nn.Linear):
    """A frozen linear layer whose weight is stored in fewer bits."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x, self.weight, self.bias)


PLAIN = (nn.Linear, LowPrecisionLinear)  # layers fully described by weight and bias


def reduce_precision(net: nn.Module, how: Dtype, name: str) -> None:
    """Store the weights of all linear layers of `net` in fewer bits, in place.

    Args:
        net: a frozen network in float32.
        how: bf16 halves the memory; int8 quarters it, with a scale per output channel; nf4 takes four bits and an
            eighth of a bit per weight (both with torchao). A layer whose shape does not suit nf4 is stored in bf16.
        name: of the backbone, for messages.

    Raises:
        UserError: no linear layers, or torchao is not installed.

    >>> net = nn.Sequential(nn.Linear(4, 4))
    >>> reduce_precision(net, "bf16", "toy")
    >>> net[0].weight.dtype, net[0].bias.dtype
    (torch.bfloat16, torch.float32)
    """
    if how == "fp32":
        return
    narrow = _narrower(how)
    count = 0
    for path, layer in net.named_modules():
        # A single layer after all others, run by the library's own code, which reads its weights directly.
        if "attn_pool" in path:
            continue
        if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
            layer.in_proj_weight = narrow(layer.in_proj_weight)
        if isinstance(layer, nn.Linear) and not isinstance(layer, LowPrecisionLinear):
            layer.weight = narrow(layer.weight)
            layer.__class__ = LowPrecisionLinear  # in place, because views refer to the layer
            count += 1
    if not count:
        raise UserError(f"backbone {name} has no linear layers to convert to {how}; remove backbone.dtype")


def _narrower(how: Dtype) -> Callable[[Tensor], nn.Parameter]:
    if how == "bf16":
        return _halved
    if how == "nf4":
        pack = nf4.packer()
        return lambda weight: pack(weight) if nf4.fits(weight) else _halved(weight)
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise UserError(f"backbone.dtype=int8 needs torchao: {install('quantised')}") from None

    def quantised(weight: Tensor) -> nn.Parameter:
        with torch.device("meta"):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
        quantize_(layer, Int8WeightOnlyConfig())
        return nn.Parameter(layer.weight.detach(), requires_grad=False)

    return quantised


def _halved(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)


def round_frozen(layer: nn.Module, dtype: torch.dtype) -> None:
    """Store frozen weights and biases of linear layers in `layer` in the dtype to which autocast rounds them, in place.

    Autocast caches a rounded weight for the duration of a pass only if it is trainable. Frozen ones are rounded at
    every use: half of all kernels launched on a GPU in a pass. Results under autocast are bit-identical.

    >>> layer = nn.Sequential(nn.Linear(4, 4)).requires_grad_(False)
    >>> round_frozen(layer, torch.bfloat16)
    >>> layer[0].weight.dtype, layer(torch.ones(1, 4)).dtype
    (torch.bfloat16, torch.float32)
    """
    for module in layer.modules():
        names = ("weight", "bias")
        if isinstance(module, nn.MultiheadAttention):
            names = ("in_proj_weight", "in_proj_bias")
        elif type(module) not in PLAIN:
            continue
        for name in names:
            value = getattr(module, name)
            if value is not None and value.dtype is torch.float32 and not value.requires_grad:
                setattr(module, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))
        if type(module) is nn.Linear:
            module.__class__ = LowPrecisionLinear


def plain_parts(tensor: Any) -> list[Tensor]:
    """The plain tensors that store a tensor's data: itself, or the parts of a quantised or sharded one.

    >>> [part.dtype for part in plain_parts(torch.zeros(3, dtype=torch.float16))]
    [torch.float16]
    """
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    values = [getattr(tensor, name) for name in names]
    return [part for value in values if isinstance(value, Tensor) for part in plain_parts(value)]
