"""A training step of a task with and without deep prompts: detection, or any other task that vpt knows.

    python -m benchmarks.speed.task_step --task detection --backbone vit_base_patch16_224 --batch 8

The images are blank, with one object each, of the task's usual size; the backbone's weights are random. Forward,
backward and AdamW, without data loading. Results go to benchmarks/results/step-<task>-<device>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from benchmarks.speed.steps import alternate
from benchmarks.speed.variants import Step
from vpt.config import load_config
from vpt.config.tasks import TASKS
from vpt.training.parallelize import prepare_for_training
from vpt.training.tasks import task_of
from vpt.utils.atomic_io import write_json
from vpt.utils.device import autocast, pick_device

VARIANTS = {"head only": "prompt=none", "deep": "prompt=deep"}
CLASSES = ["cat", "dog", "owl"]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="detection")
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--joules-s", type=float, default=0.5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.set_defaults(memory=True)
    options = parser.parse_args(words)
    device = pick_device(options.device)
    out = options.out or RESULTS / f"step-{options.task}-{device.type}.json"
    given = {key: getattr(options, key) for key in ("task", "backbone", "tokens", "batch", "precision", "rounds")}
    if options.task not in TASKS:
        write_json(out, {**given, "not_measured": f"vpt has no task {options.task}"})
        return
    steps = {name: step(word, options, device) for name, word in VARIANTS.items()}
    write_json(out, {"machine": machine(device), **given, "training": alternate(steps, options, device, eager=True)})


def step(prompt: str, options: argparse.Namespace, device: torch.device) -> Step:
    """A training step of one variant."""
    words = [f"task={options.task}", f"backbone={options.backbone}", "backbone.pretrained=false", prompt]
    words += [f"prompt.tokens={options.tokens}"] if prompt != "prompt=none" else []
    config = load_config(overrides=words)
    task = task_of(config)
    model = task.build(config, CLASSES)
    prepare_for_training(model, config.train, device, options.precision)
    context = autocast(options.precision, device)
    optimizer = torch.optim.AdamW([parameter for _, _, parameter in model.trainable()], lr=1e-6)

    def run() -> Tensor:
        with context():
            loss = task.trial(model, options.batch, device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return Step(run, partial(run))


if __name__ == "__main__":
    main()
