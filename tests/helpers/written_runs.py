"""Run folders written by hand, for reports: no training, no data, any number of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from vpt.config import load_config
from vpt.metrics.classification import classification_metrics
from vpt.metrics.predictions import answers_of, write_answers


def write_run(folder: Path, classes: int, images: int, seed: int = 0, epochs: int = 3) -> Path:
    """A finished classification run of that many classes with long names."""
    chance = np.random.default_rng(seed)
    names = [f"a class with a rather long name, number {number}" for number in range(classes)]
    labels = np.random.default_rng(0).integers(0, classes, images)
    logits = chance.normal(size=(images, classes)) + 2.5 * np.eye(classes)[labels]
    folder.mkdir(parents=True)
    config = load_config(overrides=["data=/no/such/folder", f"name={folder.name}"]).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    answers = answers_of([f"{'very-' * 12}long-name-{at}.jpg" for at in range(images)], logits, labels, names)
    write_answers(folder / "predictions-test.csv", answers)
    metrics = {
        "best_epoch": 2,
        "epochs": epochs,
        "prompt": "deep",
        "tuning": "frozen",
        "seconds": 12.5,
        "peak_bytes": 123_000_000,
        "joules": 7200.0,
        "device": "a machine",
        "precision": "fp32",
        "parameters": {"learning": 10, "total": 1000},
        "artifact_bytes": 4096,
        "data": "written by hand",
        "test": classification_metrics(logits, labels, classes=names),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [{"kind": "step", "step": at, "loss": 1 / at, "lr": {"head": 0.1}} for at in range(1, 5 * epochs + 1)]
    for epoch in range(1, epochs + 1):
        row = {"train_loss": 1 / epoch, "val_loss": 2 / epoch, "val_accuracy": 1 - 1 / (epoch + 1), "seconds": 2.0}
        rows.append({"kind": "epoch", "step": 5 * epoch, "epoch": epoch, **row})
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
