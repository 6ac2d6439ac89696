"""Every method on tasks of the suite, trained by vpt: one rate for all tasks by validation, then seeds on test.

python -m benchmarks.accuracy.suite.compare --weights FILE --runs FOLDER [--seeds 5] [--seconds 3600] [--full]

Call it in several processes at once, or again after a stop: each takes the next run that nobody has. Results are lines
of `results/cpu/methods.jsonl`, or with `--full` (all tasks and twice the steps, for a GPU) of
`results/gpu/methods.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from benchmarks.accuracy.methods import METHODS, beyond
from benchmarks.accuracy.suite.tasks import TASKS
from benchmarks.accuracy.train_and_measure import trained
from vpt.config.tasks import ranking
from vpt.utils.atomic_io import make_folder
from vpt.utils.console import Console
from vpt.utils.errors import NotFinite, UserError

RESULTS = Path(__file__).parent / "results"
# The baselines, what came from 2023 on, and of the others what the README names.
COMPARED = (
    "linear", "shallow", "deep", "deep, PAE", "da-vpt", "da-vpt+", "pro-vpt", "tcpa", "viapt", "ship", "sa2vp", "vqt",
    "pixels of low rank", "adapter", "bias", "lora", "full", "vfpt", "e2vpt", "cvpt", "vapt", "gated", "bpt",
    "deep, SPT start", "deep, VIPAMIN start",
)  # fmt: skip
# The middle rate of each role is that of vpt's default recipe.
RATES = {
    "head": (3e-4, 1e-3, 3e-3),
    "prompt": (1.5e-3, 5e-3, 1.5e-2),
    "pixels": (1e-2, 3e-2, 1e-1),
    "bias": (3e-3, 1e-2, 3e-2),
    "lora": (1e-3, 3e-3, 1e-2),
    "backbone": (3e-5, 1e-4, 3e-4),
}
DEFAULT = {"deep": 5e-3}  # measured too, whatever the search chooses: what vpt does without settings
SEARCHED = ("digits-16", "count")  # tasks on whose validation images the rate is chosen
MEASURED = ("clothing-16", "digits-16", "count", "tilt")
MOST = 6  # rates that are tried, if the best ones lie at an end
LIMIT = 500  # test images of a drawn task
Rows = dict["Run", dict[str, Any]]


@dataclass(frozen=True)
class Run:
    method: str
    task: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        words = f"{self.method}-{self.task}-{self.rate:g}-{self.seed}"
        return "".join(letter if letter.isalnum() or letter in "-+." else "-" for letter in words)


@dataclass(frozen=True)
class Setting:
    """What all runs have in common.

    Args:
        backbone, weights, size: timm's name, file of its weights, pixels of an image.
        tasks: that are measured.
        factor: a run takes this times the root of the training images steps of 16 images; vpt's default recipe 20.
        folder: for data, locks and unfinished runs.
    """

    backbone: str
    weights: Path | None
    size: int
    tasks: tuple[str, ...]
    factor: float
    folder: Path


def rates_of(method: str, rows: Rows) -> tuple[list[float], float | None]:
    """The rates to try now, and the chosen one if the search is over.

    While the best of them is the lowest or the highest, the next one is tried, a third or three times as large.
    """
    tried = sorted(RATES[METHODS[method][1]])
    while True:
        runs = {rate: [Run(method, task, rate, 0) for task in SEARCHED] for rate in tried}
        if not all(run in rows for one in runs.values() for run in one):
            return tried, None
        scores = {rate: _score([rows[run] for run in one]) for rate, one in runs.items()}
        best = max(scores, key=scores.__getitem__)
        further = beyond(best, tried)
        if len(tried) == MOST or further is None:
            return tried, best
        tried = sorted([*tried, further])


def _score(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Validation accuracy, and among equals the lower loss; a run that failed has no loss."""
    losses = [math.inf if row["loss"] is None else row["loss"] for row in rows]
    return mean(row["val"] for row in rows), -mean(losses)


def wanted(rows: Rows, methods: Iterable[str], tasks: Iterable[str], seeds: int) -> list[Run]:
    """The runs that are missing and can be started now, searches first, then seed after seed of all methods."""
    first: list[Run] = []
    rest: list[Run] = []
    for method in methods:
        tried, chosen = rates_of(method, rows)
        if chosen is None:
            first += [Run(method, task, rate, 0) for rate in tried for task in SEARCHED]
        else:
            known = dict.fromkeys([chosen, DEFAULT.get(method, chosen)])
            rest += [Run(method, task, rate, seed) for seed in range(seeds) for rate in known for task in tasks]
    return [run for run in [*first, *sorted(rest, key=lambda run: run.seed)] if run not in rows]


def read(path: Path) -> Rows:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    return {Run(*(row[key] for key in ("method", "task", "rate", "seed"))): row for row in found}


def written(task: str, seed: int, size: int, folder: Path) -> Path:
    """The images of a task as folders of PNG files, split by split and class by class."""

    def fill(part: Path) -> None:
        for split in ("train", "val", "test"):
            images, labels = TASKS[task].make(seed, split)
            limit = LIMIT if split == "test" and TASKS[task].needs == "nothing" else len(images)
            for number, (image, label) in enumerate(zip(images[:limit], labels[:limit].tolist(), strict=True)):
                place = part / split / f"class{label}"
                place.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(np.ascontiguousarray(image))
                picture.resize((size, size), Image.Resampling.BICUBIC).save(place / f"{number:05d}.png")

    if not folder.is_dir():
        make_folder(folder, fill)
    return folder


def words_of(run: Run, setting: Setting, images: int) -> list[str]:
    """Settings of a run but where things lie."""
    settings, role, _ = METHODS[run.method]
    augment = "none" if role == "head" else TASKS[run.task].augment  # the features of a head alone are computed once
    epochs = max(1, round(setting.factor * math.sqrt(images) / math.ceil(images / 16)))
    return [
        f"backbone={setting.backbone}", f"backbone.image_size={setting.size}", "data.resize=squash", "data.cache=true",
        "data.workers=0", f"data.augment={augment}", f"train.epochs={epochs}",
        f"train.eval_every={epochs}", "train.keep=last", "train.batch_size=16", "train.precision=bf16",
        *settings, f"train.optimizer.lr.{role}={run.rate}", f"train.seed={run.seed}",
    ]  # fmt: skip


def measured(run: Run, setting: Setting) -> dict[str, Any]:
    """One run, trained now or resumed."""
    data = written(run.task, run.seed, setting.size, setting.folder / "data" / f"{run.task}-{run.seed}-{setting.size}")
    words = words_of(run, setting, sum(1 for _ in (data / "train").rglob("*.png")))
    folder = setting.folder / "runs" / run.name
    place = [f"data.path={data}", f"out={folder.parent}"]
    place += [] if setting.weights is None else [f"backbone.weights={setting.weights}"]
    row = {**vars(run), "words": words}
    try:
        metrics = trained([*words, *place], folder, Console(quiet=True)).metrics
    except NotFinite as error:
        shutil.rmtree(folder, ignore_errors=True)
        return {**row, "val": 0.0, "loss": None, "test": None, "error": str(error)}
    key = ranking(metrics["val"])
    row |= {"val": metrics["val"][key], "loss": metrics["val"]["loss"], "test": metrics["test"][key]}
    shutil.rmtree(folder)
    return {**row, **{key: metrics[key] for key in ("parameters", "artifact_bytes", "seconds")}}


def next_run(
    path: Path, methods: Iterable[str], tasks: Iterable[str], seeds: int, locks: Path
) -> tuple[Run, FileLock] | None:
    """The first missing run that no other process has, with its lock; None if there is none now."""
    locks.mkdir(parents=True, exist_ok=True)
    for run in wanted(read(path), methods, tasks, seeds):
        lock = FileLock(locks / run.name)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        if run not in read(path):  # it may have been finished since
            return run, lock
        lock.release()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="file with weights of ViT-Ti/16")
    parser.add_argument("--runs", type=Path, required=True, help="folder for data and unfinished runs")
    parser.add_argument("--methods", nargs="+", choices=COMPARED, default=COMPARED)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no run after so many")
    parser.add_argument("--full", action="store_true", help="all tasks, at the full length of the default recipe")
    options = parser.parse_args()
    if not options.weights.is_file():
        parser.error(f"there is no file {options.weights}")
    tasks, factor = (tuple(TASKS), 20.0) if options.full else (MEASURED, 10.0)
    setting = Setting("vit_tiny_patch16_224", options.weights, 112, tasks, factor, options.runs)
    path = RESULTS / ("gpu" if options.full else "cpu") / "methods.jsonl"
    ends = time.time() + options.seconds
    while time.time() < ends:
        found = next_run(path, options.methods, tasks, options.seeds, options.runs / "locks")
        if found is None:
            if not wanted(read(path), options.methods, tasks, options.seeds):
                return
            time.sleep(2)  # other processes are at the last ones, and a search may want more after them
            continue
        run, lock = found
        try:
            row = measured(run, setting)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        finally:
            lock.release()
        print(run.name, row["val"], row["test"], row.get("seconds"), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
