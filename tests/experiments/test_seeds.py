"""`vpt train train.seed=0,1,2`: mean and deviation of the scores of one's own data."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tests.helpers.runs import QUIET, settings
from vpt.cli.main import main
from vpt.experiments.seeds import train_seeds
from vpt.metrics.metrics_file import read_metrics


def test_several_seeds(shapes: Path, tmp_path: Path, small_net, monkeypatch: pytest.MonkeyPatch):
    config = settings(shapes, tmp_path, "train.epochs=1", "compare=none", "name=several")
    said: list[str] = []
    monkeypatch.setattr(QUIET, "say", said.append)
    folder = train_seeds(config, [3, 4], QUIET)
    assert folder == tmp_path / "several"
    written = json.loads((folder / "seeds.json").read_text())
    assert written["seeds"] == [3, 4]
    assert [row["method"] for row in written["rows"]] == ["deep prompts", "linear probe"]
    for row, place in zip(written["rows"], (".", "compare-none"), strict=True):
        scores = [read_metrics(folder / f"seed{s}" / place / "metrics.json")[row["split"]]["accuracy"] for s in (3, 4)]
        assert row["scores"] == scores
        assert row["mean"] == statistics.mean(scores)
        assert row["std"] == statistics.stdev(scores)
    assert said[-2].startswith(f"deep prompts: test accuracy {100 * written['rows'][0]['mean']:.1f} ± ")
    # The same command continues: the first two are only read.
    before = (folder / "seed3" / "checkpoint.safetensors").stat().st_mtime_ns
    train_seeds(config, [3, 4, 5], QUIET)
    assert (folder / "seed3" / "checkpoint.safetensors").stat().st_mtime_ns == before
    assert (folder / "seed5" / "metrics.json").is_file()


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    asked = []
    monkeypatch.setattr(
        "vpt.experiments.seeds.train_seeds", lambda config, seeds: asked.append((config.data.path, seeds)) or tmp_path
    )
    assert main(["train", "data=digits", "seed=0,1,2"]) == 0
    assert main(["train", "data=digits", "train.seed=[7, 8]"]) == 0
    assert asked == [("digits", [0, 1, 2]), ("digits", [7, 8])]
    assert main(["train", "data=digits", "seed=0,0"]) == 2
    assert "give different whole numbers, as in train.seed=0,1,2" in capsys.readouterr().err
    assert main(["train", "resume=runs/a", "seed=0,1"]) == 2
    assert "a resumed run has one seed" in capsys.readouterr().err
