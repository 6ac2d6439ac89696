"""The score of the best F1, against a search over all scores."""

from __future__ import annotations

import numpy as np
import torch

from vpt.metrics.best_score import DEFAULT, best_f1, shown_score


def scenes(seed: int, images: int = 12):
    """Predicted and true boxes: some objects are found, some missed, and some boxes are wrong."""
    chance = np.random.default_rng(seed)
    predicted, wanted = [], []
    for _ in range(images):
        true = [(x, 0.0, x + 10.0, 10.0) for x in range(0, 20 * int(chance.integers(0, 5)), 20)]
        labels = chance.integers(0, 2, len(true))
        hit = chance.random(len(true)) < 0.7
        wrong = int(chance.integers(0, 4))
        boxes = [box for box, there in zip(true, hit) if there] + [
            (200.0 + 20 * n, 0.0, 210.0 + 20 * n, 10.0) for n in range(wrong)
        ]
        names = [*labels[hit], *chance.integers(0, 2, wrong)]
        scores = np.round(np.concatenate([chance.uniform(0.3, 1, int(hit.sum())), chance.uniform(0, 0.7, wrong)]), 2)
        predicted.append(
            {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "scores": torch.tensor(scores),
                "labels": torch.tensor(names, dtype=torch.int64),
            }
        )
        wanted.append(
            {
                "boxes": torch.tensor(true).reshape(-1, 4),
                "labels": torch.tensor(labels),
                "iscrowd": torch.zeros(len(true), dtype=torch.int64),
            }
        )
    return predicted, wanted


def f1_above(predicted, wanted, least: float) -> float:
    """Slow and obvious: here a predicted box either equals a true one or overlaps none."""
    right = shown = objects = 0
    for said, true in zip(predicted, wanted, strict=True):
        objects += len(true["labels"])
        truth = {(tuple(box), int(label)) for box, label in zip(true["boxes"].tolist(), true["labels"])}
        for box, score, label in zip(said["boxes"].tolist(), said["scores"], said["labels"]):
            if score >= least:
                shown += 1
                right += (tuple(box), int(label)) in truth
    return 2 * right / (shown + objects)


def test_no_other_score_is_better():
    for seed in range(5):
        predicted, wanted = scenes(seed)
        f1, score = best_f1(predicted, wanted)
        assert abs(f1_above(predicted, wanted, score) - f1) < 1e-12
        assert f1 >= max(f1_above(predicted, wanted, least) for least in np.linspace(0, 1, 101)) - 1e-12


def test_crowds_count_as_nothing():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    crowd = {
        "boxes": torch.tensor([[50.0, 0.0, 150.0, 100.0]]),
        "labels": torch.tensor([0]),
        "iscrowd": torch.tensor([1]),
    }
    there = {
        key: torch.cat([value, crowd[key]])
        for key, value in (("boxes", box), ("labels", torch.tensor([0])), ("iscrowd", torch.tensor([0])))
    }
    inside = torch.tensor([[60.0, 10.0, 70.0, 20.0]])
    said = {"boxes": torch.cat([inside, box]), "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([0, 0])}
    assert best_f1([said], [there]) == (1.0, 0.5)


def test_without_a_right_box_the_default_remains():
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    true = {"boxes": torch.tensor([[0.0, 0.0, 5.0, 5.0]]), "labels": torch.tensor([0]), "iscrowd": torch.tensor([0])}
    assert best_f1([nothing], [true]) == (0.0, DEFAULT)
    assert (
        shown_score({})
        == shown_score({"val": {"best_f1_score": 7.0}})
        == shown_score({"val": {"best_f1_score": float("nan")}})
        == DEFAULT
    )
