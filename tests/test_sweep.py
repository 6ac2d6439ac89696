"""Sweeps: the axes, the choice by validation, pruning, failures, and going on after a kill."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from runs import QUIET

from vpt.cli.main import main
from vpt.config import load_config, read_yaml
from vpt.errors import UserError
from vpt.sweep.space import Choices, Range, grid_of, read_space
from vpt.sweep.study import Sweep, sweep
from vpt.training import loop

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("small_net")


def words(shapes: Path, out: Path, *more: str) -> list[str]:
    base = [f"data={shapes}", f"out={out}", "name=sweep", "backbone=test_vit_patch8_32", "backbone.pretrained=false"]
    return [*base, "data.workers=0", "train.epochs=3", "train.batch_size=8", "prompt.tokens=2", *more]


class TestSpace:
    def test_forms(self):
        axes = read_space(["a.b=1,2", "c=x,true", "d=1..9", "e=0.1..2", "f=1e-4..0.1:log"])
        assert read_space(["lr=1e-6,0.02"]) == {"lr": Choices((1e-6, 0.02))}
        assert axes == {
            "a.b": Choices((1, 2)),
            "c": Choices(("x", True)),
            "d": Range(1, 9),
            "e": Range(0.1, 2),
            "f": Range(1e-4, 0.1, log=True),
        }
        assert axes["d"].whole
        assert not axes["e"].whole
        assert read_space({"layers": [[0, 1], "all"]}) == {"layers": Choices(([0, 1], "all"))}
        assert grid_of({"layers": Choices(([0, 1], "all"))}) == {"layers": ["[0, 1]", "all"]}

    @pytest.mark.parametrize(
        "word", ["a", "=1", "a=", "a=1,1", "a=2..1", "a=0..1:log", "a=1..2:lin", "a=x..y", "a=1..2..3"]
    )
    def test_mistakes_name_the_axis(self, word: str):
        with pytest.raises(UserError, match=re.escape(word)):
            read_space([word])

    def test_a_grid_needs_values(self):
        with pytest.raises(UserError, match="d is a range"):
            grid_of(read_space(["d=1..9"]))


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "sweep").glob("*.yaml")), ids=lambda file: file.name)
def test_shipped_spaces_are_valid(file: Path):
    tree = read_yaml(file)
    for key, values in grid_of(read_space(tree["over"])).items():
        for value in values:
            load_config(overrides=[*tree["words"], f"{key}={value}"])
    load_config(overrides=[*tree["words"], *tree.get("final", [])])
    assert f"--space {file.relative_to(ROOT)}" in file.read_text()


def test_the_best_by_validation_is_trained_again(shapes: Path, tmp_path: Path):
    axes = read_space(["train.optimizer.lr=1e-6,0.02"])
    found = sweep(Sweep(words(shapes, tmp_path), axes, trials=2, grid=True, prune=False), QUIET)
    assert len(found.trials) == 2
    first, second = (row["validation"] for row in found.trials)
    assert first >= second
    assert found.chosen == [f"train.optimizer.lr={found.trials[0]['params']['train.optimizer.lr']}"] or first == second
    assert found.best.folder == tmp_path / "sweep" / "best"
    assert found.best.metrics["val"]["accuracy"] == pytest.approx(found.trials[0]["validation"])
    stored = json.loads((found.folder / "sweep.json").read_text())
    assert [row["state"] for row in stored["trials"]] == ["complete", "complete"]
    with Image.open(found.folder / "sweep.png") as picture:
        assert picture.width > 300


def test_the_same_call_again_trains_nothing(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = Sweep(words(shapes, tmp_path), read_space(["prompt.tokens=1,3"]), trials=2)
    first = sweep(plan, QUIET)
    monkeypatch.setattr(loop, "_step", lambda *_: pytest.fail("trained again"))
    again = sweep(plan, QUIET)
    assert again.chosen == first.chosen
    assert again.best.metrics == first.best.metrics


@pytest.mark.parametrize("at", [2, 17, 33])
def test_a_killed_sweep_goes_on(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int):
    class Killed(BaseException):
        pass

    whole = sweep(
        Sweep(words(shapes, tmp_path / "whole"), read_space(["prompt.tokens=1,3"]), trials=2, grid=True), QUIET
    )
    plan = Sweep(words(shapes, tmp_path / "cut"), read_space(["prompt.tokens=1,3"]), trials=2, grid=True)
    usual, steps = loop._step, []

    def fatal(*args):
        steps.append(1)
        if len(steps) == at:
            raise Killed
        return usual(*args)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(loop, "_step", fatal)
        sweep(plan, QUIET)
    found = sweep(plan, QUIET)
    done = [row for row in found.trials if row["state"] == "complete"]
    assert sorted(row["params"]["prompt.tokens"] for row in done) == [1, 3]
    assert found.chosen == whole.chosen
    assert found.best.artifact.read_bytes()[-200:] == whole.best.artifact.read_bytes()[-200:]


def test_trials_behind_the_median_are_pruned(shapes: Path, tmp_path: Path):
    axes = {"train.optimizer.lr": Choices((0.02, 0.021, 0.022, 0.023, 0.024, 1e-7))}
    plan = Sweep(words(shapes, tmp_path, "train.epochs=8"), axes, trials=16)
    found = sweep(plan, QUIET)
    pruned = [row for row in found.trials if row["state"] == "pruned"]
    assert pruned
    assert all(row["epochs"] < 8 for row in pruned)
    assert all(row["validation"] is not None for row in pruned)


def test_a_trial_that_fails_is_told_and_the_others_go_on(shapes: Path, tmp_path: Path):
    axes = read_space(["train.optimizer.lr=1e30,0.01"])
    found = sweep(Sweep(words(shapes, tmp_path, "train.clip_norm=null"), axes, trials=2, grid=True), QUIET)
    assert sorted(row["state"] for row in found.trials) == ["complete", "fail"]
    assert found.chosen == ["train.optimizer.lr=0.01"]


def test_the_last_training_may_join_the_validation_images(shapes: Path, tmp_path: Path):
    plan = Sweep(words(shapes, tmp_path), read_space(["prompt.tokens=1,3"]), trials=1, final=["data.join_val=true"])
    metrics = sweep(plan, QUIET).best.metrics
    assert "48 training" in metrics["data"]
    assert "val" not in metrics
    assert metrics["test"]["accuracy"] > 0


class TestCommand:
    def test_it_prints_the_chosen_run(self, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "space.yaml").write_text("over:\n  prompt.tokens: [1, 2]\ngrid: true\nwords: [train.epochs=1]\n")
        assert main(["sweep", *words(shapes, tmp_path), "--space", str(tmp_path / "space.yaml")]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "sweep" / "best")

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            ([], "name what is searched"),
            (["--over", "prompt.toknes=1,2"], "prompt.toknes"),
            (["--over", "prompt.tokens=0,2"], "prompt.tokens"),
            (["--over", "prompt.tokens=1..5", "--grid"], "is a range"),
            (["--over", "backbone=a,b"], "backbone"),
            (["--over", "prompt.tokens=1,2", "--trials", "0"], "--trials 0"),
            (["--space", "nowhere.yaml"], "nowhere.yaml"),
        ],
    )
    def test_mistakes_come_before_any_training(
        self, shapes: Path, tmp_path: Path, capsys, more: list[str], sentence: str
    ):
        assert main(["sweep", *words(shapes, tmp_path), *more]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "sweep").exists()
