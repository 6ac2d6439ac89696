"""Runs that train together end as if each had trained alone, and share what they can."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vpt
from tests.helpers.runs import NET, QUIET, settings
from vpt.backbones.backbone import Backbone
from vpt.cli.main import main
from vpt.config import RunConfig, read_yaml
from vpt.data import data_module
from vpt.data.dataloader import Loader
from vpt.training import multi_run
from vpt.training.loop import Request
from vpt.training.multi_run import train_together
from vpt.training.signals import Stopped
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows

pytestmark = pytest.mark.usefixtures("small_net")


def named(shapes: Path, out: Path, *runs: list[str]) -> list[RunConfig]:
    return [settings(shapes, out, f"name=run{number}", "data.workers=0", *words) for number, words in enumerate(runs)]


def same_as_alone(configs: list[RunConfig], out: Path) -> None:
    together = train_together(configs, QUIET)
    for config, mine in zip(configs, together, strict=True):
        alone = vpt.train(config.model_copy(update={"out": out / "alone"}), QUIET)
        assert mine.metrics["epochs"] == alone.metrics["epochs"]
        assert mine.metrics["val"]["loss"] == pytest.approx(alone.metrics["val"]["loss"], rel=1e-4)
        theirs = load_file(alone.artifact)
        for name, value in load_file(mine.artifact).items():
            np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=2e-5, err_msg=name)
        losses = [
            [row["loss"] for row in read_rows(result.folder) if row["kind"] == "step"] for result in (mine, alone)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize(
    "runs",
    [
        [["train.optimizer.lr.prompt=0.01"], ["prompt.tokens=7"], ["prompt.dropout=0", "head.dropout=0.3"]],
        [["prompt.layers=last:1"], ["prompt.layers=last:1", "prompt.tokens=2", "head=mlp", "head.hidden=[8]"]],
        [["prompt=none"], ["prompt=none", "train.optimizer.lr.head=0.1"], ["prompt=deep"]],
        [["prompt=shallow", "train.seed=1"], ["prompt=shallow", "train.seed=2", "train.epochs=2"]],
        [["prompt=pixel", "prompt.size=4"], ["prompt=pixel", "prompt.size=6"], ["prompt=vapt"], ["prompt=gated"]],
        [["prompt=pixel", "prompt.shape=random_patch", f"train.seed={seed}"] for seed in (1, 2)],
        [["train.batch_size=5"], ["train.label_smoothing=0.1"], ["train.accumulate=2"]],
        [["data.augment=none"], ["data.augment=none", "prompt=none"], ["data.shots=3"]],
    ],
    ids=["settings", "upper layers", "probes", "seeds", "kinds", "places", "batches", "data"],
)
def test_each_ends_as_if_alone(shapes: Path, tmp_path: Path, runs: list[list[str]]):
    if any("head=mlp" in words for words in runs):
        runs = [words if "head=mlp" in words else [*words, "head=mlp"] for words in runs]
    same_as_alone(named(shapes, tmp_path, *runs), tmp_path)


def test_a_network_without_tokens(shapes: Path, tmp_path: Path):
    words = ["backbone=test_resnet", "backbone.image_size=32", "prompt=none"]
    runs = [words, [*words, "train.optimizer.lr.head=0.1"], [*words, "train.seed=1"]]
    same_as_alone(named(shapes, tmp_path, *runs), tmp_path)


def test_several_data_sets(shapes: Path, tmp_path: Path):
    runs = [[], ["data=digits", "data.shots=4", "data.augment=none"]]
    same_as_alone(named(shapes, tmp_path, *runs), tmp_path)


def test_images_are_loaded_once_and_lower_layers_computed_once(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passes: list[tuple[int, int]] = []
    usual = Backbone.features

    def watched(self, images, plan, pool="native", layers=None, copies=1):
        if torch.is_grad_enabled():
            passes.append((len(images), copies))
        return usual(self, images, plan, pool, layers, copies)

    loaders = []
    monkeypatch.setattr(Backbone, "features", watched)
    monkeypatch.setattr("vpt.training.context.SharedLoader.__init__", _counting(loaders))
    runs = [["prompt.layers=last:1"], ["prompt.layers=last:1", "train.optimizer.lr=0.01"]]
    train_together(named(shapes, tmp_path, *runs), QUIET)
    assert len(loaders) == 1
    assert passes.count((8, 2)) == 12  # three epochs of five steps, the fifth of four images
    assert passes.count((4, 2)) == 3
    assert (8, 1) not in passes


def _counting(found: list[Loader]):
    from vpt.training.shared_loader import SharedLoader

    usual = SharedLoader.__init__

    def made(self, loader):
        found.append(loader)
        usual(self, loader)

    return made


def test_data_is_read_once_for_all_that_read_the_same(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = []
    usual = data_module.read

    def watched(config, load):
        made.append(config.data.shots)
        return usual(config, load)

    monkeypatch.setattr(data_module, "read", watched)
    runs = [[], ["prompt.tokens=2"], ["data.shots=3"], ["data.augment=none"], ["data.shots=3", "prompt=shallow"]]
    train_together(named(shapes, tmp_path, *runs), QUIET)
    assert made == [None, 3]


def test_a_run_that_fails_is_named_and_the_others_finish(shapes: Path, tmp_path: Path):
    runs = [[], ["train.optimizer.lr=1e30", "train.clip_norm=null"], ["prompt.tokens=2"]]
    with pytest.raises(UserError, match=r"1 of 3 runs failed, the others are finished: .*run1"):
        train_together(named(shapes, tmp_path, *runs), QUIET)
    assert (tmp_path / "run0" / "metrics.json").is_file()
    assert not (tmp_path / "run1" / "metrics.json").is_file()
    assert (tmp_path / "run2" / "metrics.json").is_file()


def test_one_that_was_interrupted_goes_on_by_itself(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    configs = named(shapes, tmp_path, [], ["prompt.tokens=2"])
    steps = []
    usual = multi_run.step_together

    def fatal(requests: list[Request]):
        steps.append(len(requests))
        if len(steps) == 8:
            raise KeyboardInterrupt
        return usual(requests)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("vpt.training.multi_run.step_together", fatal)
        train_together(configs, QUIET)
    alone = vpt.train(configs[0].model_copy(update={"out": tmp_path / "alone"}), QUIET)
    mine = vpt.resume(tmp_path / "run0", console=QUIET)
    theirs = load_file(alone.artifact)
    for name, value in load_file(mine.artifact).items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=2e-5)


def signal_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask to stop by SIGTERM during step `step`, counted from 1."""
    usual, count = multi_run.step_together, []

    def interrupted(requests: list[Request]):
        count.append(1)
        if len(count) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(requests)

    monkeypatch.setattr("vpt.training.multi_run.step_together", interrupted)


def test_a_signal_saves_every_run(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    configs = named(shapes, tmp_path, ["train.checkpoint_minutes=9"], ["train.checkpoint_minutes=9", "prompt.tokens=2"])
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        signal_at(4, patched)
        train_together(configs, QUIET)
    for number in range(2):
        assert "stopped at step 4" in (tmp_path / f"run{number}" / "log.txt").read_text()
        assert vpt.resume(tmp_path / f"run{number}", console=QUIET).metrics["epochs"] == 3


def test_a_signal_during_the_last_step_is_not_lost(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    signal_at(15, monkeypatch)
    with pytest.raises(Stopped):
        train_together(named(shapes, tmp_path, []), QUIET)
    assert (tmp_path / "run0" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tuning=lora", "prompt=none"], "classify on a frozen backbone"),
        (["backbone.image_size=64"], "share backbone"),
        (["head=mlp"], "share backbone and kind of head"),
        (["train.precision=bf16"], "share train.device and train.precision"),
        (["name=run0"], "two runs are called run0"),
    ],
)
def test_what_cannot_go_together_is_refused(shapes: Path, tmp_path: Path, words: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        train_together(named(shapes, tmp_path, [], words), QUIET)
    assert not (tmp_path / "run0").exists()


class TestCommand:
    def test_each_value_is_a_run(self, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        words = [
            "train",
            f"data={shapes}",
            f"out={tmp_path}",
            "backbone=test_vit_patch8_32",
            "backbone.pretrained=false",
        ]
        words += ["train.epochs=1", "data.workers=0", "--each", "prompt.tokens=2,5", "--each", "lr.prompt=0.01,0.1"]
        assert main([word.replace("lr.", "train.optimizer.lr.") for word in words]) == 0
        folders = capsys.readouterr().out.split()
        stem = f"{shapes.name}-test_vit_patch8_32-deep"
        assert [Path(folder).name for folder in folders] == [
            f"{stem}-tokens=2-lr.prompt=0.01",
            f"{stem}-tokens=2-lr.prompt=0.1",
            f"{stem}-tokens=5-lr.prompt=0.01",
            f"{stem}-tokens=5-lr.prompt=0.1",
        ]
        for folder in folders:
            assert (Path(folder) / "artifact.safetensors").is_file()

    def test_a_value_may_be_a_list(self, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        words = ["train", "--each", "prompt.layers=[0],[0, 1]", f"data={shapes}", f"out={tmp_path}", "name=a", *NET]
        assert main([*words, "train.epochs=1", "data.workers=0"]) == 0
        folders = [Path(line) for line in capsys.readouterr().out.splitlines()]
        assert [folder.name for folder in folders] == ["a-layers=[0]", "a-layers=[0, 1]"]
        assert [read_yaml(folder / "config.yaml")["prompt"]["layers"] for folder in folders] == [[0], [0, 1]]

    def test_the_same_again_gets_a_number_but_for_a_given_name(self, shapes: Path, tmp_path: Path, capsys):
        words = ["train", f"data={shapes}", f"out={tmp_path}", *NET, "train.epochs=1", "data.workers=0"]
        each = ["--each", "prompt.tokens=2"]
        assert [main([*words, *each]), main([*words, *each])] == [0, 0]
        stem = f"{shapes.name}-test_vit_patch8_32-deep-tokens=2"
        assert [Path(folder).name for folder in capsys.readouterr().out.split()] == [stem, f"{stem}-2"]
        assert [main([*words, "name=mine", *each]), main([*words, "name=mine", *each])] == [0, 2]
        assert "mine-tokens=2 exists and is not overwritten" in capsys.readouterr().err

    def test_a_mistake_of_any_run_is_told_before_all(self, shapes: Path, tmp_path: Path):
        with pytest.raises(UserError, match="did you mean 'light'"):
            train_together(named(shapes, tmp_path / "new", [], ["data.augment=ligth"]), QUIET)
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--each", "prompt.tokens"], "--each prompt.tokens: give a setting and its values"),
            (["--each", "prompt.tokens=2,"], "--each prompt.tokens=2,"),
            (["--each", "prompt.toknes=2,3"], "prompt.toknes"),
            (["resume=runs/a", "--each", "prompt.tokens=2,3"], "resume= applies to a single run"),
            (["compare=[none]", "--each", "prompt.tokens=2,3"], "compare"),
        ],
    )
    def test_mistakes(self, shapes: Path, tmp_path: Path, capsys, words: list[str], sentence: str):
        assert main(["train", f"data={shapes}", f"out={tmp_path / 'new'}", *words]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
