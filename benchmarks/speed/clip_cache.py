"""CoOp on image features that are computed once, against CoOp that computes them in every step.

    python -m benchmarks.speed.clip_cache  # open_clip:ViT-B-16; with random weights
    python -m benchmarks.speed.clip_cache --backbone open_clip:ViT-B-32 --classes 100

The same data, batches and steps; one has data.augment=none, so that features can be computed once, the other a crop of
its own in each epoch. Both read decoded images from memory. Reported is the median time of an epoch, and what computing
the features once takes. Results go to benchmarks/results/clip-cache.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.config import load_config
from vpt.training.run import train
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console

WAYS = {"features once": "data.augment=none", "features in every step": "data.augment=light"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="open_clip:ViT-B-16")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        data = images(Path(place, "data"), options.classes, options.shots)
        for number, (way, word) in enumerate(WAYS.items()):
            words = [f"backbone={options.backbone}", "backbone.pretrained=false", f"data={data}", word]
            words += ["prompt=coop", "head=zeroshot", "data.cache=true", "data.workers=0", "train.eval_every=1000"]
            words += [
                f"train.epochs={options.epochs}",
                f"train.device={options.device}",
                f"out={place}",
                f"name=way{number}",
            ]
            train(load_config(overrides=words), Console(quiet=True))
            rows = [json.loads(line) for line in Path(place, f"way{number}", "log.jsonl").read_text().splitlines()]
            times[way] = [row["seconds"] for row in rows if row["kind"] == "epoch"]
    medians = {way: statistics.median(each) for way, each in times.items()}
    once, every = medians.values()
    result = {
        "machine": machine(torch.device(options.device)),
        "backbone": options.backbone,
        "classes": options.classes,
        "images": options.classes * options.shots,
        "seconds_per_epoch": medians,
        "speedup": every / once,
    }
    write_json(RESULTS / "clip-cache.json", result)
    print(result)


def images(root: Path, classes: int, shots: int) -> Path:
    """A folder of classes with pictures of chance at 224 pixels."""
    chance = np.random.default_rng(0)
    for split, count in (("train", shots), ("val", 1)):
        for label in range(classes):
            folder = root / split / f"kind {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(0, 256, (224, 224, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root


if __name__ == "__main__":
    main()
