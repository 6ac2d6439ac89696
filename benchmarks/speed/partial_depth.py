"""Prompts in the last layers only: the frozen layers below computed once, against in every step.

    python -m benchmarks.speed.partial_depth  # vit_small_patch16_224 with random weights

The same images, batches and steps; both without augmentation. The two take turns, and the medians of an epoch are
compared. Results go to benchmarks/results/partial-depth.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from benchmarks.speed.clip_cache import images
from vpt.config import load_config
from vpt.training.run import train
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.device import pick_device, pick_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3, 6, 9])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    cases = []
    with tempfile.TemporaryDirectory() as place:
        data = images(Path(place, "data"), 4, options.images // 4)
        for last in options.layers:
            times: dict[str, list[float]] = defaultdict(list)
            for turn in range(options.rounds):
                for way in ("once", "every step"):
                    times[way] += epochs(options, data, Path(place), last, turn, cached=way == "once")
            medians = {way: statistics.median(each) for way, each in times.items()}
            speedup = medians["every step"] / medians["once"]
            cases.append({"prompted": last, "seconds_per_epoch": medians, "speedup": speedup})
            print(cases[-1], flush=True)
    result = {
        "machine": machine(device),
        "precision": pick_precision("auto", device),
        "backbone": options.backbone,
        "depth": options.depth,
        "images": options.images,
        "cases": cases,
    }
    write_json(RESULTS / "partial-depth.json", result)


def epochs(options: argparse.Namespace, data: Path, out: Path, last: int, turn: int, cached: bool) -> list[float]:
    """Seconds of each epoch of a run, without its validation."""
    words = [f"backbone={options.backbone}", "backbone.pretrained=false", f"data={data}", "head.init=small"]
    words += [f"prompt.layers=last:{last}", "data.augment=none", "data.cache=true", "data.workers=0"]
    words += ["train.epochs=2", "train.eval_every=1000", "train.batch_size=16", f"train.device={options.device}"]
    name = f"{last}-{turn}-{cached}"
    config = load_config(overrides=[*words, f"out={out}", f"name={name}"])
    if cached:
        train(config, Console(quiet=True))
    else:
        with patch("vpt.training.tasks.pooled.frozen_part", lambda *_: None):
            train(config, Console(quiet=True))
    rows = [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
    return [row["seconds"] for row in rows if row["kind"] == "epoch"]


if __name__ == "__main__":
    main()
