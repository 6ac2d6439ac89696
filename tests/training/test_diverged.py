"""Trainings that diverge end in one sentence, wherever that is seen first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.runs import QUIET, settings
from vpt.experiments.sweep.search_space import read_space
from vpt.experiments.sweep.study import Sweep, search
from vpt.training.run import train
from vpt.utils.errors import NotFinite

pytestmark = pytest.mark.usefixtures("small_net")

# One step an epoch: its loss is finite, and what it leaves behind is not.
LEAP = ["train.batch_size=36", "train.warmup=0", "train.clip_norm=null", "train.optimizer.lr=1e36"]


def test_scores_of_the_validation_images(shapes: Path, tmp_path: Path):
    with pytest.raises(NotFinite) as caught:
        train(settings(shapes, tmp_path, *LEAP), QUIET)
    pattern = (
        r"12 of 12 images have scores that are not finite at step 1 \(learning rates: .*\); the last good state .*"
    )
    assert re.fullmatch(pattern, str(caught.value))
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_scores_of_the_test_images_without_validation(shapes: Path, tmp_path: Path):
    with pytest.raises(NotFinite, match=r"of 12 images .* lower train\.optimizer\.lr"):
        train(settings(shapes, tmp_path, *LEAP, "train.epochs=1", "train.batch_size=48", "data.join_val=true"), QUIET)
    assert not (tmp_path / "run" / "predictions-test.csv").exists()


def test_the_loss(shapes: Path, tmp_path: Path):
    words = [*LEAP, "train.batch_size=12"]
    with pytest.raises(NotFinite, match=r"the loss became \S+ at step 2 \(learning rates: .*; images: .*\.png"):
        train(settings(shapes, tmp_path, *words), QUIET)


def test_a_sweep_tells_of_it_and_goes_on(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [f"data={shapes}", f"out={tmp_path}", "name=sweep", "backbone=test_vit_patch8_32", *LEAP, "train.epochs=1"]
    words += ["backbone.pretrained=false", "data.workers=0", "prompt.tokens=2"]
    found = search(Sweep(words, read_space(["train.optimizer.lr=1e36,0.01"]), grid=True))
    assert sorted(row["state"] for row in found.trials) == ["complete", "fail"]
    assert found.words == ["train.optimizer.lr=0.01"]
    assert "failed: 12 of 12 images have scores that are not finite" in " ".join(capsys.readouterr().err.split())
