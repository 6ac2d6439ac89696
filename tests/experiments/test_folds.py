"""`vpt train folds=3`: cross-validation with patients on one side."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.helpers.image_files import save
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.config.data import DataConfig
from vpt.data.dataset import SPLITS
from vpt.data.datasets.registry import load_data
from vpt.experiments.folds import mean_interval, train_folds
from vpt.metrics.metrics_file import read_metrics
from vpt.utils.errors import UserError


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 patients with two images each."""
    root = tmp_path_factory.mktemp("folds")
    chance = np.random.default_rng(0)
    for patient in range(18):
        label = "ill" if patient % 3 == 0 else "well"
        for number in range(2):
            pixels = np.clip(chance.normal(150 if label == "ill" else 120, 30, (32, 32, 3)), 0, 255)
            save(root / "photos" / label / f"P{patient:02d}_{number}.png", pixels.astype(np.uint8))
    return root / "photos"


def test_every_image_is_tested_once(clinic: Path):
    config = DataConfig(path=str(clinic), group="re:(P[0-9]+)_", folds=4)
    tested = []
    for fold in range(4):
        data = load_data(config.model_copy(update={"fold": fold}))
        sides = [{record.group for record in data.split(name)} for name in SPLITS]
        assert len(set.union(*sides)) == sum(map(len, sides)) == 18
        assert sum(len(data.split(name)) for name in SPLITS) == 36
        tested += [record.name for record in data.test]
        assert len({label for record in data.test for label in record.labels}) == 2
    assert sorted(tested) == sorted(set(tested))
    assert len(tested) == 36
    with pytest.raises(UserError, match="18 groups cannot be divided"):
        load_data(config.model_copy(update={"folds": 40, "fold": 0}))
    with pytest.raises(UserError, match="with a fold from 0 to 3"):
        load_data(config)
    with pytest.raises(UserError, match="with a fold from 0 to 3"):
        load_data(config.model_copy(update={"fold": 4}))


def test_a_command_trains_all_folds_and_pools(
    clinic: Path, tmp_path: Path, small_net, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = [f"data={clinic}", f"out={tmp_path}", *NET, "name=cv", "epochs=1", "prompt.tokens=2", "compare=none"]
    words += ["data.group=re:(P[0-9]+)_", "folds=3", "data.val_fraction=0.3", "data.positive=ill"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr()
    folder = tmp_path / "cv"
    assert said.out.strip() == str(folder)
    assert "all 36 out-of-fold predictions of 18 groups: " in said.err
    result = json.loads((folder / "folds.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["deep prompts", "linear probe"]
    row = result["rows"][0]
    accuracies = [read_metrics(folder / f"fold{fold}" / "metrics.json")["test"]["accuracy"] for fold in range(3)]
    assert row["scores"] == accuracies
    assert row["interval"] == pytest.approx(list(mean_interval(accuracies)))
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({one["image"] for one in rows}) == 36
    assert len({one["group"] for one in rows}) == 18
    assert all(len({one["fold"] for one in rows if one["group"] == group}) == 1 for group in map(str, range(1, 19)))
    auroc = roc_auc_score([one["true"] == "ill" for one in rows], [float(one["score of ill"]) for one in rows])
    assert row["pooled"]["auroc"] == pytest.approx(auroc)
    low, high = row["pooled"]["intervals"]["auroc"]
    assert low <= auroc <= high
    assert (folder / "predictions-compare-none.csv").is_file()

    # The same command only reads what is finished, and continues what was stopped.
    (folder / "fold2" / "metrics.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("fold[01]/*.safetensors")}
    assert train_folds(load_config(overrides=words), QUIET) == folder
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = json.loads((folder / "folds.json").read_text())
    assert again == result
    with pytest.raises(UserError, match=r"was started with other settings \(data\.folds\)"):
        train_folds(load_config(overrides=[*words, "folds=4"]), QUIET)


def test_what_does_not_go_together(clinic: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", f"data={clinic}", "folds=3", "seed=0,1"]) == 2
    assert "give one train.seed" in capsys.readouterr().err
    with pytest.raises(UserError, match="without test images"):
        train_folds(load_config(overrides=[f"data={clinic}", "folds=3", "data.hold_test=true"]), QUIET)
