"""A bank that is asked about the same image for many tasks: layers below the prompts once for the image, or per task.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.shared_trunk

The tasks have prompts in the last layers of vit_small_patch16_224 (random weights) and heads of their own. "shared" is
what `vpt.Bank` does; in "per task" it passes every image through all layers for each task, all tasks in one batch.
The two take turns. Decoding is left out. Results go to benchmarks/results/shared-trunk.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch

import vpt
from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from benchmarks.speed.bank import check
from vpt.config import load_config
from vpt.models.artifact import save_artifact
from vpt.training.tasks import task_of
from vpt.utils.atomic_io import write_json

GROUPS = "vpt.inference.bank.forward_groups"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, default=RESULTS / "shared-trunk.json")
    options = parser.parse_args()
    words = [f"backbone={options.backbone}", "backbone.pretrained=false", f"prompt.tokens={options.tokens}"]
    words += ["head.init=small"]
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        backbone = task_of(load_config(overrides=words)).backbone(load_config(overrides=words))
        for last in options.layers:
            bank = vpt.Bank(device="cpu", precision=options.precision)
            names = []
            for number in range(options.tasks):
                config = load_config(overrides=[*words, f"prompt.layers=last:{last}", f"train.seed={number}"])
                model = task_of(config).build(config, ["yes", "no"], None if backbone is None else backbone.view())
                names.append(f"{last}-{number}")
                bank.add(
                    names[-1], save_artifact(Path(folder, f"{names[-1]}.safetensors"), model, config, ["yes", "no"])
                )
            size = bank.info(names[0]).image_size
            images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8).expand(len(names), -1, -1, -1)
            times: dict[str, list[float]] = {"shared": [], "per task": []}
            logits = {}
            for turn in range(options.rounds + 1):
                for way, each in times.items():
                    with nullcontext() if way == "shared" else patch(f"{GROUPS}._trunks", lambda *_: {}):
                        started = time.perf_counter()
                        logits[way] = bank.logits(images, names)
                    if turn:  # the first turn warms up
                        each.append(time.perf_counter() - started)
            rate = {way: 1 / statistics.median(each) for way, each in times.items()}
            difference = check(logits["shared"], [row[None] for row in logits["per task"]])
            cases.append({"layers": last, "images_per_second": rate, "largest_difference": difference})
            print(cases[-1], flush=True)
    result = {
        "machine": machine(torch.device("cpu")),
        "backbone": options.backbone,
        "tasks": options.tasks,
        "tokens": options.tokens,
        "precision": options.precision,
        "rounds": options.rounds,
        "cases": cases,
    }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
