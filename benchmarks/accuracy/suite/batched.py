"""Many runs of one shape trained at once on a GPU: every parameter has a leading dimension of runs.

A frozen backbone is one for all runs, so a batch of R x B images is one pass; prompts, heads, LoRA's matrices, biases
or all weights are per run, and so are learning rates, gradient norms, averages and the order of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LOW = torch.bfloat16


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        task, backbone, size, seed, label: what the result is filed under.
        method: deep, lora, bias or full.
        head: random; probe (fitted on frozen features, standardised); start (the same with a penalty of 1, as vpt
            starts); cv (its penalty by cross-validation); prompted (fitted on the untrained prompted model's features).
        tokens, scale, bias, last: prompts in a layer, factor of VPT's uniform start, start of a learnable attention
            bias, how many of the last layers have prompts (0: all).
        lr, lr_head, lr_bias, decay, head_decay: AdamW's; head_decay -1: the probe's own penalty.
        factor: optimiser steps are factor * sqrt(images); 0: 500, at least 10 and at most 100 epochs.
        average: half-life of the weights' moving average as a fraction of the run; 0: none.
    """

    task: str
    backbone: str
    size: int
    seed: int
    label: str
    method: str = "deep"
    head: str = "probe"
    tokens: int = 10
    scale: float = 1.0
    bias: float | None = None
    last: int = 0
    lr: float = 5e-3
    lr_head: float = 1e-3
    lr_bias: float = 0.0
    decay: float = 0.0
    head_decay: float = 0.0
    factor: float = 10.0
    batch: int = 16
    average: float = 0.1
    points: int = 4
    rank: int = 8
    limit: int = 1000  # test images

    def steps(self, images: int) -> int:
        batches = math.ceil(images / self.batch)
        if self.factor == 0:
            return batches * min(100, max(10, round(500 / batches)))
        return min(max(20, round(self.factor * math.sqrt(images))), 100 * batches)


def linear(x: Tensor, net: dict[str, Tensor], own: dict[str, Tensor], name: str) -> Tensor:
    """A linear layer on (R, B, N, C), with weights of all runs or of each."""
    weight, bias = own.get(f"{name}.weight"), own.get(f"{name}.bias")
    runs = x.shape[:-1]
    if weight is None:
        y = F.linear(x, net[f"{name}.weight"], net[f"{name}.bias"] if bias is None else None)
    else:
        y = torch.bmm(x.flatten(1, 2), weight.to(LOW).transpose(1, 2)).view(*runs, -1)
        if bias is None:
            y = y + net[f"{name}.bias"]
    if bias is not None:
        y = y + bias.to(LOW)[:, None, None]
    if f"{name}.A" in own:
        low = torch.bmm(x.flatten(1, 2), own[f"{name}.A"].to(LOW).transpose(1, 2))
        y = y + 2 * torch.bmm(low, own[f"{name}.B"].to(LOW).transpose(1, 2)).view(*runs, -1)
    return y


def norm(x: Tensor, net: dict[str, Tensor], own: dict[str, Tensor], name: str) -> Tensor:
    weight, bias = own.get(f"{name}.weight"), own.get(f"{name}.bias")
    if weight is None and bias is None:
        return F.layer_norm(x, x.shape[-1:], net[f"{name}.weight"].float(), net[f"{name}.bias"].float(), 1e-6).to(LOW)
    x = F.layer_norm(x, x.shape[-1:], net[f"{name}.weight"].float() if weight is None else None, None, 1e-6)
    if weight is not None:
        x = x * weight[:, None, None]
    return (x + bias[:, None, None]).to(LOW)


def features(net: dict[str, Any], images: Tensor, own: dict[str, Tensor], first: int = 0) -> Tensor:
    """Class-token features (R, B, C) of images (R, B, 3, S, S): uint8, or floats already normalised."""
    if images.dtype is torch.uint8:
        images = normalised(images)
    patch, heads, depth = net["patch"], net["heads"], net["depth"]
    runs, batch, _, side, _ = images.shape
    grid = side // patch
    x = (
        images.to(LOW)
        .view(runs, batch, 3, grid, patch, grid, patch)
        .permute(0, 1, 3, 5, 2, 4, 6)
        .reshape(runs, batch, grid**2, -1)
    )
    x = linear(x, net, own, "patch_embed.proj").float()
    cls = own.get("cls_token", net["cls_token"].float()).expand(runs, batch, 1, -1)
    x = torch.cat([cls, x], 2) + own.get("pos_embed", net["pos_embed"].float())
    width = x.shape[-1]
    for layer in range(depth):
        name = f"blocks.{layer}"
        q, k, v = linear(norm(x, net, own, f"{name}.norm1"), net, own, f"{name}.attn.qkv").chunk(3, -1)
        if layer == depth - 1:
            q, x = q[:, :, :1], x[:, :, :1]
        mask = None
        if "tokens" in own and layer >= first:
            tokens = norm(own["tokens"][:, layer - first, None], net, own, f"{name}.norm1")
            _, pk, pv = linear(tokens, net, own, f"{name}.attn.qkv").chunk(3, -1)
            k, v = (torch.cat([p.expand(-1, batch, -1, -1), rest], 2) for p, rest in ((pk, k), (pv, v)))
            if "attn_bias" in own:
                scores = F.pad(own["attn_bias"][:, layer - first], (0, k.shape[2] - pk.shape[2]))  # (R, heads, P + N)
                mask = scores.to(LOW)[:, None, :, None].expand(-1, batch, -1, q.shape[2], -1).flatten(0, 1)
        q, k, v = (t.flatten(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(runs, batch, -1, width)
        x = x + linear(mixed, net, own, f"{name}.attn.proj")
        hidden = F.gelu(linear(norm(x, net, own, f"{name}.norm2"), net, own, f"{name}.mlp.fc1"))
        x = x + linear(hidden, net, own, f"{name}.mlp.fc2")
    return norm(x, net, own, "norm")[:, :, 0].float()


def normalised(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def light(images: Tensor) -> Tensor:
    """Crops of 70 to 100 % of the area, mirrored half of the time; of normalised images (N, 3, S, S)."""
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(0.7, 1.0)
    ratio = torch.empty(count, device=device).uniform_(-0.28, 0.28).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    flip = (torch.rand(count, device=device) < 0.5).float() * 2 - 1
    x, y = (torch.empty(count, device=device).uniform_(-1, 1) for _ in range(2))
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 2] = width * flip, x * (1 - width)
    theta[:, 1, 1], theta[:, 1, 2] = height, y * (1 - height)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def start(net: dict[str, Any], jobs: list[Job], classes: int, device: str) -> tuple[dict[str, Tensor], int]:
    """Parameters of all runs before training, the head aside, and the first layer with prompts."""
    one, depth = jobs[0], net["depth"]
    width = net["cls_token"].shape[-1]
    own: dict[str, list[Tensor]] = {}
    first = depth - one.last if one.last else 0
    for job in jobs:
        generator = torch.Generator().manual_seed(job.seed + 1)
        mine: dict[str, Tensor] = {}
        if job.method == "deep":
            bound = math.sqrt(6.0 / (3 * net["patch"] ** 2 + width)) * job.scale
            mine["tokens"] = (torch.rand(depth - first, job.tokens, width, generator=generator) * 2 - 1) * bound
            if job.bias is not None:
                mine["attn_bias"] = torch.full((depth - first, net["heads"], job.tokens), job.bias)
        elif job.method == "lora":
            for layer in range(depth):
                for name in ("attn.qkv", "attn.proj"):
                    out = net[f"blocks.{layer}.{name}.weight"].shape[0]
                    bound = 1 / math.sqrt(width)  # torch's Kaiming uniform with a = sqrt(5)
                    mine[f"blocks.{layer}.{name}.A"] = (
                        torch.rand(job.rank, width, generator=generator) * 2 - 1
                    ) * bound
                    mine[f"blocks.{layer}.{name}.B"] = torch.zeros(out, job.rank)
        elif job.method in ("bias", "full"):
            for name, value in net.items():
                if isinstance(value, Tensor) and (job.method == "full" or name.endswith(".bias")):
                    mine[name] = value.float().cpu()
        mine["head.weight"] = torch.nn.init.trunc_normal_(torch.empty(classes, width), std=0.02, generator=generator)
        mine["head.bias"] = torch.zeros(classes)
        for name, value in mine.items():
            own.setdefault(name, []).append(value)
    return {name: torch.stack(values).to(device) for name, values in own.items()}, first


def role(name: str) -> str:
    return "head" if name.startswith("head.") else "bias" if name == "attn_bias" else "main"


@dataclass
class Sets:
    """What the runs of a group train and are measured on, indices into `pool` (M, 3, S, S) uint8."""

    pool: Tensor
    labels: Tensor
    train: list[np.ndarray]
    val: list[np.ndarray]
    test: list[np.ndarray]


def padded(rows: list[np.ndarray], device: str) -> tuple[Tensor, Tensor]:
    """Index matrix (R, longest) and which of it counts."""
    longest = max(len(r) for r in rows)
    index = np.stack([np.resize(r, longest) for r in rows])
    counts = np.stack([np.arange(longest) < len(r) for r in rows])
    return torch.from_numpy(index).to(device), torch.from_numpy(counts).to(device)


def train_group(
    net: dict[str, Any],
    jobs: list[Job],
    sets: Sets,
    classes: list[int],
    fits: list[dict[str, Any]],
    refit: Any,
    augment: bool,
    device: str,
    cap: int,
) -> list[dict[str, Any]]:
    """Train the runs of a group, all of one shape and number of steps; a result for each.

    Args:
        fits: the probe of each run (weight, bias, mean, std as arrays; strength; known: validation images that it has
            right).
        refit: features and jobs to new fits, for head="prompted".
        cap: images a pass at most, for evaluation.
    """
    one, runs, most = jobs[0], len(jobs), max(classes)
    total = one.steps(len(sets.train[0]))
    own, first = start(net, jobs, most, device)
    absent = torch.full((runs, 1, most), 0.0, device=device)
    for number, count in enumerate(classes):
        absent[number, :, count:] = -1e4
    split = {"val": padded(sets.val, device), "test": padded(sets.test, device)}
    order = np.stack([_order(job, rows, total) for job, rows in zip(jobs, sets.train, strict=True)])
    order = torch.from_numpy(order).to(device)  # (R, total, B)

    @torch.no_grad()
    def outputs(params: dict[str, Tensor], index: Tensor, of: Any) -> Tensor:
        step = max(1, cap // runs)
        return torch.cat([of(params, sets.pool[part]) for part in index.split(step, 1)], 1)

    def read(params: dict[str, Tensor], images: Tensor) -> Tensor:
        return features(net, images, params, first)

    if any(job.head == "prompted" for job in jobs):
        index = padded(sets.train, device)[0]
        found = outputs(own, torch.cat([index, split["val"][0]], 1), read).cpu().numpy()
        cut = index.shape[1]
        fits = [
            refit(
                f[:cut][: len(t)], sets.labels[t].cpu().numpy(), f[cut:][: len(v)], sets.labels[v].cpu().numpy(), c, p
            )
            for f, t, v, c, p in zip(found, sets.train, sets.val, classes, fits, strict=True)
        ]
    mean, std = torch.zeros(runs, 1, net["cls_token"].shape[-1]), torch.ones(runs, 1, net["cls_token"].shape[-1])
    penalty = torch.zeros(runs, 1, 1)
    for number, (job, fit, count) in enumerate(zip(jobs, fits, classes, strict=True)):
        if job.head != "random":
            mean[number, 0], std[number, 0] = torch.from_numpy(fit["mean"]), torch.from_numpy(fit["std"])
            own["head.weight"][number, :count] = torch.from_numpy(fit["weight"]).to(device)
            own["head.bias"][number, :count] = torch.from_numpy(fit["bias"]).to(device)
        if job.head_decay < 0:
            penalty[number] = fit["strength"]
    mean, std, penalty = mean.to(device), std.to(device), penalty.to(device)

    def logits(params: dict[str, Tensor], images: Tensor) -> Tensor:
        rows = (read(params, images) - mean) / std
        return torch.baddbmm(params["head.bias"][:, None], rows, params["head.weight"].transpose(1, 2)) + absent

    known = padded([f["known"] for f in fits], device)[0].bool()

    def measure(params: dict[str, Tensor], names: tuple[str, ...] = ("val", "test")) -> list[dict[str, float]]:
        rows: list[dict[str, float]] = [{} for _ in jobs]
        for name in names:
            index, counts = split[name]
            scores = outputs(params, index, logits)
            labels = sets.labels[index]
            right = (scores.argmax(-1) == labels) & counts
            loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(runs, -1) * counts
            number = counts.sum(1)
            table = {name: right.sum(1) / number, f"{name}_loss": loss.sum(1) / number}
            if name == "val":
                table |= {"won": (right & ~known).sum(1), "lost": (known & ~right & counts).sum(1)}
            for key, values in table.items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[key] = round(value, 5)
        return rows

    def per_run(values: list[float], like: Tensor) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.float32).view(-1, *[1] * (like.dim() - 1))

    rates, decays = {}, {}
    for name, value in own.items():
        rates[name] = per_run([{"head": j.lr_head, "bias": j.lr_bias, "main": j.lr}[role(name)] for j in jobs], value)
        wanted = [max(0.0, j.head_decay) if role(name) == "head" and name.endswith("weight") else j.decay for j in jobs]
        decays[name] = per_run([0.0 if role(name) == "bias" or name == "head.bias" else w for w in wanted], value)
    for value in own.values():
        value.requires_grad_(True)
    names = list(own)
    values = [own[n] for n in names]
    first_moment, second_moment = ([torch.zeros_like(v) for v in values] for _ in range(2))
    averaged = [v.detach().clone() for v in values] if any(j.average for j in jobs) else []
    half = [0.5 ** (1 / max(1.0, j.average * total)) if j.average else 0.0 for j in jobs]
    stops = {round(total * (i + 1) / one.points): i for i in range(one.points)}
    results: list[dict[str, Any]] = [{"steps": total, "points": []} for _ in jobs]
    for row, point in zip(results, measure(own, ("val",)), strict=True):
        row["start"] = point
    rising = round(total * 0.1)
    torch.manual_seed(one.seed)
    for step in range(total):
        images = sets.pool[order[:, step]]
        if augment:
            images = light(normalised(images.flatten(0, 1))).unflatten(0, (runs, -1))
        targets = sets.labels[order[:, step]]
        loss = F.cross_entropy(logits(own, images).flatten(0, 1), targets.flatten(), reduction="sum") / targets.shape[1]
        loss = loss + (penalty / 2 * own["head.weight"].square()).sum()
        gradients = torch.autograd.grad(loss, values)
        factor = (
            (step + 1) / rising if step < rising else 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))
        )
        with torch.no_grad():
            size = sum(g.flatten(1).square().sum(1) for g in gradients).sqrt()
            shrink = (1 / (size + 1e-6)).clamp(max=1.0)
            for n, p, g, m, v in zip(names, values, gradients, first_moment, second_moment, strict=True):
                g = g * shrink.view(-1, *[1] * (g.dim() - 1))
                m.lerp_(g, 0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                rate = rates[n] * factor
                p.mul_(1 - rate * decays[n])
                p.sub_(rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8))
            for a, p in zip(averaged, values, strict=False):
                a.lerp_(p, per_run([1 - min(h, (1 + step) / (10 + step)) if h else 1.0 for h in half], p))
            if step + 1 in stops:
                shown = dict(zip(names, averaged or values, strict=True))
                for row, point in zip(results, measure(shown), strict=True):
                    row["points"].append({"step": step + 1, **point})
    if averaged:
        with torch.no_grad():
            for row, point in zip(results, measure(own), strict=True):
                row["raw"] = point
    return results


def _order(job: Job, rows: np.ndarray, total: int) -> np.ndarray:
    rng = np.random.default_rng([job.seed, 7])
    needed = total * job.batch
    epochs = [rng.permutation(rows) for _ in range(math.ceil(needed / len(rows)))]
    return np.concatenate(epochs)[:needed].reshape(total, job.batch)
