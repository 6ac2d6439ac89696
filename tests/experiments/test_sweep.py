"""Sweeps: the axes, the choice by validation, pruning, failures, and going on after a kill."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import vpt
from tests.helpers.coco_folder import coco
from tests.helpers.paths import ROOT
from tests.helpers.runs import QUIET
from vpt.backbones.parallel.activation_checkpoint import Recomputed
from vpt.cli.main import main
from vpt.config import load_config, parse_overrides, read_yaml
from vpt.data import data_module
from vpt.experiments.sweep import study
from vpt.experiments.sweep.reuse import Shared
from vpt.experiments.sweep.search_space import Choices, Range, grid_of, read_space, read_space_file, words_of
from vpt.experiments.sweep.study import Sweep, search, sweep
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows

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

    def test_commas_in_brackets_belong_to_the_value(self):
        assert read_space(["layers=[0, 1],[2,[3]],all"]) == {"layers": Choices(([0, 1], [2, [3]], "all"))}
        assert read_space(["lr={head: 0.1, prompt: 0.2},0.3"])["lr"] == Choices(({"head": 0.1, "prompt": 0.2}, 0.3))

    def test_a_path_upwards_is_no_range(self):
        assert read_space(["data=../a,../b"]) == {"data": Choices(("../a", "../b"))}

    @pytest.mark.parametrize(
        "value", [[0, [1, 2]], {"head": 0.1, "prompt": 1e-5}, None, True, 3, 1e-5, "all", "2024", "null", "#a", "a, b"]
    )
    def test_a_chosen_value_is_read_back_as_it_was(self, value: object):
        axes = {"key": Choices((value, "another"))}
        kept = json.loads(json.dumps(grid_of(axes)["key"][0]))  # as the journal does
        (chosen,) = words_of({"key": kept}, axes)
        found = parse_overrides([chosen])["key"]
        assert (type(found), found) == (type(value), value)

    def test_a_file_says_all_that_options_say(self, tmp_path: Path):
        file = tmp_path / "space.yaml"
        file.write_text("over: {lr: [1e-3, '2024', 0.1]}\ntrials: 3\nfinal: [data.join_val=true]\n")
        space = read_space_file(file)
        assert space.axes == {"lr": Choices((0.001, "2024", 0.1))}
        assert (space.trials, space.grid, space.final, space.words) == (3, False, ("data.join_val=true",), ())

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("trials: many", "trials=many must be a whole number"),
            ("trials: 0", "at least 1"),
            ("trials: true", "a whole number"),
            ("grid: 'no'", "grid=no must be true or false"),
            ("words: train.epochs=1", "words must be a list of key=value"),
            ("final: [{data.join_val: true}]", "final must be a list of key=value"),
            ("finally: []", "may contain words, grid, trials and final"),
        ],
    )
    def test_mistakes_in_a_file(self, tmp_path: Path, text: str, sentence: str):
        file = tmp_path / "space.yaml"
        file.write_text(f"over: {{prompt.tokens: [1, 2]}}\n{text}\n")
        with pytest.raises(UserError, match=f"space.yaml.*{re.escape(sentence)}"):
            read_space_file(file)

    @pytest.mark.parametrize(
        "word",
        [
            "a",
            "=1",
            "a=",
            "a=1,1",
            "a=[0],[0]",
            "a=2..1",
            "a=0..1:log",
            "a=1..2:lin",
            "a=x..y",
            "a=1..2..3",
            "a=1..5,9",
        ],
    )
    def test_mistakes_name_the_axis(self, word: str):
        with pytest.raises(UserError, match=re.escape(word)):
            read_space([word])

    def test_an_axis_is_given_once(self):
        with pytest.raises(UserError, match="--over a is given twice"):
            read_space(["a=1", "a=2"])

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


@pytest.mark.parametrize("given", ["9,10", "10,9", "1e-1,0.02"])
def test_of_equal_points_the_first_of_the_file_is_taken(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
):
    monkeypatch.setattr(study, "_run", lambda *_: 0.5)
    key = "train.optimizer.lr" if "e" in given else "prompt.tokens"
    axes = read_space(["head.bias=-1,1", f"{key}={given}"])
    found = search(Sweep(words(shapes, tmp_path), axes, grid=True), QUIET)
    first = {"9,10": "9", "10,9": "10", "1e-1,0.02": "0.1"}[given]
    assert len(found.trials) == 4
    assert found.words == ["head.bias=-1", f"{key}={first}"]


def test_the_same_call_again_trains_nothing(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = Sweep(words(shapes, tmp_path), read_space(["prompt.tokens=1,3"]), trials=2)
    first = sweep(plan, QUIET)
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
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
    usual, steps = Trainer.train_step, []

    def fatal(*args):
        steps.append(1)
        if len(steps) == at:
            raise Killed
        return usual(*args)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Trainer, "train_step", fatal)
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


def test_ties_are_broken_by_loss_and_the_top_row_is_chosen(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    losses = iter([0.9, 0.3, 0.5])

    def run(config: object, folder: Path, trial: object, shared: Shared) -> float:
        trial.set_user_attr("loss", next(losses))  # type: ignore[attr-defined]
        return 0.75

    monkeypatch.setattr(study, "_run", run)
    rates = Choices((0.1, 0.01, 0.001))
    found = search(Sweep(words(shapes, tmp_path), {"train.optimizer.lr": rates}, grid=True))
    assert [row["params"]["train.optimizer.lr"] for row in found.trials] == [0.01, 0.001, 0.1]
    assert found.words == found.trials[0]["words"] == ["train.optimizer.lr=0.01"]
    assert "0.01\t0.7500\t0.3\n0.001\t0.7500\t0.5\n0.1\t0.7500\t0.9" in caplog.text


def test_a_trial_that_fails_is_told_and_the_others_go_on(shapes: Path, tmp_path: Path):
    axes = read_space(["train.optimizer.lr=1e30,0.01"])
    found = sweep(Sweep(words(shapes, tmp_path, "train.clip_norm=null"), axes, trials=2, grid=True), QUIET)
    assert sorted(row["state"] for row in found.trials) == ["complete", "fail"]
    assert found.chosen == ["train.optimizer.lr=0.01"]


def test_a_point_of_a_grid_that_failed_is_tried_again(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = Sweep(words(shapes, tmp_path, "train.epochs=1"), read_space(["prompt.tokens=1,2,3"]), grid=True)
    usual, tried = study._run, []

    def failing(config, *more):
        tried.append(config.prompt.tokens)
        if config.prompt.tokens == 2 and len(tried) < 4:
            raise UserError("the disk is full")
        return usual(config, *more)

    monkeypatch.setattr(study, "_run", failing)
    assert sorted(row["state"] for row in search(plan, QUIET).trials) == ["complete", "complete", "fail"]
    found = search(plan, QUIET)
    done = [row["params"]["prompt.tokens"] for row in found.trials if row["state"] == "complete"]
    assert (tried, sorted(done)) == ([1, 2, 3, 2], [1, 2, 3])
    search(plan, QUIET)
    assert len(tried) == 4


def test_a_point_of_a_grid_that_was_killed_before_it_began_is_not_lost(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = Sweep(words(shapes, tmp_path, "train.epochs=1"), read_space(["prompt.tokens=1,2"]), grid=True)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(study, "suggest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        search(plan, QUIET)
    done = [row["params"].get("prompt.tokens") for row in search(plan, QUIET).trials if row["state"] == "complete"]
    assert sorted(done) == [1, 2]


def test_the_last_training_may_join_the_validation_images(shapes: Path, tmp_path: Path):
    plan = Sweep(words(shapes, tmp_path), read_space(["prompt.tokens=1,3"]), trials=1, final=["data.join_val=true"])
    metrics = sweep(plan, QUIET).best.metrics
    assert "48 training" in metrics["data"]
    assert "val" not in metrics
    assert metrics["test"]["accuracy"] > 0


def count_calls(monkeypatch: pytest.MonkeyPatch, *places: str) -> dict[str, int]:
    """How often functions are called from here on, by their names."""
    counts = dict.fromkeys(places, 0)
    for place in places:
        module, _, name = place.rpartition(".")
        usual = getattr(import_module(module), name)

        def watched(*args, place=place, usual=usual, **kwargs):
            counts[place] += 1
            return usual(*args, **kwargs)

        monkeypatch.setattr(place, watched)
    return counts


def settings_of(folder: Path) -> str:
    return json.dumps({**read_yaml(folder / "config.yaml"), "name": None, "out": None})


READING = [
    "vpt.training.tasks.classification.load_data",
    "vpt.data.data_module.check",
    "vpt.data.data_module.ImageCache",
]
LOADING = "vpt.models.classifier.load_backbone"


class TestWhatTrialsShare:
    """Each trial ends bit for bit as a training of its own, whatever it shares with the others."""

    @staticmethod
    def swept(base: list[str], out: Path, *over: str) -> list[tuple[Path, vpt.TrainResult]]:
        """The folder of each trial of a grid, beside a training of its own with the very same settings."""
        found = search(Sweep(base, read_space(over), grid=True, prune=False), QUIET)
        trials = {settings_of(folder): folder for folder in (found.folder / "trials").iterdir()}
        pairs = []
        for number, row in enumerate(found.trials):
            assert row["state"] == "complete", row
            alone = vpt.train(load_config(overrides=[*base, *row["words"], f"out={out}", f"name=alone{number}"]), QUIET)
            pairs.append((trials[settings_of(alone.folder)], alone))
        return pairs

    @staticmethod
    def same(trial: Path, alone: vpt.TrainResult) -> None:
        mine, theirs = load_file(trial / "artifact.safetensors"), load_file(alone.artifact)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
        measured = json.loads((trial / "metrics.json").read_text())
        assert {split: measured[split] for split in ("val", "test")} == {
            split: alone.metrics[split] for split in ("val", "test")
        }
        rows = [
            [{key: value for key, value in row.items() if key not in ("time", "seconds")} for row in read_rows(folder)]
            for folder in (trial, alone.folder)
        ]
        steps = [[row for row in side if row["kind"] in ("step", "epoch")] for side in rows]
        assert steps[0] == steps[1]

    def test_data_and_backbone_are_read_once(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        counts = count_calls(monkeypatch, *READING, LOADING)
        plan = Sweep(words(shapes, tmp_path, "data.cache=true"), read_space(["prompt.tokens=1,2,3"]), grid=True)
        sweep(plan, QUIET)
        # The last training shares them too. Three splits are decoded.
        assert list(counts.values()) == [1, 1, 3, 1]

    def test_a_trial_equals_a_training_of_its_own(self, shapes: Path, tmp_path: Path):
        base = words(shapes, tmp_path, "data.cache=true", "prompt.dropout=0.1")
        for trial, alone in self.swept(base, tmp_path, "prompt.tokens=1,2", "data.augment=light,none"):
            self.same(trial, alone)

    def test_other_data_is_read(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        base = words(shapes, tmp_path)
        with monkeypatch.context() as patched:
            counts = count_calls(patched, *READING[:2], LOADING)
            axes = read_space(["data.augment=light,none", "data.shots=2,4"])
            search(Sweep(base, axes, grid=True, prune=False), QUIET)
            assert list(counts.values()) == [2, 2, 1]
        pairs = self.swept(base, tmp_path, "data.augment=light,none", "data.shots=2,4")
        assert len(pairs) == 4
        for trial, alone in pairs:
            self.same(trial, alone)

    def test_readings_do_not_pile_up(self, monkeypatch: pytest.MonkeyPatch):
        read = []
        monkeypatch.setattr(data_module, "read", lambda config, load: read.append(config.data.shots) or object())

        def asked(*shots: int, cache: str) -> list[int]:
            read.clear()
            readings = data_module.DataCache()
            for count in shots:
                readings.of(load_config(overrides=[f"data.shots={count}", f"data.cache={cache}"]), lambda config: None)
            return read

        assert asked(1, 2, 1, 2, cache="false") == [1, 2]
        assert asked(*range(1, 10), 9, 2, 1, cache="false") == [*range(1, 10), 1]  # eight are kept
        assert asked(1, 1, 2, 2, 1, cache="true") == [1, 2, 1]  # decoded images of one data set at a time

    def test_a_backbone_that_learns_is_a_trials_own(
        self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        base = words(shapes, tmp_path, "prompt=none", "train.epochs=2")
        over = ["tuning=full,frozen,bias,lora", "train.optimizer.lr=0.01,0.02"]
        with monkeypatch.context() as patched:
            counts = count_calls(patched, LOADING)
            search(Sweep(base, read_space(over), grid=True, prune=False), QUIET)
            # Three kinds learn at two rates, the frozen ones share, and one is looked at before the first trial.
            assert counts[LOADING] == 8
        for trial, alone in self.swept(base, tmp_path, *over):
            self.same(trial, alone)

    def test_what_is_laid_around_layers_stays_with_the_trial(self, shapes: Path, tmp_path: Path):
        config = load_config(overrides=[*words(shapes, tmp_path), "train.recompute=true"])
        shared = Shared()
        first, second = shared.backbone(config), shared.backbone(config)
        assert first is not None
        assert second is not None
        assert first.net is second.net
        first.with_blocks(Recomputed.of)
        assert first.tower is not None
        assert second.tower is not None
        assert isinstance(first.tower.blocks[0], Recomputed)
        assert not isinstance(second.tower.blocks[0], Recomputed)

    def test_another_kind_of_head_may_need_another_backbone(
        self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        base = [*words(shapes, tmp_path), "backbone=test_classifier_32"]
        over = ["head=linear,labelmap"]
        with monkeypatch.context() as patched:
            counts = count_calls(patched, LOADING)
            search(Sweep(base, read_space(over), grid=True, prune=False), QUIET)
            assert counts[LOADING] == 2
        for trial, alone in self.swept(base, tmp_path, *over):
            self.same(trial, alone)

    def test_a_detector_shares_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        coco(tmp_path / "boxes", 12)
        base = ["task=detection", f"data={tmp_path / 'boxes'}", "data.val_fraction=0.3", "data.test_fraction=0.3"]
        base += [f"out={tmp_path}", "name=sweep", "data.workers=0", "train.epochs=1"]
        base += ["backbone=vpt_nano", "head.size=32", "head.scales=[1.0]"]
        with monkeypatch.context() as patched:
            counts = count_calls(
                patched, "vpt.training.tasks.detection.load_boxes", "vpt.models.detection.detector.load_backbone"
            )
            search(Sweep(base, read_space(["prompt.tokens=1,2"]), grid=True, prune=False), QUIET)
            assert list(counts.values()) == [1, 1]
        for trial, alone in self.swept(base, tmp_path, "prompt.tokens=1,2"):
            self.same(trial, alone)

    def test_a_mistake_in_common_ends_the_sweep_at_once(
        self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("vpt.experiments.sweep.study._run", lambda *_: pytest.fail("a trial began"))
        for wrong in ["data=no/such/folder", "head=zeroshot"]:
            with pytest.raises(UserError, match=r"no/such/folder|no text tower"):
                search(Sweep([*words(shapes, tmp_path), wrong], read_space(["prompt.tokens=1,2"])), QUIET)


class TestCommand:
    def test_it_prints_the_chosen_run(self, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "space.yaml").write_text("over:\n  prompt.tokens: [1, 2]\ngrid: true\nwords: [train.epochs=1]\n")
        assert main(["sweep", *words(shapes, tmp_path), "--space", str(tmp_path / "space.yaml")]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "sweep" / "best")

    def test_options_stand_anywhere_and_add_up(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        plans: list[Sweep] = []
        result = SimpleNamespace(best=SimpleNamespace(folder=tmp_path))
        monkeypatch.setattr("vpt.experiments.sweep.study.sweep", lambda plan: plans.append(plan) or result)
        (tmp_path / "space.yaml").write_text("over: {prompt.tokens: [1, 2]}\ntrials: 7\nfinal: [train.epochs=3]\n")
        space = ["--space", str(tmp_path / "space.yaml")]
        final = ["--final", "data.join_val=true", "--final", "train.epochs=9", "train.seed=1"]
        assert main(["sweep", "data=a", *space, "train.seed=4", "prompt=deep", *final]) == 0
        assert main(["sweep", *space, "--trials", "2", "data=a"]) == 0
        assert main(["sweep", "--over", "prompt.tokens=1,2", "--grid", "data=a"]) == 0
        assert [plan.words for plan in plans] == [["data=a", "train.seed=4", "prompt=deep"], ["data=a"], ["data=a"]]
        assert plans[0].final == ["train.epochs=3", "data.join_val=true", "train.epochs=9", "train.seed=1"]
        assert [(plan.trials, plan.grid) for plan in plans] == [(7, False), (2, False), (20, True)]

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            ([], "name the settings to search"),
            (["--over", "prompt.toknes=1,2"], "prompt.toknes"),
            (["--over", "prompt.tokens=0,2"], "prompt.tokens"),
            (["--over", "prompt.tokens=1..5", "--grid"], "is a range"),
            (["--over", "backbone=a,b"], "backbone"),
            (["--over", "prompt.tokens=1,2", "--trials", "0"], "--trials 0"),
            (["--space", "nowhere.yaml"], "nowhere.yaml"),
            (["--over", "prompt.tokens=1,2", "--final", "data.join_vall=true"], "data.join_vall"),
            (["--over", "prompt.layers=[0],[1,2"], "[1,2 cannot be read; close its brackets"),
        ],
    )
    def test_mistakes_come_before_any_training(
        self, shapes: Path, tmp_path: Path, capsys, more: list[str], sentence: str
    ):
        assert main(["sweep", *words(shapes, tmp_path), *more]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "sweep").exists()
