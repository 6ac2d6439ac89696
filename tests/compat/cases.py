"""Which artifacts are kept, how each was trained, and the images they are asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NANO = ["data=digits", "data.shots=4", "data.val_shots=2", "prompt.tokens=3"]
SMALL = ["backbone=compat_vit_32", "backbone.pretrained=false", "prompt.tokens=3"]
MAPPED = ["backbone=compat_classifier_32", "backbone.pretrained=false"]
CLIP = ["backbone=open_clip:compat-clip", "head=zeroshot"]
BOXES = ["task=detection", "data.shots=4", "head.size=64", "head.channels=64", "prompt.tokens=3"]
FCOS = [*BOXES, "head=fcos", "head.convs=0", "head.scales=[1]", "head.score=0"]

MASKS = ["task=segmentation", "data.shots=4", "head.size=64", "prompt.tokens=3", *SMALL[:2]]

# Name -> settings beside those of `settings`. Images come from `write_images` where no data is named.
CASES: dict[str, list[str]] = {
    "nano-none": [*NANO[:3], "prompt=none"],
    "nano-shallow": [*NANO, "prompt=shallow"],
    "nano-deep": [*NANO, "prompt=deep"],
    "small-deep-mlp": [*SMALL, "prompt=deep", "head=mlp", "head.hidden=[9,7]", "prompt.project=5"],
    "small-deep-shared": [*SMALL, "prompt=deep", "prompt.shared=true", "prompt.layers=last:2", "head.pool=avg"],
    "small-deep-insert": [*SMALL, "prompt=deep", "prompt.layers=[0]", "prompt.after=insert", "head.pool=cls"],
    "small-deep-drop": [*SMALL, "prompt=deep", "prompt.layers=first:2", "prompt.after=drop"],
    "small-shallow-prompts": [*SMALL, "prompt=shallow", "head.pool=prompts"],
    "small-shallow-all": [*SMALL, "prompt=shallow", "head.pool=all"],
    "small-deep-kmeans": [*SMALL, "prompt=deep", "prompt.init=kmeans"],
    "small-vfpt": [*SMALL, "prompt=vfpt"],
    "small-e2vpt": [*SMALL, "prompt=e2vpt", "prompt.kv_tokens=2"],
    "small-e2vpt-pruned": [*SMALL, "prompt=e2vpt", "prompt.prune_tokens=0.4", "prompt.prune_segments=0.5"],
    "small-cvpt": [*SMALL, "prompt=cvpt"],
    "small-vapt": [*SMALL, "prompt=vapt"],
    "small-gated": [*SMALL, "prompt=gated"],
    "small-bpt": [*SMALL, "prompt=bpt", "prompt.rank=2"],
    "small-bias": [*SMALL[:2], "prompt=none", "tuning=bias"],
    "small-lora": [*SMALL[:2], "prompt=none", "tuning=lora", "tuning.rank=2"],
    "small-lora-deep": [*SMALL, "prompt=deep", "tuning=lora", "tuning.rank=2"],
    "small-full": [*SMALL[:2], "prompt=none", "tuning=full"],
    "small-several-labels": [*SMALL, "prompt=deep", "data=several.csv"],
    "small-pad": [*SMALL[:2], "prompt=pixel", "prompt.size=4"],
    "small-pad-learned": [*SMALL[:2], "prompt=pixel", "prompt.size=4", "prompt.shrink=true", "prompt.learn_scale=true"],
    "small-random-patch": [*SMALL[:2], "prompt=pixel", "prompt.shape=random_patch", "prompt.size=8"],
    "small-full-image": [*SMALL[:2], "prompt=pixel", "prompt.shape=full", "prompt.squash=sigmoid"],
    "mapped-iterative": [*MAPPED, "prompt=pixel", "prompt.size=4", "head=labelmap"],
    "mapped-full": [*MAPPED, "prompt=pixel", "prompt.size=4", "head=labelmap", "head.method=full"],
    "clip-none": [*CLIP, "prompt=none", "tuning=bias"],
    "clip-simple": [*CLIP, "prompt=shallow", "head.templates=simple"],
    "clip-coop": [*CLIP, "prompt=coop", "prompt.tokens=3"],
    "clip-coop-middle": [
        *CLIP,
        "prompt=coop",
        "prompt.tokens=4",
        "prompt.position=middle",
        "prompt.class_specific=true",
    ],
    "clip-cocoop": [*CLIP, "prompt=cocoop"],
    "clip-kgcoop": [*CLIP, "prompt=kgcoop"],
    "clip-ivlp": [*CLIP, "prompt=ivlp", "prompt.depth=2", "prompt.text_depth=2"],
    "clip-maple": [*CLIP, "prompt=maple", "prompt.depth=2"],
    "clip-promptsrc": [*CLIP, "prompt=promptsrc", "prompt.depth=2", "prompt.text_depth=2"],
    "clip-tip": [*CLIP[:1], "head=tip", "prompt=none"],
    "clip-tip-finetuned": [*CLIP[:1], "head=tip", "head.finetune=true", "prompt=none"],
    "boxes-fcos": [*FCOS, *SMALL, "prompt=deep"],
    "boxes-fcos-none": [*(word for word in FCOS if not word.startswith("prompt")), *SMALL[:2], "prompt=none"],
    "boxes-retinanet": [*BOXES, "head=retinanet", "head.scales=[1]", "head.score=0", *SMALL, "prompt=shallow"],
    "boxes-owl": [*BOXES[:3], "head=owl", "backbone=open_clip:compat-clip", "prompt=deep", "prompt.tokens=2"],
}

# The same of tests/compat/0.1-masks, written when segmentation, thresholds and the score of unknown images were new.
LATER: dict[str, list[str]] = {
    "masks-linear": [*MASKS, "head=linear_segmentation", "prompt=deep"],
    "masks-fpn": [*MASKS, "head=fpn_segmentation", "head.channels=16", "prompt=shallow"],
    "masks-query": [*MASKS, "head=query_segmentation", "head.channels=16", "prompt=deep"],
    "small-threshold": [*SMALL, "prompt=deep", "data=several.csv", "metrics.threshold=youden", "metrics.unsure=0.05"],
    "small-unknown": [*SMALL, "prompt=deep", "metrics.unknown=0.1"],
}

# Runs that were stopped after their first epoch, and what they came to when they went on.
STOPPED = ("nano-deep", "small-e2vpt-pruned", "small-lora", "clip-maple", "boxes-fcos")


def settings(name: str, images: Path, weights: Path) -> list[str]:
    """All settings of a case.

    Args:
        name: of the case.
        images: the folder that `write_images` wrote.
        weights: of the CLIP.
    """
    words = [
        "train.epochs=2",
        "train.batch_size=8",
        "train.precision=fp32",
        "data.workers=0",
        "data.augment=light",
        *(CASES | LATER)[name],
    ]
    if "several.csv" in " ".join(words):
        words = [f"data={images / 'several.csv'}" if word == "data=several.csv" else word for word in words]
    elif not any(word.startswith(("data=", "task=")) for word in words):
        words.append(f"data={images / 'classes'}")
    if any("open_clip:" in word for word in words):
        words.append(f"backbone.weights={weights}")
    return words


def pictures() -> list[np.ndarray]:
    """Four images (H, W, 3) uint8 of several sizes."""
    sizes = ((32, 32), (40, 56), (70, 33), (28, 28))
    return [_drawn(height, width, number) for number, (height, width) in enumerate(sizes)]


def _drawn(height: int, width: int, number: int) -> np.ndarray:
    """A light bar or square on a dark ground of stripes, by integers alone."""
    rows, columns = np.mgrid[:height, :width]
    ground = (rows * (3 + number) + columns * (7 - number % 5) + number * 11) % 64
    tall, wide = ((height // 4, width // 2), (height // 2, width // 4), (height // 3, width // 3))[number % 3]
    top, left = (number * 5) % (height - tall), (number * 9) % (width - wide)
    ground[top : top + tall, left : left + wide] += 150
    return np.stack([ground, (ground + 20) % 256, (ground * 2) % 256], axis=-1).astype(np.uint8)


def write_images(folder: Path) -> Path:
    """Three classes of twelve images each in class folders, and a CSV that gives each of them one or two labels."""
    names = ("lying", "standing", "square")
    rows = ["path,label"]
    for split, count in (("train", 8), ("val", 4)):
        for at, name in enumerate(names):
            place = folder / "classes" / split / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                file = place / f"{number}.png"
                Image.fromarray(_drawn(32, 32, 3 * number + at + (100 if split == "val" else 0))).save(file)
                second = f"|{names[(at + 1) % 3]}" if number % 2 else ""
                rows.append(f"classes/{split}/{name}/{number}.png,{name}{second}")
    (folder / "several.csv").write_text("\n".join(rows) + "\n")
    return folder
