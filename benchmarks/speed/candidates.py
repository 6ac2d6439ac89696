"""Kernels that might replace parts of the forward pass, each against what vpt does today; nothing in vpt uses them.

    python -m benchmarks.speed.candidates --tokens 50 200 --batch 1 64

Attention of a layer with a prompt's keys and values: "concatenated" expands them over the batch and joins them with
those of the image, as vpt does; "merged" attends to each by its own FlexAttention, where those of the prompt are never
expanded nor joined, and merges the two by their log-sum-exp. A frozen linear layer: "bf16", and "float8", whose weight
and input are scaled by tensor to e4m3, in the forward pass and for the gradient of the activations. `error_of_result`
is the relative difference from float32. A candidate that a device does not support reports its error. Results go to
benchmarks/results/candidates-<device>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from benchmarks.speed.steps import alternate
from benchmarks.speed.variants import Step
from vpt.utils.atomic_io import write_json
from vpt.utils.device import pick_device

E4M3, LARGEST = torch.float8_e4m3fn, 448.0
Function = Callable[..., Any]


def concatenated(query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
    """Attention (B, heads, N, D) to a prefix (1, heads, P, D) and to the image's own keys and values."""
    key, value = (
        torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2)
        for prefix, own in ((prefix_key, key), (prefix_value, value))
    )
    return F.scaled_dot_product_attention(query, key, value)


def merged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    attention: Function = flex_attention,
) -> Tensor:
    """The same by two attentions, weighted by the sums of their exponentials."""
    # FlexAttention takes keys of one batch for all if there is a mask, though this one hides nothing.
    shown = _nothing_hidden(len(query), query.shape[2], prefix_key.shape[2], query.device)
    sums = AuxRequest(lse=True)
    first, of_first = attention(query, prefix_key, prefix_value, block_mask=shown, return_aux=sums)
    second, of_second = attention(query, key, value, return_aux=sums)
    share = torch.sigmoid(of_first.lse - of_second.lse)[..., None]
    return (share * first + (1 - share) * second).to(query.dtype)


@cache
def _nothing_hidden(batch: int, queries: int, keys: int, device: torch.device) -> Any:
    return create_block_mask(lambda b, head, query, key: key >= 0, batch, None, queries, keys, device=str(device))


def _scaled(tensor: Tensor) -> tuple[Tensor, Tensor]:
    scale = tensor.detach().abs().amax().float().clamp(min=1e-12) / LARGEST
    return (tensor / scale).to(E4M3), scale


class Float8Linear(torch.autograd.Function):
    """x (N, C) times a frozen weight (D, C) from `float8_weight`; only x has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, transposed: Tensor, weight_scale: Tensor) -> Tensor:
        low, scale = _scaled(x)
        ctx.transposed, ctx.scale = transposed, weight_scale
        return torch._scaled_mm(low, weight.t(), scale_a=scale, scale_b=weight_scale, out_dtype=torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        low, scale = _scaled(gradient.contiguous())
        mixed = torch._scaled_mm(low, ctx.transposed.t(), scale_a=scale, scale_b=ctx.scale, out_dtype=torch.bfloat16)
        return mixed, None, None, None


def float8_weight(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, its transpose and its scale: the second operand of a float8 product must be column-major."""
    low, scale = _scaled(weight)
    return low, low.t().contiguous(), scale


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-tokens", type=int, default=197)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokens", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--joules-s", type=float, default=0.2)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.set_defaults(memory=True)
    options = parser.parse_args(words)
    device = pick_device(options.device)
    rows = []
    for batch in options.batch:
        cases = [("attention", tokens, attentions(options, tokens, batch, device)) for tokens in options.tokens]
        for what, tokens, ways in [*cases, ("linear", 0, linears(options, batch, device))]:
            steps = {name: Step(run, run) for name, (run, _) in ways.items()}
            found = alternate(steps, options, device, eager=True)
            for name, (_, error) in ways.items():
                if "seconds" in found[name]:
                    found[name]["error_of_result"] = error()
            rows.append({"what": what, "tokens": tokens, "batch": batch, "ways": found})
    out = options.out or RESULTS / f"candidates-{device.type}.json"
    write_json(out, {"machine": machine(device), "rows": rows})


Ways = dict[str, tuple[Callable[[], Tensor], Callable[[], float]]]


def attentions(options: argparse.Namespace, tokens: int, batch: int, device: torch.device) -> Ways:
    """Forward and backward pass of each way, in bf16; forward alone on a CPU, where FlexAttention has no backward."""
    learns = device.type == "cuda"
    shape = (options.heads, options.image_tokens, options.width // options.heads)
    own = [torch.randn(batch, *shape, device=device) for _ in range(3)]
    prefix = [torch.randn(1, shape[0], tokens, shape[2], device=device) for _ in range(2)]
    low = [part.bfloat16().requires_grad_(learns) for part in (*own, *prefix)]
    flex: Function = torch.compile(flex_attention) if options.compile else flex_attention
    ways: dict[str, Function] = {"concatenated": concatenated, "merged": partial(merged, attention=flex)}
    wanted = concatenated(*own, *prefix)

    def run(way: Function) -> Tensor:
        out = way(*low)
        if learns:
            torch.autograd.grad(out, low, torch.ones_like(out))
        return out

    return {
        name: (partial(run, way), lambda way=way: relative(way(*low), wanted))  # type: ignore[misc]
        for name, way in ways.items()
    }


def linears(options: argparse.Namespace, batch: int, device: torch.device) -> Ways:
    """The widest layer of a block, forward and for the gradient of its input."""
    x = torch.randn(16 * -(-batch * options.image_tokens // 16), options.width, device=device)  # float8 needs 16
    weight = torch.randn(4 * options.width, options.width, device=device) / options.width**0.5
    low = x.bfloat16().requires_grad_(True)
    ways: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
        "bf16": (F.linear, (weight.bfloat16(),)),
        "float8": (Float8Linear.apply, float8_weight(weight)),
    }

    def run(way: Function, frozen: tuple[Tensor, ...]) -> Tensor:
        out = way(low, *frozen)
        torch.autograd.grad(out, low, torch.ones_like(out))
        return out

    wanted = F.linear(x, weight)
    return {
        name: (partial(run, *way), lambda way=way: relative(way[0](low, *way[1]), wanted))  # type: ignore[misc]
        for name, way in ways.items()
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference, relative to that of what is wanted."""
    wanted = wanted.detach()
    return float((found.detach().float() - wanted).norm() / wanted.norm())


if __name__ == "__main__":
    main()
