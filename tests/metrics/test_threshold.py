"""Thresholds chosen on validation, and answers by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vpt
from tests.helpers.image_files import save
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.inference.classifier import Classifier
from vpt.inference.evaluate import evaluate
from vpt.metrics.metrics_file import read_metrics
from vpt.metrics.threshold import Decision, Rule, choose_threshold, choose_thresholds, stored_thresholds
from vpt.models.artifact import read_artifact
from vpt.training.run import train


def rates(scores: np.ndarray, truth: np.ndarray, threshold: float) -> tuple[float, float]:
    return float((scores[truth] >= threshold).mean()), float((scores[~truth] < threshold).mean())


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_equal_a_search_over_all(seed: int):
    chance = np.random.default_rng(seed)
    truth = chance.random(50) < 0.4
    scores = np.round(np.clip(chance.random(50) * 0.7 + 0.3 * truth, 0, 1), 2)
    every = [rates(scores, truth, cut) for cut in [*np.unique(scores), 1.1]]

    def at(rule: Rule) -> tuple[float, float]:
        found = choose_threshold(scores, truth, rule, 0.9)
        assert found is not None
        return rates(scores, truth, found)

    assert sum(at("youden")) == pytest.approx(max(map(sum, every)))
    assert at("sensitivity") == max((pair for pair in every if pair[0] >= 0.9), key=lambda pair: pair[::-1])
    assert at("specificity") == max(pair for pair in every if pair[1] >= 0.9)
    assert choose_threshold(scores, np.ones(50, bool)) is None


def test_thresholds_of_labels_and_of_the_artifact():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    found = choose_thresholds(np.array([[0.8, 0.2, 0.5], [0.4, 0.3, 0.1], [0.6, 0.9, 0.2]]), labels)
    assert found == {"threshold_0": 0.5, "threshold_1": 0.25}
    assert stored_thresholds({"val": found}, 3, True) == (0.5, 0.25, 0.5)
    assert choose_thresholds(np.eye(3), np.arange(3)) == {}
    for hostile in ({"val": {"threshold": float("nan")}}, {"val": {"threshold": 7.0}}, {"val": {}}):
        assert stored_thresholds(hostile, 2, False) is None
    decision = Decision((0.5, 0.25, 0.5), None, unsure=0.04)
    assert decision.decide(np.array([0.51, 0.3, 0.2])) == ([1], [0])
    assert Decision((0.2,), 0).decide(np.array([0.1, 0.9])) == ([1], [])


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hard classes of 24 patients with two images each."""
    root = tmp_path_factory.mktemp("clinic")
    chance = np.random.default_rng(0)
    rows = ["path,label,patient"]
    for patient in range(24):
        label = "ill" if patient % 3 == 0 else "healthy"
        for number in range(2):
            level = chance.normal(150 if label == "ill" else 110, 30, (1, 1, 3))
            pixels = np.clip(level + chance.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            save(root / f"P{patient:02d}_{number}.png", pixels)
            rows.append(f"P{patient:02d}_{number}.png,{label},Doe-Jane-{patient}")
    (root / "table.csv").write_text("\n".join(rows))
    return root


def config_of(clinic: Path, out: Path, *words: str):
    common = [f"data={clinic / 'table.csv'}", f"out={out}", *NET, "train.epochs=1", "prompt.tokens=2"]
    fractions = ["data.group=patient", "data.test_fraction=0.3", "data.val_fraction=0.3", "data.positive=ill"]
    return load_config(overrides=[*common, *fractions, *words])


def test_a_run_with_patients(clinic: Path, tmp_path: Path, small_net, capsys: pytest.CaptureFixture[str]):
    run = train(config_of(clinic, tmp_path, "name=run", "metrics.threshold=sensitivity", "metrics.unsure=0.02"), QUIET)
    metrics = read_metrics(run.folder / "metrics.json")
    assert metrics == run.metrics
    test = metrics["test"]
    low, high = test["intervals"]["auroc"]
    assert 0 <= low <= test["auroc"] <= high <= 1
    artifact = read_artifact(run.folder)
    threshold = metrics["val"]["threshold"]
    assert artifact.metrics["val"]["threshold"] == threshold
    # No name of a patient leaves the table.
    for file in run.folder.rglob("*"):
        if file.is_file():
            assert b"Doe-Jane" not in file.read_bytes(), file
    # The same numbers from the artifact, by the same groups.
    again = evaluate(run.folder, "test", (), QUIET)
    assert again["auroc"] == pytest.approx(test["auroc"])
    assert again["intervals"]["auroc"] == pytest.approx(test["intervals"]["auroc"])
    capsys.readouterr()
    assert main(["eval", str(run.folder)]) == 0
    assert f"{test['auroc']:.4f}  (95%: {low:.4f} to {high:.4f})" in capsys.readouterr().out

    predictor = vpt.load(run.folder)
    assert isinstance(predictor, Classifier)
    image = clinic / "P00_0.png"
    place = predictor.classes.index("ill")
    for score, labels, unsure in (
        (min(1, threshold + 0.03), ["ill"], None),
        (threshold - 0.03, ["healthy"], None),
        (threshold + 0.01, [], ["ill"]),
    ):
        scores = torch.tensor([1 - score, score] if place else [score, 1 - score])
        found = predictor.result("a", scores, 1).to_dict()
        assert (found["labels"], found.get("unsure")) == (labels, unsure)
    assert main(["predict", str(run.folder), str(image), "--threshold", "0", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["labels"] == ["ill"]
    assert main(["predict", str(run.folder), str(image), "--threshold", "high"]) == 2
    assert "give a score from 0 to 1, or the word validation" in capsys.readouterr().err


def test_without_a_rule_answers_are_as_before(clinic: Path, tmp_path: Path, small_net):
    run = train(config_of(clinic, tmp_path, "name=plain"), QUIET)
    predictor = vpt.load(run.folder)
    assert isinstance(predictor, Classifier)
    assert predictor.decision is None
    found = predictor.result("a", torch.tensor([0.4, 0.6]), 2)
    assert found.holding == (predictor.classes[1],)
    assert found.lines() == [f"{predictor.classes[1]} 0.600  {predictor.classes[0]} 0.400"]
    chosen = predictor.with_threshold(None).result("a", torch.tensor([0.4, 0.6]), 2)
    assert chosen.decided is not None
    assert chosen.lines()[0].startswith("[")


def test_a_class_that_does_not_exist_is_refused(clinic: Path, tmp_path: Path, small_net):
    with pytest.raises(vpt.UserError, match=r"data\.positive=sick is not a class; there are healthy, ill"):
        train(config_of(clinic, tmp_path, "name=sick", "data.positive=sick"), QUIET)
    assert not (tmp_path / "sick").exists()
