"""A bank of many tasks against one task and against task by task, in one process and by turns.

    python -m benchmarks.speed.bank
    python -m benchmarks.speed.bank --backbone vit_small_patch16_224 --weights ../shared/weights/FILE --tasks 64
    python -m benchmarks.speed.bank --backbone vit_tiny_patch16_224 --random --lora 8 --own 4 --rounds 5

Each task has deep prompts of its own length and a head of its own; with --lora every second one has low-rank changes of
the backbone instead of prompts. "One task" is the whole batch of a single task, with --lora the mean time of one of
either kind; "mixed" is a batch in which every image belongs to another task; "task by task" asks for the same images a
task at a time; "own models" the same with a separate model a task, as one would without a bank. Decoding is left
out. Results go to benchmarks/results/bank-<device>.json, with --lora to bank-lora-<device>.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import torch

import vpt
from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.config import load_config
from vpt.models.artifact import save_artifact
from vpt.training.tasks import task_of
from vpt.utils.atomic_io import write_json
from vpt.utils.device import pick_device


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vpt_nano")
    parser.add_argument("--weights", help="file of the backbone's weights")
    parser.add_argument("--random", action="store_true", help="a backbone with random weights")
    parser.add_argument("--lora", type=int, metavar="RANK", help="tune every second task by LoRA of this rank")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--tokens", type=int, nargs=2, default=(5, 20), help="shortest and longest prompt")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, help="images; default: one a task")
    parser.add_argument("--own", type=int, help="tasks whose own models are loaded to compare with; default: all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = make(options, Path(folder))
        bank = vpt.Bank(device=str(device))
        for name, path in artifacts.items():
            bank.add(name, path)
        batch = options.batch or len(artifacts)
        names = [name for _, name in zip(range(batch), cycle(artifacts))]
        size = bank.info(names[0]).image_size
        images = torch.randint(0, 256, (len(names), 3, size, size), dtype=torch.uint8)
        own = {name: vpt.load(artifacts[name], device=str(device)) for name in [*artifacts][: options.own]}

        def by_task() -> None:
            for row, name in enumerate(names):
                bank.logits(images[row : row + 1], [name])

        def by_model() -> None:
            for row, name in enumerate(names):
                own[name]._forward(images[row : row + 1].to(device)).float().cpu()

        ways: dict[str, Callable[[], object]] = {
            "one task": lambda: bank.logits(images, [names[0]] * len(names)),
            "mixed": lambda: bank.logits(images, names),
            **({"one LoRA task": lambda: bank.logits(images, [names[1]] * len(names))} if options.lora else {}),
            "task by task": by_task,
            **({"own models": by_model} if len(own) == len(artifacts) else {}),
        }
        with torch.inference_mode():
            seen = range(min(len(own), batch))
            alone = [own[names[row]]._forward(images[row : row + 1].to(device)) for row in seen]
            difference = check([bank.logits(images, names)[row] for row in seen], alone)
            times = measure(ways, options.rounds, device)
    if options.lora:
        times["one prompted task"] = times["one task"]
        pairs = zip(times["one task"], times["one LoRA task"], strict=True)
        times["one task"] = [(one + other) / 2 for one, other in pairs]
    rate = {way: len(names) / statistics.median(each) for way, each in times.items()}
    result = {
        "machine": machine(device),
        "backbone": options.backbone,
        "tasks": len(artifacts),
        "batch": batch,
        "tokens": list(options.tokens),
        "rounds": options.rounds,
        "lora": options.lora,
        "images_per_second": rate,
        "mixed_over_one_task": rate["mixed"] / rate["one task"],
        "mixed_over_task_by_task": rate["mixed"] / rate["task by task"],
        "mixed_over_own_models": rate["mixed"] / rate["own models"] if "own models" in rate else None,
        "bytes_of_a_task": statistics.median(bank.info(name).bytes for name in names),
        "largest_difference": difference,
    }
    write_json(options.out or RESULTS / f"bank-{'lora-' if options.lora else ''}{device.type}.json", result)
    print(result)


def make(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Artifacts of tasks with prompts of different lengths and unlike weights."""
    low, high = options.tokens
    artifacts = {}
    words = [f"backbone={options.backbone}"] + ([f"backbone.weights={options.weights}"] if options.weights else [])
    words += ["backbone.pretrained=false"] if options.random else []
    backbone = task_of(load_config(overrides=words)).backbone(load_config(overrides=words))
    for number in range(options.tasks):
        tokens = low + number % (high - low + 1)
        lora = options.lora and number % 2
        own = ["prompt=none", "tuning=lora", f"tuning.rank={options.lora}"] if lora else [f"prompt.tokens={tokens}"]
        config = load_config(overrides=[*words, *own, f"train.seed={number}"])
        classes = [f"class {index}" for index in range(2 + number % 19)]
        shared = backbone and (copy.deepcopy(backbone) if lora else backbone.view())
        model = task_of(config).build(config, classes, shared)
        with torch.no_grad():
            for _, _, parameter in model.trainable():
                parameter.add_((0.02 if lora else 0.1) * torch.randn_like(parameter))
        name = f"task {number}"
        artifacts[name] = save_artifact(folder / f"{name}.safetensors", model, config, classes)
    return artifacts


def check(mixed: list[torch.Tensor], own: list[torch.Tensor]) -> float:
    """The largest difference of scores, relative to the largest score."""
    return max(
        float((mine - theirs.float().cpu()[0]).abs().max() / theirs.abs().max().cpu())
        for mine, theirs in zip(mixed, own, strict=True)
    )


def measure(ways: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way, round by round; the first round is not counted."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            begun = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[way].append(time.perf_counter() - begun)
    return times


if __name__ == "__main__":
    main()
