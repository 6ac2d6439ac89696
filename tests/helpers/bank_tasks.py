"""Artifacts of small tasks for banks and servers."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.helpers.registered_nets import register
from vpt.config import load_config
from vpt.models.artifact import save_artifact
from vpt.training.tasks import task_of

KINDS: dict[str, list[str]] = {
    "deep": ["prompt=deep", "prompt.tokens=3"],
    "deep-longer": ["prompt=deep", "prompt.tokens=7"],
    "deep-part": ["prompt=deep", "prompt.layers=first:2", "prompt.tokens=3"],
    "deep-mlp": ["prompt=deep", "prompt.tokens=3", "head=mlp", "head.hidden=[8]"],
    "shallow": ["prompt=shallow", "prompt.tokens=4"],
    "shallow-longer": ["prompt=shallow", "prompt.tokens=5"],
    "probe": ["prompt=none"],
    "vfpt": ["prompt=vfpt", "prompt.tokens=4"],
    "e2vpt": ["prompt=e2vpt", "prompt.tokens=3"],
    "cvpt": ["prompt=cvpt", "prompt.tokens=3"],
    "vapt": ["prompt=vapt", "prompt.tokens=3"],
    "gated": ["prompt=gated", "prompt.tokens=4"],
    "bpt": ["prompt=bpt", "prompt.tokens=4", "prompt.rank=2"],
    "davpt": ["prompt=davpt", "prompt.tokens=3", "prompt.value_bias=true"],
    "davpt-longer": ["prompt=davpt", "prompt.tokens=7", "prompt.value_bias=true"],
    "vqt": ["prompt=vqt", "prompt.tokens=2"],
    "vqt-mlp": ["prompt=vqt", "prompt.tokens=2", "head=mlp", "head.hidden=[8]"],
    "provpt": ["prompt=provpt", "prompt.tokens=3"],
    "tcpa": ["prompt=tcpa", "prompt.tokens=4", "prompt.class_tokens=3", "prompt.chosen=2"],
    "viapt": ["prompt=viapt", "prompt.tokens=2", "prompt.instance_tokens=2", "prompt.width=8"],
    "ship": ["prompt=ship", "prompt.tokens=2", "prompt.shared_tokens=2", "prompt.centres=4"],
    "sa2vp": ["prompt=sa2vp", "prompt.rank=2", "prompt.every=2"],
    "adapter": ["prompt=adapter", "prompt.rank=3"],
    "adapter-mlp": ["prompt=adapter", "prompt.rank=3", "head=mlp", "head.hidden=[8]"],
    "adapter-after": ["prompt=adapter", "prompt.rank=3", "prompt.place=after"],
    "lora": ["prompt=none", "tuning=lora", "tuning.rank=2"],
    "lora-mlp": ["prompt=none", "tuning=lora", "tuning.rank=2", "head=mlp", "head.hidden=[8]"],
    "lora-everywhere": ["prompt=none", "tuning=lora", "tuning.rank=3", "tuning.targets=[qkv,proj,fc1,fc2]"],
    "lora-deep": ["prompt=deep", "prompt.tokens=5", "tuning=lora", "tuning.rank=2"],
    "lora-last": ["prompt=deep", "prompt.layers=last:1", "prompt.tokens=2", "tuning=lora", "tuning.rank=2"],
    "lora-shallow": ["prompt=shallow", "prompt.tokens=4", "tuning=lora", "tuning.targets=[qkv]"],
    "lora-small": ["prompt=none", "tuning=lora", "tuning.rank=2", "backbone.image_size=32"],
    "bias": ["prompt=none", "tuning=bias"],
    "bias-deep": ["prompt=deep", "prompt.tokens=3", "tuning=bias"],
    "bias-pixels": ["prompt=pixel", "prompt.size=8", "tuning=bias"],
    "pixels": ["prompt=pixel", "prompt.size=8"],
    "pixels-lowrank": ["prompt=pixel", "prompt.shape=lowrank"],
    "pixels-shrunk": ["prompt=pixel", "prompt.size=8", "prompt.shrink=true"],
    "small": ["prompt=deep", "prompt.tokens=3", "backbone.image_size=32"],
    "small-probe": ["prompt=none", "backbone.image_size=48"],
    "plain-pixels": ["prompt=deep", "prompt.tokens=3", "backbone.normalise=none"],
    "plain-pixels-probe": ["prompt=none", "backbone.normalise=imagenet"],
    "pooled": ["prompt=deep", "prompt.tokens=3", "head.pool=avg"],
    "mean-first": ["prompt=deep", "prompt.tokens=3", "head.pool=mean_then_norm"],
    "mean-first-longer": ["prompt=shallow", "prompt.tokens=5", "head.pool=mean_then_norm"],
    "boxes": ["task=detection", "prompt.tokens=2", "head.size=64", "head.score=0.001"],
    "lora-boxes": ["task=detection", "prompt.tokens=2", "head.size=64", "head.score=0.001", "tuning=lora"],
    "bias-masks": ["task=segmentation", "prompt.tokens=2", "head.size=64", "head.channels=16", "tuning=bias"],
    "masks": ["task=segmentation", "prompt.tokens=2", "head.size=64", "head.channels=16"],
}


def make(folder: Path, name: str, seed: int = 0, *words: str) -> Path:
    """An artifact with scrambled weights."""
    config = load_config(overrides=["backbone=vpt_nano", *KINDS.get(name, []), f"train.seed={seed}", *words])
    classes = [f"{name} {number}" for number in range(2 + seed % 3)]
    model = task_of(config).build(config, classes)
    torch.manual_seed(seed + 100)
    with torch.no_grad():
        for part, _, parameter in model.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
            del part
    return save_artifact(folder / f"{name}-{seed}.safetensors", model, config, classes)


def clip_words(folder: Path, kind: str) -> list[str]:
    """Settings that choose a small CLIP with an image tower of this kind, and a file of its weights."""
    backbone, weights = register(folder, kind)
    return [f"backbone={backbone}", f"backbone.weights={weights}", "head=linear"]
