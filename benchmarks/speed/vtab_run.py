"""A training of the size of a VTAB-1k task, end to end: 1,000 photos, 100 epochs, ViT-B/16, 50 deep tokens, 224 px.

    python -m benchmarks.speed.vtab_run                                # on a GPU
    python -m benchmarks.speed.vtab_run --model vpt_nano --images 40 --epochs 2 --tokens 5 --out /tmp/dry.json   # dry

The photos are drawn, not downloaded: JPEG files of 500 x 375 pixels in 10 class folders, so that checking, decoding and
augmenting cost what they cost on real ones. Weights are random, for speed does not depend on them; accuracy is of no
account here. The clock runs from the start of a fresh Python process to its end: imports, checking the files, training,
validation of no images (all 1,000 train, as in VTAB-1k's final runs), artifact written. Results go to
benchmarks/results/vtab-sized-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.utils.atomic_io import write_json
from vpt.utils.device import pick_device

CLASSES = 10
SIZE = (500, 375)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--profile", action="store_true", help="also sample where the time goes (speed/sampled.py)")
    parser.add_argument("words", nargs="*", metavar="key=value", help="more settings, as in train.precision=fp32")
    options = parser.parse_args(words)
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as place:
        photos = draw(Path(place) / "photos", options.images)
        words = settings(options, photos, Path(place) / "runs")
        samples = Path(place) / "samples.json"
        program = ["benchmarks.speed.sampled", str(samples)] if options.profile else ["vpt"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", *program, "train", *words], check=True)
        seconds = time.perf_counter() - started
        metrics = json.loads((Path(place) / "runs" / "run" / "metrics.json").read_text(encoding="utf-8"))
        profile = {"profile": json.loads(samples.read_text(encoding="utf-8"))} if options.profile else {}
    shown = [word for word in words if not word.startswith(("data=", "out=", "name="))]
    result = {
        "machine": machine(device),
        "images": options.images,
        "epochs": options.epochs,
        "settings": shown,
        "seconds_end_to_end": seconds,
        "seconds_training": metrics["seconds"],
        "images_per_second": options.images * options.epochs / metrics["seconds"],
        "learning": metrics["parameters"]["learning"],
        "artifact_bytes": metrics["artifact_bytes"],
        **profile,
    }
    out = options.out or RESULTS / f"vtab-sized-{device.type}.json"
    write_json(out, result)
    print(f"{seconds:.1f} s end to end, {metrics['seconds']:.1f} s of it training; written to {out}")


def settings(options: argparse.Namespace, photos: Path, out: Path) -> list[str]:
    """The words of the one command that is timed."""
    return [
        f"data={photos}",
        f"out={out}",
        "name=run",
        f"backbone={options.model}",
        *([] if options.model == "vpt_nano" else ["backbone.pretrained=false"]),
        "prompt=deep",
        f"prompt.tokens={options.tokens}",
        f"train.epochs={options.epochs}",
        f"train.batch_size={options.batch}",
        f"train.device={options.device}",
        "train.keep=last",
        "data.join_val=true",
        "data.augment=light",
        "data.cache=true",
        *options.words,
    ]


def draw(folder: Path, images: int) -> Path:
    """Photos in class folders: soft colours with noise, so that JPEG has something to do."""
    for label in range(min(CLASSES, images)):
        (folder / f"class{label}").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(photo, (folder / f"class{n % CLASSES}" / f"{n}.jpg" for n in range(images)), chunksize=16))
    return folder


def photo(path: Path) -> None:
    """One photo, drawn from its number."""
    chance = np.random.default_rng(int(path.stem))
    width, height = SIZE
    coarse = Image.fromarray(chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SIZE)
    noise = chance.integers(-12, 13, (height, width, 3))
    Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(path, quality=90)


if __name__ == "__main__":
    main()
