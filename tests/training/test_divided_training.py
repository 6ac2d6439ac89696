"""Classifiers, detectors and segmenters, trained in two processes, equal one process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from safetensors.torch import load_file

import vpt
from tests.helpers.clip_models import register_tiny
from tests.helpers.coco_folder import coco, picture
from tests.helpers.mask_runs import squares
from tests.helpers.runs import QUIET
from tests.helpers.torchrun import WORDS, torchrun
from vpt.config import load_config
from vpt.utils.run_log import read_rows

CLIP = ["backbone=open_clip:tiny-divided", "backbone.pretrained=false", "data.augment=none"]
BOXES = ["task=detection", "train.optimizer=sgd", "data.augment=light", "data.val_fraction=0.25", "train.batch_size=4"]
NANO = [*BOXES, "head.scales=[1.0]", "head.size=32", "head.longest=3", "head.boxes=20", "prompt.tokens=2"]
SHARDED = ["train.shard=true", "train.epochs=1"]

# 30 images in batches of 29: the last batch has one, and a process without any keeps pace.
MASKS = [
    "task=segmentation",
    "train.precision=fp32",
    "train.optimizer=sgd",
    "train.batch_size=4",
    "head.size=32",
    "prompt.tokens=2",
]

CLASSIFIERS = {
    "deep": [*SHARDED, "train.batch_size=29"],
    # A last batch of two images, one for each process, and the layers below the prompts computed once.
    "last layers": ["train.batch_size=7", "prompt.layers=last:2", "data.views=1"],
    "low precision": [*SHARDED, "train.batch_size=29", "backbone.dtype=bf16", "prompt=bpt"],
    "trainable layers": [*SHARDED, "train.recompute=true", "train.accumulate=2", "prompt=none", "tuning=lora"],
    "both towers": [*SHARDED, *CLIP, "train.batch_size=29", "prompt=maple", "prompt.depth=2", "head=zeroshot"],
    "two branches": [*SHARDED, "prompt=sa2vp", "prompt.dropout=0", "train.batch_size=29"],
    "two losses": [*SHARDED, *CLIP, "prompt=promptsrc", "prompt.depth=2", "prompt.text_depth=2", "head=zeroshot"],
}
# Nine images of different sizes in batches of four: the last batch has one.
DETECTORS = {
    "fcos": [*NANO, "head=fcos"],
    "retinanet": [*NANO, "head=retinanet"],
    # Of at most 256 anchors an image, all are used; among more, each process would draw its own.
    "faster_rcnn": [*NANO, "head=faster_rcnn", "head.longest=2", "train.epochs=1"],
    "parts": [*NANO, "head=fcos", "train.accumulate=2", "train.epochs=1"],
    "sharded": [*NANO, *SHARDED, "head=fcos"],
    "owl": [*BOXES, *CLIP, *SHARDED, "head=owl", "head.size=32", "head.boxes=20", "prompt.tokens=2"],
    "native": [
        *(*BOXES, "backbone=torchvision:ssdlite320_mobilenet_v3_large", "backbone.pretrained=false", "head=native"),
        *("head.size=64", "prompt=pixel", "prompt.size=8", "train.epochs=1"),
    ],
}

# Nine images in batches of four: the last batch has one. Dropout would differ between processes.
SEGMENTERS = {
    "fpn, dice": [*MASKS, "head.dropout=0", "head.loss=[cross_entropy,dice,focal]", "data.augment=light"],
    "batch norm": [*MASKS, "head=linear_segmentation", "data.augment=none", "train.class_weights=balanced"],
    "parts of batches": [*MASKS, "head.dropout=0", "train.accumulate=2", "head.loss=[cross_entropy]"],
}


def annotated(folder: Path) -> Path:
    """Images of different sizes with none to three boxes, so that processes get different numbers of them."""
    sizes = [(30 + 7 * number, 90 - 5 * number) for number in range(12)]

    def change(tree: dict[str, Any]) -> None:
        for image, (width, height) in zip(tree["images"], sizes, strict=True):
            image.update(width=width, height=height)
        boxes = tree["annotations"]
        tree["annotations"] = [box for box in boxes if box["image_id"] % 4 or box["category_id"] == 7]
        tree["annotations"] += [{**box, "id": 1000 + box["id"], "bbox": [1, 1, 25, 28]} for box in boxes[8:11]]

    data = coco(folder, 12, change).parent.parent
    for number, size in enumerate(sizes):
        picture(data / "images" / f"{number}.png", size)
    return data


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The folder of all runs in two processes, started only once for all workers of xdist, and the words of each."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "divided"
    register_tiny(tmp_path_factory.mktemp("tiny"), "tiny-divided", 2)
    with FileLock(f"{folder}.lock"):
        ready = (folder / "done").exists()
        folder.mkdir(exist_ok=True)
        boxes = [f"data={folder / 'boxes' if ready else annotated(folder / 'boxes')}", "data.shots=null"]
        masks = f"data={folder / 'masks' if ready else squares(folder / 'masks', 13)}"
        cases = {name: [*WORDS, *words] for name, words in CLASSIFIERS.items()}
        cases |= {name: [*WORDS, *boxes, *words] for name, words in DETECTORS.items()}
        cases |= {name: [*WORDS, "data.shots=null", masks, *words] for name, words in SEGMENTERS.items()}
        if not ready:
            register_tiny(folder, "tiny-divided", 2)
            two = [[*words, f"out={folder / 'two' / name}"] for name, words in cases.items()]
            done = torchrun("-m", "tests.helpers.train_runs", str(folder), json.dumps(two))
            assert done.returncode == 0, done.stdout + done.stderr[-3000:]
            (folder / "done").touch()
    return folder, cases


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLASSIFIERS, *DETECTORS, *SEGMENTERS])
def test_two_processes_equal_one(runs: tuple[Path, dict[str, list[str]]], name: str):
    folder, cases = runs
    vpt.train(load_config(overrides=[*cases[name], f"out={folder / 'one' / name}"]), QUIET)
    one, two = (folder / side / name / "run" for side in ("one", "two"))
    losses = [[row["loss"] for row in read_rows(side) if row["kind"] == "step"] for side in (one, two)]
    exact = name != "low precision"
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5 if exact else 1e-2)
    mine, theirs = (load_file(side / "artifact.safetensors") for side in (two, one))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items() if exact else ():
        np.testing.assert_allclose(value, theirs[key], rtol=1e-4, atol=1e-5, err_msg=key)
    metrics = [json.loads((side / "metrics.json").read_text()) for side in (one, two)]
    assert metrics[0]["parameters"] == metrics[1]["parameters"]
    if name in DETECTORS:
        assert metrics[0]["val"]["map"] == pytest.approx(metrics[1]["val"]["map"], abs=1e-5)
        assert (two / "val_predictions.jpg").is_file()
    if name in SEGMENTERS:
        for split in ("val", "test"):
            assert metrics[0][split]["miou"] == pytest.approx(metrics[1][split]["miou"], abs=1e-5)
            rows = [json.loads((side / f"predictions-{split}.json").read_text()) for side in (one, two)]
            assert [row["image"] for row in rows[0]] == [row["image"] for row in rows[1]]
