"""What is run: a plan is a list of (priority, Job); lower priorities run first."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.accuracy.suite.batched import Job
from benchmarks.accuracy.suite.tasks import TASKS

SEARCH = ("count", "way-up", "how-far", "digits-16", "clothing-16", "clothing-4")
Plan = list[tuple[int, Job]]


def size_of(backbone: str, task: str) -> int:
    """Few natural photos at 224 pixels with ViT-Ti, all else at 112; vpt_nano at its own 64."""
    return 64 if backbone == "nano" else 224 if backbone == "vit_ti" and task in ("clothing-4", "clothing-16") else 112


def variants() -> list[tuple[int, dict]]:
    """Around the interim recipe: one or two settings changed at a time."""
    found: list[tuple[int, dict]] = [(0, {"label": "base"})]
    for tokens in (10, 30, 50):
        for lr in (1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2):
            if (tokens, lr) != (10, 5e-3):
                found.append((0, {"label": f"t{tokens}-lr{lr:g}", "tokens": tokens, "lr": lr}))
    for lr_head in (0.0, 1e-4, 3e-4, 3e-3, 1e-2):
        found.append((0, {"label": f"head{lr_head:g}", "lr_head": lr_head}))
    found.append((0, {"label": "random", "head": "random", "lr_head": 1e-2, "head_decay": 1e-2}))
    found.append((0, {"label": "random-lr.0025", "head": "random", "lr": 2.5e-3, "lr_head": 1e-2, "head_decay": 1e-2}))
    found.append((0, {"label": "headdecay-probe", "head_decay": -1.0}))
    for decay in (1e-2, 1e-1, 1.0):
        found.append((0, {"label": f"decay{decay:g}", "decay": decay}))
    for scale in (0.1, 0.3, 3.0):
        found.append((0, {"label": f"scale{scale:g}", "scale": scale}))
    for average in (0.0, 0.05, 0.2, 0.4):
        found.append((0, {"label": f"average{average:g}", "average": average}))
    for method, rates in (("lora", (1e-3, 3e-3, 1e-2)), ("bias", (1e-3, 3e-3, 1e-2)), ("full", (3e-5, 1e-4, 3e-4))):
        for lr in rates:
            found.append((1, {"label": f"{method}-lr{lr:g}", "method": method, "lr": lr}))
    for factor in (5.0, 20.0, 40.0):
        for lr in (2.5e-3, 5e-3):
            found.append((2, {"label": f"f{factor:g}-lr{lr:g}", "factor": factor, "lr": lr}))
    found.append((2, {"label": "prompted", "head": "prompted"}))
    found.append((0, {"label": "cv", "head": "cv"}))
    for last in (3, 6, 9):
        found.append((3, {"label": f"last{last}", "last": last}))
    for bias in (-1.0, -3.0):
        found.append((3, {"label": f"bias{bias:g}", "bias": bias, "lr_bias": 5e-2}))
    found.append((3, {"label": "batch32", "batch": 32}))
    found.append((3, {"label": "today", **TODAY}))
    return found


TODAY = {
    "head": "random",
    "lr": 2.5e-3,
    "lr_head": 1e-2,
    "head_decay": 1e-2,
    "factor": 0.0,
    "batch": 32,
    "average": 0.0,
    "points": 6,
}


def search() -> Plan:
    return [
        (priority, Job(task=task, backbone="vit_ti", size=size_of("vit_ti", task), seed=seed, limit=500, **settings))
        for priority, settings in variants()
        for task in SEARCH
        for seed in range(3)
    ]


NEW = {"average": 0.0}  # the interim recipe without the average, which changed nothing


def final() -> Plan:
    found: Plan = []

    def add(
        priority: int, backbone: str, label: str, tasks: tuple[str, ...] = tuple(TASKS), seeds: int = 5, **settings
    ) -> None:
        for task in tasks:
            for seed in range(seeds):
                found.append(
                    (
                        priority,
                        Job(
                            task=task,
                            backbone=backbone,
                            size=size_of(backbone, task),
                            seed=seed,
                            label=label,
                            **settings,
                        ),
                    )
                )

    add(0, "vit_ti", "today", **TODAY)
    add(1, "vit_ti", "new", **NEW)
    add(1, "vit_ti", "new-f20", **NEW, factor=20.0)
    add(2, "vit_ti", "lora", **NEW, method="lora", lr=3e-3)
    add(2, "vit_ti", "search-f40", SEARCH, 3, **NEW, factor=40.0)
    add(2, "vit_ti", "search-f20-t30-lr.0025", SEARCH, 3, **NEW, factor=20.0, tokens=30, lr=2.5e-3)
    add(2, "vit_ti", "search-f20-t50-lr.0025", SEARCH, 3, **NEW, factor=20.0, tokens=50, lr=2.5e-3)
    add(3, "vit_s", "new", **NEW)
    add(3, "vit_s", "today", **TODAY)
    add(4, "vit_ti", "bias", **NEW, method="bias", lr=1e-2)
    add(5, "nano", "new", **NEW)
    add(5, "nano", "today", **TODAY)
    add(6, "vit_ti", "full", **NEW, method="full", lr=1e-4)
    add(7, "vit_s", "lora", **NEW, method="lora", lr=3e-3)
    add(8, "vit_s", "search-lr.0025", SEARCH, 3, **NEW, lr=2.5e-3)
    add(8, "vit_ti", "search-last6", SEARCH, 3, **NEW, last=6)
    add(8, "vit_ti", "search-bias-3", SEARCH, 3, **NEW, bias=-3.0, lr_bias=5e-2)
    return found


SHIPPED = {"average": 0.0, "head": "start", "factor": 20.0}  # vpt's default recipe


# Where deep prompts and LoRA are compared at equal steps, and where the probe's penalty was found to matter, first.
FEW_SHOT = ("clothing-4", "digits-16", "fashion-100", "clothing-16", "clothing-100")


def shipped() -> Plan:
    """What vpt does by default: ViT-Ti, deep prompts and LoRA, three seeds of the first tasks before the rest."""
    rates = {"deep": 5e-3, "lora": 3e-3, "bias": 1e-2, "full": 1e-4}
    first = [("vit_ti", "deep"), ("vit_ti", "lora"), ("nano", "deep"), ("vit_s", "deep"), ("vit_ti", "bias")]
    first.append(("vit_ti", "full"))
    pairs = [*first, ("nano", "lora"), ("vit_s", "lora"), ("nano", "bias"), ("vit_s", "bias")]

    def priority(pair: int, task: str, method: str, seed: int) -> int:
        early = task in FEW_SHOT or method == "deep"
        return 4 * pair + 6 * (not early) + 5 * (seed >= 3)

    return [
        (
            priority(pair, task, method, seed),
            Job(
                task=task,
                backbone=backbone,
                size=size_of(backbone, task),
                seed=seed,
                label=f"shipped-{method}",
                **SHIPPED,
                method=method,
                lr=rates[method],
            ),
        )
        for pair, (backbone, method) in enumerate(pairs)
        for task in TASKS
        for seed in range(5)
    ]


def mini(jobs: Plan) -> Plan:
    """A run of every kind, short."""
    kinds = {}
    tasks = {"clothing-4", "fashion-100"} & {job.task for _, job in jobs} or {"digits-16"}
    for priority, job in jobs:
        if job.task in tasks:
            kinds.setdefault((job.backbone, job.method, job.bias, job.head, job.last), (priority, job))
            kinds.setdefault((job.task, job.backbone == "nano"), (priority, job))
    return [(p, replace(j, factor=0.35 if j.factor else 0.36, limit=20)) for p, j in kinds.values()]
