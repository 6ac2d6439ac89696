"""JPEG decoders beside a training step: which of them holds up a run of ViT-Ti?

    OMP_NUM_THREADS=1 python -m benchmarks.speed.decoding ../shared/data/clothing/train/*/*.jpg

Each decoder reads the file and makes a square of 224 px of it, as for evaluation; the training step has 10 deep prompt
tokens, in bf16 where the CPU computes it natively. All take turns, on one thread. The photos are read at their own size
and, saved anew as JPEG at quality 90, three times as large. "Difference" is the mean absolute difference of the pixels
(0 to 255) from ours. simplejpeg (libjpeg-turbo) is measured if it is installed. Results go to
benchmarks/results/decoding.json.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from benchmarks.speed.variants import Case
from vpt.data.decode import decode
from vpt.data.transforms.classification import EvalTransform
from vpt.utils.atomic_io import write_json
from vpt.utils.device import pick_precision

SQUARE = EvalTransform(224, crop_pct=0.9)


def ours(content: bytes) -> np.ndarray:
    """As every run decodes."""
    return SQUARE.square(decode(content))


def pillow(content: bytes) -> np.ndarray:
    """Pillow without any check."""
    return SQUARE.square(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def pillow_draft(content: bytes) -> np.ndarray:
    """Pillow, scaled down within the decoder (DCT) as far as the square allows."""
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (249, 249))
    return SQUARE.square(np.asarray(image.convert("RGB")))


def torchvision(content: bytes) -> np.ndarray:
    """torchvision's decoder (libjpeg-turbo), then the same resizing."""
    from torchvision.io import ImageReadMode, decode_jpeg

    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return SQUARE.square(decode_jpeg(data, ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy())


def turbo(content: bytes) -> np.ndarray:
    """simplejpeg, then the same resizing."""
    import simplejpeg

    return SQUARE.square(simplejpeg.decode_jpeg(content))


WAYS: dict[str, Callable[[bytes], np.ndarray]] = {
    "vpt (Pillow)": ours,
    "Pillow, no checks": pillow,
    "Pillow, draft mode": pillow_draft,
    "torchvision": torchvision,
    "simplejpeg": turbo,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    photos = random.Random(0).sample(sorted(options.photos), options.images)
    contents = [path.read_bytes() for path in photos]
    precision = pick_precision("auto", torch.device("cpu"))
    case = Case("vit_tiny_patch16_224", 10, options.batch, precision, "eager", torch.device("cpu"))
    step = case.training(["vpt"])["vpt"]
    cases = []
    for size, files in {"own size": contents, "three times as large": [larger(each) for each in contents]}.items():
        ways = {way: partial(all_of, decoder, files) for way, decoder in WAYS.items() if available(way)}
        seconds: dict[str, list[float]] = {way: [] for way in [*ways, "training step"]}
        for turn in range(options.rounds + 1):
            for way, run in {**ways, "training step": step}.items():
                started = time.perf_counter()
                run()
                if turn:  # the first turn warms up
                    seconds[way].append(time.perf_counter() - started)
        counts = {way: options.batch if way == "training step" else len(files) for way in seconds}
        for way, each in seconds.items():
            rate = counts[way] / statistics.median(each)
            gap = [np.abs(WAYS[way](one).astype(int) - ours(one)).mean() for one in files] if way in ways else []
            cases.append({"photos": size, "way": way, "images_per_second": rate})
            cases[-1] |= {"difference": float(np.mean(gap))} if gap else {}
            print(cases[-1], flush=True)
    sides = [min(Image.open(path).size) for path in photos]
    result = {"machine": machine(torch.device("cpu")), "precision": precision, "batch": options.batch}
    result |= {"images": len(contents), "short_side": statistics.median(sides), "rounds": options.rounds}
    write_json(RESULTS / "decoding.json", {**result, "cases": cases})


def all_of(decoder: Callable[[bytes], np.ndarray], files: list[bytes]) -> None:
    """Decode every file."""
    for content in files:
        decoder(content)


def larger(content: bytes) -> bytes:
    """The photo with sides three times as long."""
    image, file = Image.open(io.BytesIO(content)).convert("RGB"), io.BytesIO()
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def available(way: str) -> bool:
    """Whether the decoder is installed."""
    try:
        WAYS[way](larger(_blank()))
    except ImportError:
        return False
    return True


def _blank() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (100, 100)).save(file, "JPEG")
    return file.getvalue()


if __name__ == "__main__":
    main()
