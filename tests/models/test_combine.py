"""Artifacts averaged and interpolated, and prompts continued on another task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vpt
from tests.helpers.bank_tasks import make
from tests.helpers.runs import QUIET, settings
from vpt.cli.main import main
from vpt.models.artifact import read_artifact, write_artifact
from vpt.utils.errors import UserError


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("seeds")
    return [make(folder, "deep", seed) for seed in (0, 3, 6)]


def test_a_mean_holds_the_mean_of_every_tensor_and_predicts(seeds: list[Path], tmp_path: Path):
    path = vpt.average(seeds, tmp_path / "mean.safetensors")
    parts, mean = [load_file(one) for one in seeds], load_file(path)
    assert list(mean) == list(parts[0])
    for name, value in mean.items():
        torch.testing.assert_close(value, sum(part[name] for part in parts) / 3, atol=1e-6, rtol=1e-6)
    assert read_artifact(path).metrics == {}
    photo = np.zeros((40, 40, 3), np.uint8)
    assert vpt.load(path, device="cpu").predict(photo)[0].labels
    assert path.stat().st_size < 1.1 * seeds[0].stat().st_size


def test_weights_interpolate_between_two_and_reach_both_ends(
    seeds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    target = tmp_path / "between.safetensors"
    words = ["average", *map(str, seeds[:2]), "--out", str(target), "--weights", "0.25", "0.75"]
    assert main(words) == 0
    assert str(target) in capsys.readouterr().out
    one, other, between = load_file(seeds[0]), load_file(seeds[1]), load_file(target)
    for name, value in between.items():
        torch.testing.assert_close(value, torch.lerp(one[name], other[name], 0.75))
    first = load_file(vpt.average(seeds[:2], tmp_path / "first.safetensors", (2, 0)))
    assert all(torch.equal(value, one[name]) for name, value in first.items())
    assert main(words) == 2  # it exists
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("weights", [(1,), (0, 0), (-1, 2), (float("nan"), 1), (float("inf"), 1)])
def test_weights_that_make_no_mean_are_refused(seeds: list[Path], tmp_path: Path, weights: tuple[float, ...]):
    with pytest.raises(UserError, match="2 artifacts need 2 weights, of at least 0 and not all 0"):
        vpt.average(seeds[:2], tmp_path / "mean.safetensors", weights)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("deep-longer", [], "in the settings of the prompt"),
        ("deep", ["head=mlp", "head.hidden=[8]"], "in the settings of the head"),
        ("small", [], "in the preprocessing"),
        ("deep", ["tuning=bias"], "in the tuning"),
    ],
)
def test_artifacts_that_differ_have_no_mean(
    seeds: list[Path], tmp_path: Path, name: str, words: list[str], sentence: str
):
    other = read_artifact(make(tmp_path, name, 3, *words))
    path = write_artifact(replace(other, path=tmp_path / "other.safetensors", classes=read_artifact(seeds[0]).classes))
    with pytest.raises(UserError, match=f"other.safetensors differs from .* {sentence}, so they have no mean"):
        vpt.average([seeds[0], path], tmp_path / "mean.safetensors")
    with pytest.raises(UserError, match="in the classes"):
        vpt.average([seeds[0], make(tmp_path, "deep", 1)], tmp_path / "mean.safetensors")


@pytest.mark.parametrize("name", ["lora", "bpt", "pixels-lowrank"])
def test_products_of_matrices_have_no_mean(tmp_path: Path, name: str):
    path = make(tmp_path, name)
    with pytest.raises(UserError, match=r"a product of matrices"):
        vpt.average([path, path], tmp_path / "mean.safetensors")


def test_whole_numbers_must_agree(seeds: list[Path], tmp_path: Path):
    first = read_artifact(seeds[0])
    paths = [
        write_artifact(
            replace(first, path=tmp_path / f"{n}.safetensors", tensors={**first.tensors, "n": torch.tensor([n])})
        )
        for n in (1, 2)
    ]
    with pytest.raises(UserError, match="differ in the whole numbers of n"):
        vpt.average(paths, tmp_path / "mean.safetensors")


@pytest.mark.usefixtures("small_net")
def test_a_prompt_is_continued_on_another_task(shapes: Path, tmp_path: Path):
    first = vpt.train(settings(shapes, tmp_path / "first", "train.seed=5"), QUIET)
    words = [
        f"train.prompt_from={first.folder}",
        "train.optimizer.lr.prompt=1e-12",
        "train.keep=last",
        "train.epochs=1",
    ]
    second = vpt.train(settings(shapes, tmp_path / "second", *words), QUIET)
    new = vpt.train(settings(shapes, tmp_path / "new", *words[1:]), QUIET)
    source, mine, other = (load_file(each.artifact)["prompt.tokens"] for each in (first, second, new))
    torch.testing.assert_close(mine, source, atol=1e-6, rtol=0)
    assert (other - source).abs().max() > 1e-3
    assert read_artifact(second.artifact).config.train.prompt_from is None  # a file of this machine


@pytest.mark.usefixtures("small_net")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prompt.tokens=5"], "has a prompt of other tokens, layers or settings: see prompt.tokens"),
        (["prompt=shallow"], "has prompt=deep, which prompt=shallow cannot continue"),
        (["prompt=none"], "has prompt=deep, which prompt=none cannot continue"),
        (["prompt.init=sample"], "replaces an initialisation from images"),
        (["backbone=vpt_nano", "backbone.pretrained=true"], "was trained on test_vit_patch8_32, not on this"),
        (["train.prompt_from=no/such/run"], "no/such/run: there is no such run folder or artifact"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused_before_training(
    shapes: Path, tmp_path: Path, first_run: Path, words: list[str], sentence: str
):
    given = [f"train.prompt_from={first_run}", *words]
    if words[0] == "prompt=none":
        base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt"})
        config = vpt.load_config(base=base, overrides=given)
    else:
        config = settings(shapes, tmp_path, *given)
    with pytest.raises(UserError, match=sentence):
        vpt.train(config, QUIET)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def first_run(small_net: None, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vpt.train(settings(shapes, tmp_path_factory.mktemp("first"), "train.epochs=1"), QUIET).folder
