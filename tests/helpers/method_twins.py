"""The newer token methods straight from their definitions: every row really in the sequence, attention written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tests.helpers.concatenation_twin import _embed, _layer, _pool, _rope_of
from vpt.backbones.backbone import Backbone
from vpt.prompts.visual.bpt import BilinearPrompts
from vpt.prompts.visual.cvpt import CrossPrompts
from vpt.prompts.visual.e2vpt import EffectivePrompts
from vpt.prompts.visual.gated import GatedPrompts
from vpt.prompts.visual.vapt import AdaptivePrompts
from vpt.prompts.visual.vfpt import FourierPrompts


def twin_method(backbone: Backbone, images: Tensor, prompt: nn.Module) -> Tensor:
    """Features of normalised images under a prompt of any method."""
    net = backbone.net
    vit = net.trunk if hasattr(net, "trunk") else net
    rows, rotary, layers, prefix = _embed(vit, images)
    count = 0
    batch = len(images)

    def put(prompts: Tensor) -> Tensor:
        """[class and register rows, prompts, patches], whatever prompts were there."""
        fresh = prompts.expand(batch, -1, -1)
        return torch.cat([rows[:, :prefix], fresh, rows[:, prefix + count :]], dim=1)

    for index, layer in enumerate(layers):
        match prompt:
            case FourierPrompts():
                rows, count = put(fourier(prompt.tokens[index], prompt.fourier)), prompt.tokens.shape[1]
            case BilinearPrompts():
                made = torch.stack([prompt.right[index] @ row for row in prompt.left[index]])
                rows, count = put(made), len(made)
            case EffectivePrompts():
                rows, count = put(pruned(prompt, index)), prompt.tokens.shape[1]
            case AdaptivePrompts():
                made = prompt.tokens[0][None] if index == 0 else adaptive(prompt, index, rows[:, prefix + count :])
                rows, count = put(made), made.shape[1]
            case GatedPrompts() if index == 0:
                rows, count = put(prompt.tokens[0]), prompt.tokens.shape[1]
        match prompt:
            case EffectivePrompts():
                rows = written_out(layer, rows, keys_values=prompt.keys_values[index])
            case CrossPrompts():
                rows = written_out(layer, rows, cross=prompt.tokens[index])
            case GatedPrompts():
                out = written_out(layer, rows, temperature=prompt.temperatures[index])
                if index + 1 < len(layers):
                    share = 1 / (1 + torch.exp(-prompt.gates[index]))
                    inside = slice(prefix, prefix + count)
                    blended = share * out[:, inside] + (1 - share) * rows[:, inside]
                    out = torch.cat([out[:, :prefix], blended, out[:, prefix + count :]], dim=1)
                rows = out
            case _:
                rows = _layer(layer, rows, _rope_of(vit, rotary, index), prefix + count)
    rows = torch.cat([rows[:, :prefix], rows[:, prefix + count :]], dim=1)
    return _pool(net, vit, rows, None, prefix, "native")


def fourier(tokens: Tensor, count: int) -> Tensor:
    """The real part of a discrete Fourier transform, as a sum of cosines over tokens and channels."""
    first = tokens[:count].double()
    turns = [torch.arange(size).double()[:, None] * torch.arange(size)[None] / max(1, size) for size in first.shape]
    out = []
    for u in range(count):
        angle = 2 * torch.pi * (turns[0][u][:, None, None] + turns[1].T[None])  # (n, channel, frequency)
        out.append((first[:, :, None] * torch.cos(angle)).sum((0, 1)).float())
    return torch.cat([torch.stack(out), tokens[count:]]) if out else tokens


def pruned(prompt: EffectivePrompts, index: int) -> Tensor:
    """Every token times its mask and the masks of its segments."""
    width = prompt.tokens.shape[2] // prompt.segments
    rows = []
    for number, token in enumerate(prompt.tokens[index]):
        pieces = [
            token[piece * width : (piece + 1) * width] * prompt.segment_mask[number, piece]
            for piece in range(prompt.segments)
        ]
        rows.append(torch.cat(pieces) * prompt.token_mask[number])
    return torch.stack(rows)


def adaptive(prompt: AdaptivePrompts, index: int, patches: Tensor) -> Tensor:
    """Norm, one shared kernel slid over every channel's map, a map from places to tokens, a residual bottleneck."""
    adapter = prompt.adapters[index - 1]
    kernel = adapter.kernel[0, 0]
    side, reach = kernel.shape[0], adapter.grid[0] - kernel.shape[0] + 1
    maps = adapter.norm(patches).unflatten(1, adapter.grid)
    slid = torch.zeros(len(maps), reach, reach, maps.shape[-1])
    for y in range(side):
        for x in range(side):
            slid = slid + kernel[y, x] * maps[:, y : y + reach, x : x + reach]
    places = slid.flatten(1, 2)
    tokens = torch.einsum("pn,bnc->bpc", adapter.tokens.weight, places) + adapter.tokens.bias[:, None]
    return tokens + torch.relu(tokens @ prompt.down.weight.T) @ prompt.up.weight.T


def written_out(
    layer: nn.Module,
    rows: Tensor,
    keys_values: Tensor | None = None,
    cross: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    visible: Tensor | None = None,
) -> Tensor:
    """A pre-norm layer of timm or open_clip with softmax attention by matrix products; `visible` (B, N, N) says which
    rows each row attends to."""
    parts = _parts(layer)
    normed = parts["norm1"](rows)
    query, key, value = (_heads(part, parts["heads"]) for part in parts["qkv"](normed))
    query, key = parts["q_norm"](query), parts["k_norm"](key)
    if keys_values is not None:
        more = keys_values.expand(2, -1, -1, -1)  # keys and values: one tensor may serve as both
        key = torch.cat([more[0].expand(len(rows), -1, -1, -1), key], dim=2)
        value = torch.cat([more[1].expand(len(rows), -1, -1, -1), value], dim=2)
    rows = rows + parts["scale1"](parts["out"](_attended(query, key, value, temperature, visible)))
    if cross is not None:
        query = _heads(parts["qkv"](rows)[0], parts["heads"])
        _, key, value = (_heads(part, parts["heads"]) for part in parts["qkv"](cross.expand(len(rows), -1, -1)))
        mixed = _attended(parts["q_norm"](query), parts["k_norm"](key), value, 1.0)
        rows = rows + parts["scale1"](parts["out"](mixed))
    return rows + parts["scale2"](parts["mlp"](parts["norm2"](rows)))


def _attended(
    query: Tensor, key: Tensor, value: Tensor, temperature: Tensor | float, visible: Tensor | None = None
) -> Tensor:
    scores = query @ key.transpose(-2, -1) / (query.shape[-1] ** 0.5 * temperature)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None], -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def _heads(rows: Tensor, heads: int) -> Tensor:
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)


def _parts(layer: nn.Module) -> dict[str, object]:
    attention = layer.attn
    if hasattr(layer, "ln_1"):

        def stacked(rows: Tensor) -> Sequence[Tensor]:
            return (rows @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=-1)

        return {
            "norm1": layer.ln_1,
            "qkv": stacked,
            "q_norm": nn.Identity(),
            "k_norm": nn.Identity(),
            "heads": attention.num_heads,
            "out": attention.out_proj,
            "scale1": layer.ls_1,
            "norm2": layer.ln_2,
            "mlp": layer.mlp,
            "scale2": layer.ls_2,
        }
    return {
        "norm1": layer.norm1,
        "qkv": lambda rows: attention.qkv(rows).chunk(3, dim=-1),
        "q_norm": attention.q_norm,
        "k_norm": attention.k_norm,
        "heads": attention.num_heads,
        "out": attention.proj,
        "scale1": _scale(layer, 1),
        "norm2": layer.norm2,
        "mlp": layer.mlp,
        "scale2": _scale(layer, 2),
    }


def _scale(layer: nn.Module, number: int) -> Callable[[Tensor], Tensor]:
    gain = getattr(layer, f"gamma_{number}", None)
    return getattr(layer, f"ls{number}", nn.Identity()) if gain is None else lambda rows: rows * gain
