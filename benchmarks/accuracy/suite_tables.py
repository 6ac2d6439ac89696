"""Tables of the suite of small tasks (benchmarks/accuracy/suite), from its results."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.results_files import rows

RESULTS = Path(__file__).parent / "suite/results"
NATURAL = ("clothing-4", "clothing-16", "clothing-100", "clothing-all", "digits-16", "digits-all", "fashion-100")
STRUCTURED = ("way-up", "photo-where", "count", "largest-where", "which-bigger", "how-far", "tilt", "same-digit")
SEARCHED = ("count", "way-up", "how-far", "digits-16", "clothing-16", "clothing-4")
Runs = dict[tuple[str, str, str], dict[int, dict[str, Any]]]


@lru_cache
def results(stem: str) -> tuple[Runs, Runs]:
    """Runs by backbone, label and task, then seed; and probes by backbone, "probe" or "probe-cv" and task."""
    runs: Runs = defaultdict(dict)
    probes: Runs = defaultdict(dict)
    for line in (RESULTS / f"{stem}.jsonl").read_text().splitlines():
        row = json.loads(line)
        group = probes if row["method"] == "probe" else runs
        group[row["backbone"], row["label"], row["task"]][row["seed"]] = row
    return runs, probes


def kept(run: dict[str, Any], probe: float | None, rule: str = "better") -> float:
    """Test accuracy of what a run keeps: the best of its validations.

    `better`: the probe, unless that one is better on validation; `surely`: unless it wins more images than it loses by
    more than the root of their number; `always`: never the probe; `last`: the last one.
    """
    best = max(run["points"], key=lambda point: (point["val"], -point["val_loss"]))
    if rule == "last":
        return float(run["points"][-1]["test"])
    ahead, doubtful = best["won"] - best["lost"], (best["won"] + best["lost"]) ** 0.5
    if probe is None or rule == "always" or ahead > {"better": 0, "surely": doubtful}[rule]:
        return float(best["test"])
    return probe


def difference(values: list[float], others: list[float]) -> str:
    """Mean of paired differences, with half the width of its 95 % interval (Student's t)."""
    apart = np.array(values) - np.array(others)
    half = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5
    return f"{apart.mean():+.1f} ± {half:.1f}"


def suite(backbone: str, methods: dict[str, tuple[str, str]]) -> str:
    """Every task: the probe, then each method, column -> label and rule of its runs."""
    runs, probes = results("gpu/final")
    body = []
    for group in (NATURAL, STRUCTURED):
        means: dict[str, list[float]] = defaultdict(list)
        for task in group:
            probe = {seed: 100 * row["test"] for seed, row in probes[backbone, "probe", task].items()}
            means["probe"].append(float(np.mean(list(probe.values()))))
            cells = [task, f"{means['probe'][-1]:.1f}"]
            for column, (label, rule) in methods.items():
                found = runs[backbone, label, task]
                values = [100 * kept(found[seed], probe[seed] / 100, rule) for seed in sorted(found)]
                means[column].append(float(np.mean(values)))
                cells.append(f"{means[column][-1]:.1f} ({difference(values, [probe[s] for s in sorted(found)])})")
            body.append(cells)
        name = "**mean of natural tasks**" if group is NATURAL else "**mean of structured tasks**"
        body.append([name, *(f"**{np.mean(means[c]):.1f}**" for c in ("probe", *methods))])
    return rows(["task", "linear probe", *methods], body)


def shipped() -> str:
    """The default recipe as it is shipped, deep prompts and LoRA at equal steps, of the same seeds."""
    runs, probes = results("cpu/shipped")
    body = []
    for task in (*NATURAL, *STRUCTURED):
        probe = {seed: row["test"] for seed, row in probes["vit_ti", "probe", task].items()}
        found = {
            method: {
                seed: 100 * kept(run, probe[seed]) for seed, run in runs["vit_ti", f"shipped-{method}", task].items()
            }
            for method in ("deep", "lora")
        }
        if not found["deep"]:
            continue
        seeds = sorted(found["deep"])
        base = [100 * probe[seed] for seed in seeds]
        cells = [task, str(len(seeds)), f"{np.mean(base):.1f}"]
        cells.append(
            f"{np.mean(list(found['deep'].values())):.1f} ({difference([found['deep'][s] for s in seeds], base)})"
        )
        both = sorted(found["deep"].keys() & found["lora"].keys())
        if len(both) > 1:
            cells[1] += f", LoRA {len(both)}" if len(both) < len(seeds) else ""
            deep, lora = ([found[method][seed] for seed in both] for method in ("deep", "lora"))
            cells += [
                f"{np.mean(lora):.1f} ({difference(lora, [100 * probe[s] for s in both])})",
                difference(deep, lora),
            ]
        body.append([*cells, *[""] * (6 - len(cells))])
    return rows(["task", "seeds", "linear probe", "deep", "LoRA", "deep minus LoRA"], body)


def curve(runs: dict[int, dict[str, Any]], start: float) -> tuple[list[float], list[float]]:
    """Training images seen, and mean test accuracy over the seeds, at the points that were measured."""
    found = list(runs.values())
    points = range(len(found[0]["points"]))
    images = [0.0, *(found[0]["batch"] * float(np.mean([run["points"][i]["step"] for run in found])) for i in points)]
    return images, [start, *(float(np.mean([run["points"][i]["test"] for run in found])) for i in points)]


def images_until(images: list[float], accuracy: list[float], goal: float) -> float | None:
    """Training images until a curve, interpolated between its points, has the accuracy; None if it never does."""
    if accuracy[0] >= goal:
        return 0.0
    for i in range(1, len(images)):
        if accuracy[i] >= goal:
            part = (goal - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
            return images[i - 1] + part * (images[i] - images[i - 1])
    return None


def duration() -> str:
    """Training images that the recipe before and the default recipe need, ViT-Ti.

    Tasks marked with * have no run with a penalty of at least 1 at the start, but with the probe's own.
    """
    runs, probes = results("gpu/final")
    shipped, _ = results("cpu/shipped")

    def shown(count: float | None) -> str:
        return "not reached" if count is None else f"{count:,.0f}"

    body = []
    for task in (*NATURAL, *STRUCTURED):
        probe = float(np.mean([row["test"] for row in probes["vit_ti", "probe", task].values()]))
        before = curve(runs["vit_ti", "today", task], 0.0)
        own = shipped["vit_ti", "shipped-deep", task]
        after = curve(own or runs["vit_ti", "new-f20", task], probe)
        same = images_until(*after, before[1][-1])
        body.append(
            [
                task if own else f"{task}*",
                shown(images_until(*before, 0.9 * before[1][-1])),
                shown(images_until(*after, 0.9 * after[1][-1])),
                shown(before[0][-1]),
                shown(same),
                "" if same is None else f"{same / before[0][-1]:.2f}",
            ]
        )
    header = ["task", "90%, before", "90%, default", "all of it, before", "its accuracy, default", "of the time"]
    return rows(header, body)


def suite_ti() -> str:
    return suite(
        "vit_ti",
        {
            "deep, before": ("today", "always"),
            "deep": ("new-f20", "better"),
            "deep, half as long": ("new", "better"),
            "LoRA, half as long": ("lora", "better"),
            "biases, half as long": ("bias", "better"),
        },
    )


def suite_short(backbone: str) -> str:
    return suite(backbone, {"deep, before": ("today", "always"), "deep, half as long": ("new", "better")})


QUESTIONS = {
    "tokens and `lr.prompt`": [
        ("10, 0.00125", "t10-lr0.00125"),
        ("10, 0.0025", "t10-lr0.0025"),
        ("10, 0.005", "base"),
        ("10, 0.01", "t10-lr0.01"),
        ("10, 0.02", "t10-lr0.02"),
        ("30, 0.00125", "t30-lr0.00125"),
        ("30, 0.0025", "t30-lr0.0025"),
        ("30, 0.005", "t30-lr0.005"),
        ("30, 0.01", "t30-lr0.01"),
        ("50, 0.00125", "t50-lr0.00125"),
        ("50, 0.0025", "t50-lr0.0025"),
        ("50, 0.005", "t50-lr0.005"),
        ("50, 0.01", "t50-lr0.01"),
    ],
    "`lr.head`": [
        ("0", "head0"),
        ("0.0001", "head0.0001"),
        ("0.0003", "head0.0003"),
        ("0.001", "base"),
        ("0.003", "head0.003"),
        ("0.01", "head0.01"),
    ],
    "head at the start": [
        ("the probe", "base"),
        ("the probe, its penalty by cross-validation", "cv"),
        ("random, `lr.head=0.01`", "random"),
        ("random, `lr.head=0.01`, `lr.prompt=0.0025`", "random-lr.0025"),
    ],
    "decay of the head": [("0", "base"), ("the probe's own penalty", "headdecay-probe")],
    "decay of the prompts": [("0", "base"), ("0.01", "decay0.01"), ("0.1", "decay0.1"), ("1", "decay1")],
    "size of VPT's uniform start": [("1/10", "scale0.1"), ("3/10", "scale0.3"), ("1", "base"), ("3", "scale3")],
    "half-life of averaged weights, of the run": [
        ("none", "average0"),
        ("0.05", "average0.05"),
        ("0.1", "base"),
        ("0.2", "average0.2"),
        ("0.4", "average0.4"),
    ],
}


def search() -> str:
    """What was searched, on six of the tasks: means over three seeds of the last weights, and of what is kept."""
    runs, probes = results("gpu/search")
    body = []
    for question, settings in QUESTIONS.items():
        for setting, label in settings:
            cells = [question, setting]
            for rule in ("last", "better"):
                for group in (NATURAL, STRUCTURED):
                    tasks = [task for task in SEARCHED if task in group]
                    found = [
                        kept(run, probes["vit_ti", "probe", task][seed]["test500"], rule)
                        for task in tasks
                        for seed, run in runs["vit_ti", label, task].items()
                    ]
                    cells.append(f"{100 * np.mean(found):.1f}")
            body.append(cells)
    header = ["question", "setting", "natural, last", "structured, last", "natural, kept", "structured, kept"]
    return rows(header, body)


def rules() -> str:
    """Means over all tasks of what a run would keep under each rule."""
    runs, probes = results("gpu/final")
    names = {
        "last": "the last weights",
        "always": "the best validation",
        "better": "the probe, unless the best validation is better",
        "surely": "the probe, unless it is better by more than the root of the images they disagree on",
    }
    body = []
    for rule, name in names.items():
        cells = [name]
        for backbone, label in (("vit_ti", "new-f20"), ("vit_s", "new"), ("nano", "new")):
            for group in (NATURAL, STRUCTURED):
                found = [
                    kept(run, probes[backbone, "probe", task][seed]["test"], rule)
                    for task in group
                    for seed, run in runs[backbone, label, task].items()
                ]
                cells.append(f"{100 * np.mean(found):.1f}")
        body.append(cells)
    columns = [f"{b}, {g}" for b in ("ViT-Ti", "ViT-S", "vpt_nano") for g in ("natural", "structured")]
    return rows(["kept", *columns], body)


def starts() -> str:
    """The penalty of the head that training starts from: one seed, on a CPU."""
    found = [json.loads(line) for line in (RESULTS / "start.jsonl").read_text().splitlines()]
    columns = [
        ("its own", 0.0, 1e-3),
        ("0.1", 0.1, 1e-3),
        ("1", 1.0, 1e-3),
        ("10", 10.0, 1e-3),
        ("random", "random", 1e-2),
    ]
    body = []
    for place in sorted({(r["backbone"], r["task"]) for r in found}):
        runs = [r for r in found if (r["backbone"], r["task"]) == place]
        cells = [place[0], place[1], f"{100 * runs[0]['probe']:.1f}", f"{runs[0]['strength']:.2g}"]
        for _, start, rate in columns:
            fits = [r for r in runs if (r["start"], r["lr_head"]) == (start, rate)]
            cells.append(f"{100 * fits[0]['test']:.1f}" if fits else "")
        body.append(cells)
    names = [name if name in ("its own", "random") else f"at least {name}" for name, *_ in columns]
    return rows(["backbone", "task", "linear probe", "its penalty", *names], body)
