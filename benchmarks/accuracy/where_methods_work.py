"""Where each token prompt can be used, found by trying it on the embedded backbone."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.results_files import rows
from vpt.config import RunConfig, TokenPrompt, load_config
from vpt.config.prompts import PROMPTS
from vpt.models.classifier import backbone_for, build_model
from vpt.models.wrap import wrap
from vpt.prompts.base import TrainingImages
from vpt.prompts.batching import shape_of
from vpt.training.tasks import task_of
from vpt.utils.errors import UserError

# Settings without which a method would not fit six layers of 192 channels.
SMALL = {
    "bpt": ["prompt.tokens=10", "prompt.rank=5"],
    "ship": ["prompt.tokens=4", "prompt.centres=4"],
}


def where() -> str:
    """A line for each token prompt: other tasks, Swin, `vpt.wrap`, and how a bank runs it."""
    kinds = [kind for kind, section in PROMPTS.own.items() if issubclass(section, TokenPrompt)]
    body = [
        [
            f"`prompt={kind}`",
            _word(_builds(kind, "task=detection", "head=fcos") and _builds(kind, "task=segmentation")),
            _word(getattr(PROMPTS.own[kind], "any_widths", False)),
            _word(_wraps(kind)),
            "in one batch" if _batched(kind) else "one by one",
        ]
        for kind in kinds
    ]
    header = ["prompt", "boxes and masks", "Swin transformers", "`vpt.wrap`", "several tasks of a bank"]
    return rows(header, body)


def _word(found: bool) -> str:
    return "yes" if found else ""


def _config(kind: str, *words: str) -> RunConfig:
    return load_config(overrides=[f"prompt={kind}", *SMALL.get(kind, []), *words])


def _builds(kind: str, *words: str) -> bool:
    """Whether a model of another task can be built, and its prompt initialised from images without one label each."""
    try:
        config = _config(kind, *words)
        model = task_of(config).build(config, ["a", "b"])
        if config.prompt.needs_images:
            model.prompt.initialize(config.prompt, TrainingImages(model.backbone, [_images()], [[{}] * 8]))
    except UserError:
        return False
    return True


def _wraps(kind: str) -> bool:
    config = _config(kind)
    pairs = (word.removeprefix("prompt.").split("=") for word in SMALL.get(kind, []))
    settings: dict[str, Any] = {name: int(value) for name, value in pairs}
    if config.prompt.needs_images:
        settings |= {"images": _images(), "labels": torch.arange(8) % 2}
    try:
        wrap(backbone_for(config).net, kind, **settings)
    except UserError:
        return False
    return True


def _images() -> torch.Tensor:
    return torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _batched(kind: str) -> bool:
    config = _config(kind)
    model = build_model(config, backbone_for(config), ["a", "b"])
    shape = shape_of(model.steps, model.constants())
    return not (isinstance(shape, tuple) and shape[-1] == "alone")
