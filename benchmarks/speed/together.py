"""Runs that train side by side in the same batches, against the same runs one after another.

    python -m benchmarks.speed.together

Four learning rates on one data set, for prompts in all layers, in the last two, and for a head alone under
augmentation. Reported is the median time of an epoch of all four; both ways take turns. Results go to
benchmarks/results/together-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.config import RunConfig, load_config
from vpt.training.multi_run import train_together
from vpt.training.trainer import train
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.device import pick_device
from vpt.utils.run_log import read_rows

KINDS = {
    "deep prompts, all layers": ["prompt=deep"],
    "deep prompts, last two layers": ["prompt=deep", "prompt.layers=last:2"],
    "linear probe, augmented": ["prompt=none"],
}
RATES = (0.001, 0.003, 0.01, 0.03)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vpt_nano")
    parser.add_argument("--shots", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="the others are kept")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    out = RESULTS / f"together-{pick_device(options.device).type}.json"
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    for kind in options.kinds:
        words = KINDS[kind]
        times: dict[str, list[float]] = {"side by side": [], "one after another": []}
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as place:
                configs = [config(options, words, rate, Path(place)) for rate in RATES]
                results = train_together(configs, Console(quiet=True))
                times["side by side"].append(max(epoch_of(result.folder) for result in results))
            with tempfile.TemporaryDirectory() as place:
                configs = [config(options, words, rate, Path(place)) for rate in RATES]
                folders = [train(each, Console(quiet=True)).folder for each in configs]
                times["one after another"].append(sum(epoch_of(folder) for folder in folders))
        medians = {way: statistics.median(each) for way, each in times.items()}
        row = {"kind": kind, "seconds": medians, "speedup": medians["one after another"] / medians["side by side"]}
        rows = [other for other in rows if other["kind"] != kind] + [row]
        rows.sort(key=lambda row: list(KINDS).index(row["kind"]))
        print(row, flush=True)
        device = pick_device(options.device)
        found = {"machine": machine(device), "backbone": options.backbone, "runs": len(RATES), "rounds": options.rounds}
        write_json(out, {**found, "rows": rows})


def config(options: argparse.Namespace, words: list[str], rate: float, out: Path) -> RunConfig:
    shared = [f"backbone={options.backbone}", "data=digits", f"data.shots={options.shots}", "data.augment=light"]
    shared += ["data.cache=true", "data.workers=0", "train.epochs=2", "train.eval_every=100", f"out={out}"]
    shared += [f"train.device={options.device}", f"train.optimizer.lr={rate}", f"name=rate-{rate}"]
    return load_config(overrides=[*shared, *words])


def epoch_of(folder: Path) -> float:
    """Seconds of the first epoch; a last one that is validated counts validation too."""
    return next(float(row["seconds"]) for row in read_rows(folder) if row["kind"] == "epoch")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
