"""An artifact is a stranger's: nothing that stands in it runs, is opened, takes memory or ends in a traceback."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vpt
from tests.compat.backbones import register
from tests.compat.cases import pictures
from tests.helpers import hostile_artifacts as hostile
from tests.helpers.hostile_artifacts import mutate, refused
from vpt.cli.main import main
from vpt.config import load_config
from vpt.models.artifact import read_artifact
from vpt.models.classifier import backbone_for
from vpt.training.tasks import task_of
from vpt.utils.console import Console

TRIED = ("nano-deep", "small-deep-mlp", "small-e2vpt", "small-vapt", "small-gated", "small-bpt", "small-lora")
TRIED += ("small-pad-learned", "mapped-iterative", "clip-coop-middle", "clip-cocoop", "clip-maple", "clip-tip")
TRIED += ("boxes-fcos", "boxes-owl")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return register(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def own_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes of a user who has named no backbone yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def used(path: Path, weights: Path) -> None:
    """Load an artifact as a user would and ask it about a picture."""
    clip = path.name.startswith(("clip", "boxes-owl"))
    with torch.random.fork_rng():
        vpt.load(path, "cpu", weights if clip else None).predict(pictures()[1])


class TestMutations:
    @pytest.mark.parametrize("name", TRIED)
    def test_headers_load_or_are_refused(self, name: str, weights: Path, tmp_path: Path):
        tensors, tree = mutate.load(hostile.ARTIFACTS / f"{name}.safetensors")
        target, refusals = tmp_path / f"{name}.safetensors", 0
        for _, text in mutate.drawn(tree, 15, seed=TRIED.index(name)):
            mutate.write(target, tensors, text)
            refusals += bool(refused(lambda: used(target, weights)))
        assert refusals > 5

    def test_every_field_is_tried_in_every_way(self, tmp_path: Path):
        tensors, tree = mutate.load(hostile.ARTIFACTS / "small-deep-mlp.safetensors")
        found = {"": 0, "refused": 0}
        for number, (_, text) in enumerate(mutate.headers(tree)):
            if number % 23 == 0:
                path = mutate.write(tmp_path / "a.safetensors", tensors, text)
                found["refused" if refused(lambda: read_artifact(path)) else ""] += 1  # noqa: B023
        assert found["refused"] > 300

    @pytest.mark.parametrize("name", ["small-deep-mlp", "mapped-iterative", "clip-tip-finetuned", "small-lora"])
    def test_tensors_load_or_are_refused(self, name: str, weights: Path, tmp_path: Path):
        tensors, tree = mutate.load(hostile.ARTIFACTS / f"{name}.safetensors")
        target = tmp_path / f"{name}.safetensors"
        for what, values in list(mutate.tensors(tensors))[:: 1 if len(tensors) < 3 else 4]:
            mutate.write(target, values, json.dumps(tree))
            found = refused(lambda: used(target, weights))
            if any(
                word in what for word in ("gone", "nan", "inf", "longer", "axis", "int8", "one more", " -1", "10000")
            ):
                assert found, what

    def test_bytes_load_or_are_refused(self, tmp_path: Path):
        target = tmp_path / "a.safetensors"
        content = (hostile.ARTIFACTS / "small-deep-drop.safetensors").read_bytes()
        for _, changed in mutate.contents(content, 200, seed=0):
            target.write_bytes(changed)
            refused(lambda: read_artifact(target))

    def test_banks_name_what_they_refuse(self, weights: Path, tmp_path: Path):
        tensors, tree = mutate.load(hostile.ARTIFACTS / "small-deep-drop.safetensors")
        bank = vpt.Bank(device="cpu")
        bank.add("good", hostile.ARTIFACTS / "small-deep-drop.safetensors")
        expected = bank.predict(pictures()[:1], ["good"])
        for _, text in mutate.drawn(tree, 60, seed=1):
            path = mutate.write(tmp_path / "a.safetensors", tensors, text)
            if not refused(lambda: bank.add("changed", path)):  # noqa: B023
                refused(lambda: bank.predict(pictures()[:1], ["changed"]))
        assert bank.predict(pictures()[:1], ["good"]) == expected

    def test_commands_give_one_sentence(self, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        tensors, tree = mutate.load(hostile.ARTIFACTS / "small-deep-drop.safetensors")
        artifact, run = tmp_path / "a.safetensors", tmp_path / "run"
        shutil.copytree(hostile.ARTIFACTS.parent / "run", run)
        np.save(tmp_path / "picture.npy", pictures()[0])
        for number, (_, text) in enumerate(mutate.drawn(tree, 16, seed=2)):
            mutate.write(artifact, tensors, text)
            shutil.copy(artifact, run / "artifact.safetensors")
            words = {
                0: ["eval", str(artifact), "data=digits"],
                1: ["eval", str(run)],
                2: ["push", str(artifact), "nobody/nothing"],
                3: ["report", str(run), "--output", str(tmp_path / "page.html"), "--no-model"],
            }[number % 4]
            assert main(words) in (0, 2)
            assert "bug in vpt" not in capsys.readouterr().err


@pytest.mark.usefixtures("whole_data")
class TestCheckpoints:
    @pytest.mark.parametrize("name", ["nano-deep", "small-e2vpt-pruned"])
    def test_headers_go_on_or_are_refused(
        self, name: str, weights: Path, tmp_path: Path, small_net: None, monkeypatch: pytest.MonkeyPatch
    ):
        from tests.compat.cases import settings, write_images
        from vpt.training.context import prepare
        from vpt.training.run_folder import CHECKPOINT, upgraded
        from vpt.training.trainer import Trainer

        run = tmp_path / name
        shutil.copytree(hostile.ARTIFACTS.parent / "stopped" / name, run)
        words = settings(name, write_images(tmp_path / "images"), weights)
        config = load_config(
            base=upgraded(vpt.config.read_yaml(run / "config.yaml")), overrides=[w for w in words if "=/" in w]
        )
        context = prepare(config, task_of(config).load, Console(quiet=True))
        context = replace(context, backbone=backbone_for(config))
        Trainer(context, run)  # as it is
        tensors, tree = mutate.load(run / CHECKPOINT)
        refusals = 0
        for _, text in mutate.drawn(tree, 40, seed=0):
            mutate.write(run / CHECKPOINT, tensors, text)
            refusals += bool(refused(lambda: Trainer(context, run)))
        assert refusals > 15
        for what, values in mutate.tensors(dict(list(tensors.items())[:6])):
            mutate.write(run / CHECKPOINT, {**tensors, **values}, json.dumps(tree))
            if "longer" in what or "axis" in what:
                assert refused(lambda: Trainer(context, run)), what

    def test_an_unknown_round_ends_in_a_sentence(self, weights: Path, tmp_path: Path):
        run = tmp_path / "run"
        shutil.copytree(hostile.ARTIFACTS.parent / "stopped" / "nano-deep", run)
        tensors, tree = mutate.load(run / "checkpoint.safetensors")
        tree["progress"]["round"] = 5
        mutate.write(run / "checkpoint.safetensors", tensors, json.dumps(tree))
        assert "progress.round" in refused(lambda: vpt.resume(run, console=Console(quiet=True)))

    def test_an_epoch_past_the_last_one_ends_training(self, weights: Path, tmp_path: Path):
        run = tmp_path / "run"
        shutil.copytree(hostile.ARTIFACTS.parent / "stopped" / "nano-deep", run)
        tensors, tree = mutate.load(run / "checkpoint.safetensors")
        tree["progress"]["epoch"] = 99
        mutate.write(run / "checkpoint.safetensors", tensors, json.dumps(tree))
        assert vpt.resume(run, console=Console(quiet=True)).metrics["epochs"] == 99


class TestRunFolders:
    def test_metrics_and_logs_of_any_form_make_a_page(self, tmp_path: Path):
        run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.json"
        shutil.copytree(hostile.ARTIFACTS.parent / "run", run)
        tree = json.loads(metrics.read_text())
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for (_, text), (_, log) in zip(mutate.drawn(tree, 6, 0), mutate.drawn({"rows": rows}, 6, 1), strict=True):
            metrics.write_text(text)
            (run / "log.jsonl").write_text("\n".join(json.dumps(row) for row in json.loads(log)["rows"]))
            page = vpt.write_report([run], tmp_path / "page.html", model=False, console=Console(quiet=True))
            assert page.stat().st_size > 10_000

    def test_an_artifact_of_other_classes_is_left_out(self, tmp_path: Path):
        run = tmp_path / "run"
        shutil.copytree(hostile.ARTIFACTS.parent / "run", run)
        shutil.copy(hostile.ARTIFACTS / "small-deep-drop.safetensors", run / "artifact.safetensors")
        page = vpt.write_report([run], tmp_path / "page.html", model=False, console=Console(quiet=True))
        assert "has other classes than the metrics of this run" in page.read_text()
