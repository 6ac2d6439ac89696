"""Frozen weights held in fewer bits than they were trained in, so that larger backbones fit.

What learns stays in float32, and so do norms, biases and embeddings, which are small. A held layer computes in
bfloat16 and answers in the type it was asked in, so that nothing around it need know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.quantization import nf4
from vpt.utils.errors import UserError

Dtype = Literal["fp32", "bf16", "int8", "nf4"]


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None, span: slice | None = None) -> Tensor:
    """`F.linear`, whatever `weight` is held in; the result has the type of `rows`, or under autocast that of autocast.

    Args:
        rows: (..., in).
        weight: (out, in).
        bias: (out,), or none.
        span: the outputs wanted, all by default.

    >>> linear(torch.ones(1, 2), torch.ones(3, 2, dtype=torch.bfloat16), torch.zeros(3), slice(1, 3))
    tensor([[2., 2.]])
    """
    if bias is not None and span is not None:
        bias = bias[span]
    if nf4.is_packed(weight):
        rounded = None if bias is None else bias.to(weight.dtype)
        out = nf4.packed_linear(rows.to(weight.dtype), weight, rounded, span)
        return out.to(asked_dtype(rows))
    if span is not None:
        weight = weight[span]
    if weight.dtype is torch.float32:
        return F.linear(rows, weight, bias)
    out = F.linear(rows.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
    return out.to(asked_dtype(rows))


def asked_dtype(rows: Tensor) -> torch.dtype:
    """The type in which a product of `rows` is to answer: theirs, or under autocast that of autocast.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     asked_dtype(torch.ones(1))
    torch.bfloat16
    """
    device = rows.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype


class HeldLinear(nn.Linear):
    """A frozen linear layer whose weight is held in fewer bits."""

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (..., in) to (..., out)."""
        return linear(rows, self.weight, self.bias)


PLAIN = (nn.Linear, HeldLinear)  # layers that are what their weight and bias say, and nothing around them


def hold(net: nn.Module, how: Dtype, name: str) -> None:
    """Hold the weights of all linear layers of `net` in fewer bits, in place.

    Args:
        net: a frozen network in float32.
        how: bf16 halves them; int8 quarters them, with a scale for each output channel, and nf4 takes four bits and a
            bit's eighth each (both by torchao). A layer too odd for four bits is held in bf16.
        name: of the backbone, for messages.

    Raises:
        UserError: no linear layers, or torchao is not installed.

    >>> net = nn.Sequential(nn.Linear(4, 4))
    >>> hold(net, "bf16", "toy")
    >>> net[0].weight.dtype, net[0].bias.dtype
    (torch.bfloat16, torch.float32)
    """
    if how == "fp32":
        return
    narrow = _narrower(how)
    count = 0
    for path, layer in net.named_modules():
        # One layer behind all others, run by the library's own code, which reads weights past their layers.
        if "attn_pool" in path:
            continue
        if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
            layer.in_proj_weight = narrow(layer.in_proj_weight)
        if isinstance(layer, nn.Linear) and not isinstance(layer, HeldLinear):
            layer.weight = narrow(layer.weight)
            layer.__class__ = HeldLinear  # in place, for views of a layer refer to it
            count += 1
    if not count:
        raise UserError(f"backbone {name} has no linear layers to hold in {how}; leave out backbone.dtype")


def _narrower(how: Dtype) -> Callable[[Tensor], nn.Parameter]:
    if how == "bf16":
        return _halved
    if how == "nf4":
        pack = nf4.packer()
        return lambda weight: pack(weight) if nf4.fits(weight) else _halved(weight)
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise UserError("backbone.dtype=int8 needs torchao: pip install 'vpt[quantised]'") from None

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
    """Hold frozen weights and biases of linear layers inside `layer` in the type autocast rounds them to, in place.

    Autocast keeps a rounded weight for the length of a pass, and only if it learns. Frozen ones are rounded at every
    use: half of all that a GPU is asked to do in a pass. Results under autocast stay the same to the last bit.

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
            module.__class__ = HeldLinear


def plain_parts(tensor: Any) -> list[Tensor]:
    """The plain tensors that hold a tensor's numbers: itself, or those that a quantised one is made of.

    >>> [part.dtype for part in plain_parts(torch.zeros(3, dtype=torch.float16))]
    [torch.float16]
    """
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_parts(getattr(tensor, name))]
