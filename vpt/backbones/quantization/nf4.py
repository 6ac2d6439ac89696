"""Frozen weights in four bits: the NormalFloat of QLoRA (Dettmers et al. 2023, section 3), packed by torchao.

Of torchao's 4-bit formats this is the one that supports gradients with respect to the input, on every device; the
others are inference kernels for certain GPUs. A weight is unpacked when it is used, and only packed weights are kept
for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.utils.errors import UserError
from vpt.utils.version import install

BLOCK = 64  # weights per scale, as in the paper
GROUP = 256  # scales per second-level scale, as in the paper


def packer() -> Callable[[Tensor], nn.Parameter]:
    """Returns a function that packs a matrix, whose size must be a multiple of 64, into four bits per element.

    Raises:
        UserError: torchao is not installed.
    """
    try:
        from torchao.quantization import to_nf4
    except ImportError:
        raise UserError(f"backbone.dtype=nf4 needs torchao from 0.18 on: {install('quantised')}") from None

    def packed(weight: Tensor) -> nn.Parameter:
        group = GROUP
        while (weight.numel() // BLOCK) % group:
            group //= 2
        return nn.Parameter(to_nf4(weight.detach().to(torch.bfloat16), BLOCK, group), requires_grad=False)

    return packed


def fits(weight: Tensor) -> bool:
    """Whether a matrix can be packed: whole blocks, none of them all zeros, which have no scale.

    >>> fits(torch.ones(2, 32)), fits(torch.ones(3, 5)), fits(torch.zeros(2, 32))
    (True, False, False)
    """
    return weight.numel() % BLOCK == 0 and bool(weight.detach().reshape(-1, BLOCK).any(1).all())


def is_packed(weight: Tensor) -> bool:
    """Whether a weight was packed by `packer`.

    >>> is_packed(torch.zeros(64, 64))
    False
    """
    return hasattr(weight, "get_original_weight")


def packed_linear(x: Tensor, weight: Any, bias: Tensor | None, span: slice | None = None) -> Tensor:
    """Apply the outputs in `span` of a packed weight (out, in) to (..., in) in bfloat16, giving (..., out)."""
    return _PackedLinear.apply(x, weight, bias, span or slice(None))


class _PackedLinear(torch.autograd.Function):
    """A linear layer that keeps the packed weight for its gradient instead of an unpacked one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Tensor | None, span: slice) -> Tensor:
        ctx.weight, ctx.span, ctx.shape = weight, span, None if bias is None else bias.shape
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, weight.get_original_weight()[span], bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        x = bias = None
        if ctx.needs_input_grad[0]:
            with torch.autocast(gradient.device.type, enabled=False):
                x = gradient @ ctx.weight.get_original_weight()[ctx.span]
        if ctx.needs_input_grad[2]:
            bias = gradient.sum_to_size(ctx.shape)
        return x, None, bias, None
