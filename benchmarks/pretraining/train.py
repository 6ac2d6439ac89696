"""Pretrain `vpt_nano` on images drawn by formula.

    python -m benchmarks.pretraining.train --out /tmp/nano --minutes 50
    python -m benchmarks.pretraining.train --out /tmp/nano --images 50_000_000 --batch 1024 --device cuda

The same command again carries on from the checkpoint in `--out`.  The schedule is a function of the progress in 0..1:
of the images seen, or with `--minutes` of the time trained if that is further.  A step draws its batch from
(seed, step) alone, so a run that was killed and resumed under `--images` ends with the same bits.
"""

from __future__ import annotations

import os

# Threads that wait should sleep: spinning costs the others their turn on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.pretraining.generator import class_table, draw
from benchmarks.pretraining.learner import NANO, Learner
from vpt.utils.atomic_io import write_atomic, write_json

TABLE_SEED = 0


@dataclass(frozen=True)
class Plan:
    """Everything that decides the weights; a checkpoint of another plan is refused."""

    images: int = 20_000_000
    minutes: float | None = None
    classes: int = 512
    batch: int = 64
    lr: float = 1e-3
    warmup: float = 0.03  # fraction of the run
    decay: float = 0.05
    keep: float = 0.5  # fraction of patches computed ...
    keep_until: float = 0.65  # ... up to this fraction of the run; all of them afterwards
    seed: int = 0

    @property
    def steps(self) -> int:
        return math.ceil(self.images / self.batch)

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done, 0..1.

        >>> Plan(images=640, minutes=10).progress(step=1, seconds=300)
        0.5
        """
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def rate(self, progress: float) -> float:
        """Learning rate: linear warm-up that never starts at 0, then half a cosine down to 0.

        >>> Plan(lr=1.0).rate(1.0)
        0.0
        """
        if progress < self.warmup:
            return self.lr * (0.05 + 0.95 * progress / self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


def patches_to_keep(plan: Plan, step: int, progress: float, patches: int) -> torch.Tensor | None:
    """Indices of the patches that this step computes, or None for all of them."""
    if progress >= plan.keep_until or plan.keep >= 1:
        return None
    g = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    return torch.randperm(patches, generator=g)[: round(plan.keep * patches)].sort().values


def parameter_groups(model: Learner, decay: float) -> list[dict[str, Any]]:
    """Weights of linear maps decay; biases, norms, positions and the class token do not."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}
    return [
        {"params": [p for p in model.parameters() if id(p) in decayed], "weight_decay": decay},
        {"params": [p for p in model.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]


def train(
    plan: Plan,
    out: Path,
    *,
    architecture: dict[str, Any] | None = None,
    device: str = "cpu",
    save_every: float = 60.0,
) -> Learner:
    """Train to the end of the plan from the checkpoint in `out`, if there is one; give back the trained model.

    `out` gets the checkpoint, a log (`log.jsonl`) and the state of the run in words (`status.json`), every
    `save_every` seconds and at the end.
    """
    architecture = architecture or NANO
    torch.manual_seed(plan.seed)
    model = Learner(architecture, plan.classes).to(device)
    # With 65 tokens the plain matrix product is faster on a CPU than the flash kernel's backward pass.
    for block in model.backbone.blocks:
        block.attn.fused_attn = device != "cpu"
    optimiser = torch.optim.AdamW(parameter_groups(model, plan.decay), lr=plan.lr, betas=(0.9, 0.98), fused=True)
    step, before = 0, 0.0
    identity = {"plan": vars(plan), "architecture": architecture}
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["identity"] != identity:
            raise SystemExit(f"{checkpoint} belongs to another plan: {saved['identity']}; choose another --out")
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        step, before = saved["step"], saved["seconds"]
    out.mkdir(parents=True, exist_ok=True)
    table = class_table(plan.classes, TABLE_SEED)
    patches = model.backbone.patch_embed.num_patches
    begun = last_save = last_print = time.monotonic()
    printed_step, sums = step, {}

    def seconds() -> float:
        return before + time.monotonic() - begun

    def save() -> None:
        state = {"identity": identity, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
        state |= {"step": step, "seconds": seconds()}
        write_atomic(checkpoint, lambda path: torch.save(state, path))
        status = {"step": step, "images": step * plan.batch, "minutes": seconds() / 60, "device": device}
        write_json(out / "status.json", status | {"progress": plan.progress(step, seconds()), **identity})

    model.train()
    while (progress := plan.progress(step, seconds())) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(progress)
        g = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        ids = torch.randint(plan.classes, (plan.batch,), generator=g)
        batch = draw(table, ids, seed=plan.seed * 1_000_003 + step, device=device)
        keep = patches_to_keep(plan, step, progress, patches)
        loss, parts = model(batch, None if keep is None else keep.to(device))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise SystemExit(
                f"step {step}: gradient norm {norm.item()}, loss {loss.item()}; the last checkpoint is kept"
            )
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value
        now = time.monotonic()
        if now - last_print >= 10:
            means = {name: round(float(v) / (step - printed_step), 4) for name, v in sums.items()}
            rate = (step - printed_step) * plan.batch / (now - last_print)
            left = seconds() * (1 - progress) / max(progress, 1e-6) / 60
            with (out / "log.jsonl").open("a") as log:
                row = {"step": step, "progress": round(progress, 4), "lr": plan.rate(progress), **means}
                log.write(json.dumps(row | {"images_per_second": round(rate, 1)}) + "\n")
            shown = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            print(f"step {step}  {shown}  {rate:.0f} images/s  {left:.0f} min left", flush=True)
            last_print, printed_step, sums = now, step, {}
        if now - last_save >= save_every:
            save()
            last_save = time.monotonic()
    save()
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--images", type=int, default=Plan.images, help="images to see at most")
    parser.add_argument("--minutes", type=float, help="time to train at most; the schedule fits it")
    parser.add_argument("--classes", type=int, default=Plan.classes)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--lr", type=float, default=Plan.lr)
    parser.add_argument("--keep", type=float, default=Plan.keep, help="fraction of patches computed in the first part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = vars(parser.parse_args(arguments))
    torch.set_num_threads(args.pop("threads"))
    out, device = args.pop("out"), args.pop("device")
    train(Plan(**args), out, device=device)


if __name__ == "__main__":
    main()
