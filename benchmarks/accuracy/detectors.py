"""Which of torchvision's detectors is the default: on the embedded scenes, by validation; test is not looked at.

    python -m benchmarks.accuracy.detectors                    # three to fifteen core-minutes a run, fifteen runs
    python -m benchmarks.accuracy.detectors --heads retinanet

Each gets three rates with one seed, and two more seeds at the best of them. Writes
benchmarks/results/detectors.json, a head as soon as it is measured. Runs that are already finished are only read.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.box_learning_rates import HEADS, RATE, SHARED
from benchmarks.accuracy.train_and_measure import trained
from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console

FILE = RESULTS / "detectors.json"
DETECTORS = ("fcos", "retinanet", "faster_rcnn")
SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument("--runs", type=Path, default=Path("runs/detectors"))
    options = parser.parse_args()
    for head in options.heads:
        row = measured(head, options.runs)
        others = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
        found = sorted([row, *(other for other in others if other["head"] != head)], key=_place)
        write_json(FILE, {"settings": SHARED, "machine": machine(torch.device("cpu")), "rows": found})
        print(head, row["chosen"], row["val"], flush=True)


def measured(head: str, runs: Path) -> dict[str, Any]:
    """What a detector of torchvision reaches on validation at its best rate, and what an epoch of it takes."""

    def run(rate: float, seed: int) -> dict[str, Any]:
        words = [*SHARED, f"head={head}", "data.cache=true", "prompt=none", f"{RATE}.head={rate}", f"train.seed={seed}"]
        return trained(words, runs / f"{head}-{rate}-seed{seed}", Console(quiet=True)).metrics

    tried = {rate: run(rate, 0) for rate in HEADS[1:]}
    best = max(tried, key=lambda rate: float(tried[rate]["val"]["map"]))
    seeds = [tried[best], *(run(best, seed) for seed in range(1, SEEDS))]
    return {
        "head": head,
        "searched": {f"head={rate}": found["val"]["map"] for rate, found in tried.items()},
        "chosen": f"head={best}",
        "val": {key: [found["val"][key] for found in seeds] for key in ("map", "map50")},
        "learning": tried[best]["parameters"]["learning"],
        "seconds_per_epoch": statistics.median(found["seconds"] / found["epochs"] for found in seeds),
    }


def _place(row: dict[str, Any]) -> int:
    return DETECTORS.index(row["head"])


if __name__ == "__main__":
    main()
