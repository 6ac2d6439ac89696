"""How the learning rates of detection were chosen: on the embedded scenes, by validation; test is not looked at.

    python -m benchmarks.accuracy.box_learning_rates            # about three core-minutes a row

Writes benchmarks/results/boxes-search.json. Runs that are already finished are only read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.accuracy.train_and_measure import trained
from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console

RATE = "train.optimizer.lr"
SHARED = [
    "task=detection",
    "backbone=vpt_nano",
    "data=scenes",
    "head.taps=[1,3,5]",
    "data.augment=light",
    "train.epochs=12",
    "train.eval_every=1000",
    "train.keep=last",
    "train.precision=bf16",
]
HEADS = (1e-4, 2.5e-4, 5e-4, 1e-3)
# What trains -> the settings that are compared.
SEARCH: dict[str, list[list[str]]] = {
    "prompt=none": [[f"{RATE}.head={head}"] for head in HEADS],
    "prompt=deep": [
        *([f"{RATE}.head={head}", f"{RATE}.prompt=0.001"] for head in HEADS[1:]),
        *([f"{RATE}.head=0.0005", f"{RATE}.prompt={prompt}"] for prompt in (3e-4, 3e-3)),
        *([f"{RATE}.head=0.00025", f"{RATE}.prompt={prompt}"] for prompt in (3e-4, 3e-3)),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/boxes"))
    options = parser.parse_args()
    rows = []
    for kind, settings in SEARCH.items():
        for setting in settings:
            name = "-".join([kind, *setting]).replace(f"{RATE}.", "").replace("=", "-")
            words = [*SHARED, "data.cache=true", kind, *setting]
            found = trained(words, options.runs / name, Console(quiet=True)).metrics["val"]
            measured = {key: found[key] for key in ("map", "map50")}
            rows.append({"kind": kind, "setting": setting, "val": measured})
            print(kind, setting, measured, flush=True)
            write_json(
                RESULTS / "boxes-search.json",
                {"settings": SHARED, "machine": machine(torch.device("cpu")), "rows": rows},
            )


if __name__ == "__main__":
    main()
