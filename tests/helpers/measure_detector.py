"""Measures a detector with random weights; under torchrun, in several processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.helpers.runs import QUIET
from vpt.config import load_config
from vpt.training.context import prepare
from vpt.training.tasks.detection import Detection
from vpt.utils.distributed import is_first, joined, ranks

WORDS = ["task=detection", "backbone=vpt_nano", "head.scales=[1.0]", "head.size=32", "head.longest=3"]
WORDS += ["head.boxes=20", "prompt.tokens=2", "data.workers=0", "train.device=cpu", "train.precision=fp32"]


def measured(words: list[str], out: Path) -> dict[str, Any]:
    """Metrics on validation images; predicted boxes go to `out`, where this is the process that writes."""
    task = Detection()
    setting = prepare(load_config(overrides=[*WORDS, *words]), task.load, QUIET)
    model = task.build(setting.config, setting.data.classes)
    usual, seen = model.detect, []  # type: ignore[union-attr]

    def watched(images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        seen.append(len(images))
        return usual(images)

    model.detect = watched  # type: ignore[method-assign,assignment]
    found = task.measure(model, setting, setting.data.val, "val", out if is_first() else None)
    (out / f"seen-{ranks().rank}.json").write_text(json.dumps(seen))
    return found


if __name__ == "__main__":
    with joined():
        for number, words in enumerate(json.loads(sys.argv[1])):
            folder = Path(sys.argv[2]) / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            found = measured(words, folder)
            (folder / f"metrics-{ranks().rank}.json").write_text(json.dumps(found))
