"""Run a plan of many runs on a GPU machine and write their results as JSON lines.

SUITE_PACKED=FOLDER python -m benchmarks.accuracy.suite.gpu PLAN OUT [--seconds 500] [--workers 4]
    [--backbones vit_ti]
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import math
import os
import sys
import time
import traceback
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.accuracy.suite import plans
from benchmarks.accuracy.suite import tasks as made_tasks
from benchmarks.accuracy.suite.tasks import PACKED, TASKS
from vpt.heads import logistic
from vpt.heads.logistic import Targets

ROOTS = [Path(__file__).resolve().parents[3], *([] if PACKED is None else [PACKED.parent])]
SCRATCH = Path(os.environ.get("SUITE_SCRATCH", "/dev/shm/suite"))
BEGAN = time.time()
KEY = ("task", "backbone", "size", "seed", "label")  # of a run


def say(*words: Any) -> None:
    print(f"[{time.time() - BEGAN:6.1f}]", *words, flush=True)


def file_of(task: str, seed: int, split: str, size: int) -> Path:
    return SCRATCH / f"{task}-{'x' if split == 'test' else seed}-{split}-{size}.npy"


def render(task: str, seed: int, split: str, sizes: list[int]) -> None:
    sizes = [size for size in sizes if not file_of(task, seed, split, size).with_suffix(".labels.npy").is_file()]
    if not sizes:
        return
    images, labels = TASKS[task].make(seed, split)
    for size in sizes:
        file = file_of(task, seed, split, size)
        squares = [
            np.asarray(Image.fromarray(np.ascontiguousarray(i)).resize((size, size), Image.Resampling.BICUBIC))
            for i in images
        ]
        np.save(file, np.stack(squares).transpose(0, 3, 1, 2))
        np.save(file.with_suffix(".labels.npy"), labels.astype(np.int64))


def fit(train: Any, labels: Any, val: Any, val_labels: Any, classes: int, head: str = "probe") -> dict[str, Any]:
    """A head by logistic regression, and which validation images the probe has right.

    Args:
        head: probe; start (the same with the penalty that training starts from); cv (its penalty by cross-validation).
    """
    began = time.process_time()
    targets, val_targets = Targets.of(labels, classes), Targets.of(val_labels, classes)
    if head == "cv":
        fitted = known = logistic.cross_validated(train, targets)
    else:
        fitted = known = logistic.validated(train, targets, val, val_targets)
    if head == "start" and fitted.strength < 1:
        fitted = logistic.fit(train, targets, 1.0)
    return {
        **{k: getattr(fitted, k).astype(np.float32) for k in ("weight", "bias", "mean", "std")},
        "strength": fitted.strength,
        "known": known.scores(val).argmax(1) == val_labels,
        "cpu": time.process_time() - began,
    }


def refit(train: Any, labels: Any, val: Any, val_labels: Any, classes: int, before: dict[str, Any]) -> dict[str, Any]:
    return {**fit(train, labels, val, val_labels, classes), "known": before["known"]}


def network(backbone: str, size: int, device: str) -> dict[str, Any]:
    import torch

    if backbone == "nano":  # travels with the project
        from safetensors.torch import load_file

        files = (root / "vpt/assets/vpt_nano.safetensors" for root in ROOTS)
        found = load_file(next(file for file in files if file.is_file()))
        found = {k: v.flatten(1) if k == "patch_embed.proj.weight" else v for k, v in found.items()}
        net = {k: v.to(device, torch.bfloat16) for k, v in found.items()}
        return {**net, "patch": 8, "heads": 3, "depth": 6}
    found = np.load(io.BytesIO(lzma.decompress((PACKED / f"{backbone}.npz.xz").read_bytes())))
    net: dict[str, Any] = {}
    for key in found.files:
        if key == "about" or key.endswith(".scale") or (key.startswith("pos_embed") and key != f"pos_embed.{size}"):
            continue
        value = torch.from_numpy(found[key]).float()
        if f"{key}.scale" in found.files:
            value = value * torch.from_numpy(found[f"{key}.scale"]).float()
        net["pos_embed" if key.startswith("pos_embed") else key] = value.to(device, torch.bfloat16)
    patch, heads = found["about"].tolist()
    depth = 1 + max(int(k.split(".")[1]) for k in net if k.startswith("blocks."))
    return {**net, "patch": patch, "heads": heads, "depth": depth}


def group_key(job: Any, images: int) -> tuple:
    task = TASKS[job.task]
    return (
        job.backbone, job.size, job.method, job.tokens if job.method == "deep" else 0, job.bias is None, job.last,
        job.batch, job.steps(images), job.points, job.head == "prompted", task.augment == "light", job.limit,
    )  # fmt: skip


class Held:
    """The images of a group on the device, one after another, and where in them each split begins."""

    def __init__(self, arrays: dict[Path, Any], size: int, device: str) -> None:
        self.arrays, self.size, self.device = arrays, size, device
        self.place: dict[Path, np.ndarray] = {}
        self.images: list[Any] = []
        self.labels: list[Any] = []
        self.count = 0

    def rows(self, task: str, seed: int, split: str) -> np.ndarray:
        """Places of a split's images; they are loaded if they are not there yet."""
        import torch

        file = file_of(task, seed, split, self.size)
        if file not in self.place:
            if file not in self.arrays:
                parts = (np.load(file), np.load(file.with_suffix(".labels.npy")))
                self.arrays[file] = tuple(torch.from_numpy(part).to(self.device) for part in parts)
            images, labels = self.arrays[file]
            self.images.append(images)
            self.labels.append(labels)
            self.place[file] = np.arange(self.count, self.count + len(images))
            self.count += len(images)
        return self.place[file]


def worker(queue: Any, answers: Any, device: str, ends: float, cap: int) -> None:
    import torch

    from benchmarks.accuracy.suite.batched import Sets, train_group

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    nets: dict[tuple[str, int], Any] = {}
    arrays: dict[Path, Any] = {}
    while (got := queue.get()) is not None:
        number, jobs, fits = got
        one = jobs[0]
        if time.time() > ends:
            answers.put(("skipped", number, one.label, 0.0))
            continue
        try:
            began = time.time()
            if (one.backbone, one.size) not in nets:
                nets[one.backbone, one.size] = network(one.backbone, one.size, device)
            net = nets[one.backbone, one.size]
            held = Held(arrays, one.size, device)
            train, val, test = ([held.rows(j.task, j.seed, s) for j in jobs] for s in ("train", "val", "test"))
            sets = Sets(torch.cat(held.images), torch.cat(held.labels), train, val, [t[: one.limit] for t in test])
            classes = [TASKS[j.task].classes for j in jobs]
            augment = TASKS[one.task].augment == "light"
            found = train_group(net, jobs, sets, classes, fits, refit, augment, device, cap)
            seconds = time.time() - began
            answers.put(("done", number, [{**asdict(j), **f} for j, f in zip(jobs, found, strict=True)], seconds))
            del sets, held
            if sum(a[0].numel() for a in arrays.values()) > 8e9:
                arrays.clear()
        except Exception:
            answers.put(("failed", number, f"{one.label} x{len(jobs)}\n{traceback.format_exc()[-1500:]}", 0.0))
            if device == "cuda":
                torch.cuda.empty_cache()


def probes(executor: Any, needed: dict[tuple, set[str]], device: str, cap: int) -> tuple[dict, dict]:
    """Probes of every (backbone, size, task, seed), and what they measure."""
    import torch

    from benchmarks.accuracy.suite.batched import features

    nets: dict[tuple[str, int], Any] = {}
    seen: dict[tuple, Any] = {}

    @torch.no_grad()
    def read(backbone: str, size: int, file: Path) -> np.ndarray:
        if (backbone, file) not in seen:
            if (backbone, size) not in nets:
                nets[backbone, size] = network(backbone, size, device)
            kept = file.with_name(f"{file.stem}-{backbone}.features.npy")  # a plan may be stopped and go on
            if not kept.is_file():
                images = torch.from_numpy(np.load(file))
                step = max(1, int(cap * (112 / size) ** 2))
                parts = [features(nets[backbone, size], p.to(device)[None], {})[0].cpu() for p in images.split(step)]
                np.save(kept, torch.cat(parts).numpy())
            seen[backbone, file] = np.load(kept)
        return seen[backbone, file]

    waiting = {}
    for (backbone, size, task, seed), heads in sorted(needed.items(), key=lambda n: -("all" in n[0][2])):
        files = [file_of(task, seed, s, size) for s in ("train", "val", "test")]
        rows = [read(backbone, size, f) for f in files]
        marks = [np.load(f.with_suffix(".labels.npy")) for f in files]
        arguments = (rows[0], marks[0], rows[1], marks[1], TASKS[task].classes)
        for head in {"probe"} | heads:
            future = executor.submit(fit, *arguments, head)
            waiting[future] = (backbone, size, task, seed, head, rows, marks)
    say("features", len(seen))
    fits, results = {}, {}
    for future in as_completed(waiting):
        backbone, size, task, seed, head, rows, marks = waiting[future]
        fitted = future.result()
        fits[backbone, size, task, seed, head] = fitted
        row = {"strength": fitted["strength"], "cpu": round(fitted["cpu"], 3), "images": len(rows[0])}
        for split, x, y in zip(("train", "val", "test"), rows, marks, strict=True):
            logits = ((x - fitted["mean"]) / fitted["std"]) @ fitted["weight"].T + fitted["bias"]
            hits = logits.argmax(1) == y
            row[split] = round(float(hits.mean()), 5)
            if split == "test":
                row["test500"] = round(float(hits[:500].mean()), 5)
        results[backbone, size, task, seed, head] = row
    return fits, results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plan")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--pool", type=int, default=15)
    parser.add_argument("--backbones", nargs="+", help="leave out the others")
    parser.add_argument("--mini", action="store_true")
    parser.add_argument("--available", action="store_true", help="leave out what needs photos or weights not here")
    options = parser.parse_args()
    ends = BEGAN + options.seconds
    SCRATCH.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = getattr(plans, options.plan)()
    if options.backbones:
        jobs = [(p, j) for p, j in jobs if j.backbone in options.backbones]
    if options.available and PACKED is None:  # drawn tasks, and the backbone in the package
        jobs = [(p, j) for p, j in jobs if TASKS[j.task].needs == "nothing" and j.backbone == "nano"]
    if options.mini:
        jobs = plans.mini(jobs)
    lines = options.out / f"{options.plan}.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    done = {tuple(row[key] for key in KEY) for row in rows}
    jobs = [(p, j) for p, j in jobs if tuple(getattr(j, key) for key in KEY) not in done]
    say(len(jobs), "runs,", len(done), "results there already")
    if not jobs:
        return
    # Before the fork, so that every process has them; and that is before CUDA starts.
    made_tasks.digits()
    if any(TASKS[j.task].needs == "shared" for _, j in jobs):
        for split in ("train", "val", "test"):
            made_tasks._clothing(split)
    say("photos")
    executor = ProcessPoolExecutor(options.pool, mp_context=get_context("fork"))
    sizes: dict[tuple, set[int]] = defaultdict(set)
    for _, job in jobs:
        for split in ("train", "val", "test"):
            sizes[job.task, 0 if split == "test" else job.seed, split].add(job.size)
    order = sorted(sizes.items(), key=lambda item: -(item[0][0] in ("count", "photo-where", "tilt", "same-digit")))
    made = [executor.submit(render, *key, sorted(s)) for key, s in order]
    for future in made:
        future.result()
    say("rendered", len(made))
    count = {key: len(np.load(file_of(*key, min(s)).with_suffix(".labels.npy"))) for key, s in sizes.items()}
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cap = 4096 if device == "cuda" else 64
    groups: dict[tuple, list[Any]] = defaultdict(list)
    for priority, job in jobs:
        groups[priority, *group_key(job, count[job.task, job.seed, "train"])].append(job)
    chunks = []
    for key, members in groups.items():
        one = members[0]
        weight = one.batch * (one.size / 112) ** 2 * {"vit_ti": 1, "vit_s": 3, "nano": 0.6}[one.backbone]
        weight *= {"deep": 1, "lora": 2, "bias": 2, "full": 4}[one.method]
        most = max(1, int(cap / 2 / weight))
        number = math.ceil(len(members) / most)
        for place in range(number):
            part = members[place::number]
            chunks.append((key[0], -len(part) * weight * key[8], part))
    chunks.sort(key=lambda c: c[:2])
    say(len(chunks), "groups", [len(c[2]) for c in chunks])
    context = get_context("spawn")
    queue, answers = context.Queue(), context.Queue()
    workers = [
        context.Process(target=worker, args=(queue, answers, device, ends, cap), daemon=True)
        for _ in range(options.workers)
    ]
    for process in workers:
        process.start()
    # Runs that need no probe start at once.
    first = [(n, c[2]) for n, c in enumerate(chunks) if all(j.head == "random" for j in c[2])]
    for number, part in first:
        queue.put((number, part, [{"known": np.zeros(count[j.task, j.seed, "val"], bool)} for j in part]))
    needed: dict[tuple, set[str]] = defaultdict(set)
    for _, job in jobs:
        needed[job.backbone, job.size, job.task, job.seed] |= {job.head} & {"cv", "start"}
    fits, results = probes(executor, needed, device, cap)
    with lines.open("a") as out:
        for (backbone, size, task, seed, head), row in results.items():
            key = {"task": task, "backbone": backbone, "size": size, "seed": seed}
            print(
                json.dumps({**key, "label": "probe" if head == "probe" else f"probe-{head}", "method": "probe", **row}),
                file=out,
            )
    say("probes", len(results), "slowest", max(r["cpu"] for r in results.values()))
    for number, (_, _, part) in enumerate(chunks):
        if number in {n for n, _ in first}:
            continue
        names = [j.head if j.head in ("cv", "start") else "probe" for j in part]
        queue.put(
            (number, part, [fits[j.backbone, j.size, j.task, j.seed, n] for j, n in zip(part, names, strict=True)])
        )
    for _ in workers:
        queue.put(None)
    with lines.open("a") as out:
        for _ in chunks:
            try:
                state, number, found, seconds = answers.get(timeout=max(1, ends + 12 - time.time()))
            except Exception:
                say("time is up")
                break
            _, cost, part = chunks[number]
            if state == "done":
                for row in found:
                    print(json.dumps({**row, "group": number, "seconds": round(seconds, 1)}), file=out)
                out.flush()
                found = f"{part[0].backbone}-{part[0].size} {part[0].method} {part[0].label} x{len(part)}"
                say(state, number, found, f"{-cost / 1e3 / max(seconds, 1e-3):.1f}k/s", f"{seconds:.1f} s")
            else:
                say(state, number, found)
    say("end")
    for process in [*workers, *executor._processes.values()]:
        process.kill()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
