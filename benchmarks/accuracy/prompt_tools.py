"""Prompts averaged over seeds, interpolated between two seeds, and continued on another task.

    python -m benchmarks.accuracy.prompt_tools

Two tasks that need no download, digits and distances between digits, with few images. Each is trained from a new prompt
and from the prompt of the same seed of the other task. Runs that are finished are read from --runs. Results go to
benchmarks/results/prompt-tools.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import ttest_rel

import vpt
from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.models.artifact import read_artifact
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.device import pick_device

TASKS = {"digits": 4, "digit-distances": 32}  # images of a class
SETTINGS = [
    "backbone=vpt_nano",
    "prompt=deep",
    "data.augment=none",
    "train.epochs=12",
    "train.eval_every=12",
    "train.keep=last",
]
HERE = ["data.workers=0", "train.device=cpu"]
QUIET = Console(quiet=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "vpt-prompt-tools")
    options = parser.parse_args(words)
    rows = [row for task in TASKS for row in measured(task, options.seeds, options.runs)]
    found = {
        "machine": machine(pick_device("cpu")),
        "settings": SETTINGS,
        "shots": TASKS,
        "seeds": options.seeds,
        "rows": rows,
    }
    write_json(RESULTS / "prompt-tools.json", found)
    print(*rows, sep="\n")


def measured(task: str, seeds: int, runs: Path) -> list[dict[str, object]]:
    """Rows of a task: accuracies on test images, and the differences from new prompts with 95% intervals."""
    other = next(name for name in TASKS if name != task)
    new = [trained(task, seed, runs) for seed in range(seeds)]
    sources = [trained(other, seed, runs) for seed in range(seeds)]
    alone = [tested(path) for path in new]
    rows: list[dict[str, object]] = [{"task": task, "prompt": "new", "test": alone}]
    pairs = zip(new, [*new[1:], new[0]], strict=True)
    halves = [mean(pair, runs / "mean.safetensors") for pair in pairs]
    rows.append({"task": task, "prompt": "half of a seed, half of the next", "test": halves})
    whole = mean(new, runs / "mean.safetensors")
    rows.append({"task": task, "prompt": f"mean of all {seeds} seeds", "test": [whole]})
    continued = [tested(trained(task, seed, runs, sources[seed])) for seed in range(seeds)]
    rows.append({"task": task, "prompt": f"continued from {other}", "test": continued})
    for row in rows:
        test = row["test"]
        assert isinstance(test, list)
        row["mean"] = statistics.mean(test)
        if len(test) == seeds and row["prompt"] != "new":
            interval = ttest_rel(test, alone).confidence_interval(0.95)
            row["gain"] = [row["mean"] - statistics.mean(alone), float(interval.low), float(interval.high)]
    return rows


def trained(task: str, seed: int, runs: Path, source: Path | None = None) -> Path:
    """The artifact of a run, trained now unless it is there."""
    name = f"{task}-{seed}{'-continued' if source else ''}"
    path = runs / name / "artifact.safetensors"
    if not (runs / name / "metrics.json").exists():
        more = [f"train.prompt_from={source}"] if source else []
        names = [
            f"data={task}",
            f"data.shots={TASKS[task]}",
            f"name={name}",
            f"out={runs}",
            f"train.seed={seed}",
            *more,
        ]
        if (runs / name).exists():
            vpt.resume(runs / name, console=QUIET)
        else:
            vpt.train(vpt.load_config(overrides=[*SETTINGS, *HERE, *names]), QUIET)
        print("trained", name, flush=True)
    return path


def mean(paths: Sequence[Path], target: Path) -> float:
    """Accuracy of the mean of artifacts on the test images."""
    target.unlink(missing_ok=True)
    return float(vpt.evaluate(vpt.average(paths, target), "test", console=QUIET)["accuracy"])


def tested(path: Path) -> float:
    """Accuracy of a run on the test images."""
    return float(read_artifact(path).metrics["test"]["accuracy"])


if __name__ == "__main__":
    main()
