"""`vpt add-class`: a class more, without training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vpt
from tests.helpers.image_files import broken_files
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.inference.evaluate import evaluate, evaluate_untrained
from vpt.inference.predictor import load
from vpt.interop.export.export import export
from vpt.models.artifact import read_artifact
from vpt.training.run import train
from vpt.utils.errors import UserError

KINDS = ["knn", "prototype"]


@pytest.fixture(scope="module")
def two(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes without the squares."""
    root = tmp_path_factory.mktemp("two")
    for split in ("train", "val", "test"):
        for name in ("lying", "standing"):
            shutil.copytree(shapes / split / name, root / split / name)
    return root


def settings(data: Path, out: Path, kind: str, *more: str) -> list[str]:
    return [f"head={kind}", f"data={data}", f"out={out}", "name=run", *NET, "data.workers=0", *more]


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, two: Path, tmp_path_factory: pytest.TempPathFactory, small_net) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    return train(load_config(overrides=settings(two, out, request.param)), QUIET).folder


def test_it_predicts_as_if_trained_with_the_class(run: Path, shapes: Path, two: Path, tmp_path: Path):
    kind = read_artifact(run).config.head.kind
    config = load_config(overrides=settings(shapes, tmp_path, kind))
    whole = train(config, QUIET)
    assert whole.metrics["parameters"]["learning"] == 0
    grown = vpt.add_class(run, "square", shapes / "train" / "square", tmp_path / "grown.safetensors", console=QUIET)
    artifact = read_artifact(grown)
    assert artifact.classes == ("lying", "standing", "square")
    assert artifact.metrics == {}
    pictures = shapes / "test"
    first, second = load(whole.folder).predict(pictures, top=3), load(grown).predict(pictures, top=3)
    for one, other in zip(first, second, strict=True):
        mine, theirs = (dict(zip(each.labels, each.scores, strict=True)) for each in (one, other))
        assert mine == pytest.approx(theirs, abs=1e-4)
    found = evaluate(grown, "test", [f"data={shapes}"], QUIET)
    assert found["accuracy"] == pytest.approx(whole.metrics["test"]["accuracy"])
    # Before the class was added, its images were not evaluated; the run itself is as it was.
    assert read_artifact(run).classes == ("lying", "standing")
    assert evaluate(run, console=QUIET)["accuracy"] == evaluate(run, "test", [f"data={two}"], QUIET)["accuracy"]
    assert evaluate_untrained(config, "test", QUIET)["accuracy"] == whole.metrics["test"]["accuracy"]


def test_an_artifact_that_grew_is_served_and_exported(run: Path, shapes: Path, tmp_path: Path):
    grown = vpt.add_class(run, "square", [*(shapes / "train" / "square").iterdir()], tmp_path / "a.safetensors")
    pixels = np.asarray(Image.open(shapes / "test" / "square" / "0.png").convert("RGB"))
    (wanted,) = load(grown).predict(pixels, top=3)
    bank = vpt.Bank()
    bank.add("before", run)
    bank.add("after", grown)
    before, after = bank.predict([pixels, pixels], ["before", "after"], top=3)
    assert len(before.labels) == 2
    assert after.labels == wanted.labels
    assert after.scores == pytest.approx(wanted.scores, abs=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(export(grown, tmp_path / "a.onnx").path))
    (scores,) = session.run(None, {"images": np.stack([pixels] * 3)})
    by_name = dict(zip(wanted.labels, wanted.scores, strict=True))
    assert scores[0].tolist() == pytest.approx([by_name[name] for name in ("lying", "standing", "square")], abs=1e-3)


def test_the_command_writes_beside_or_in_place(
    run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own = tmp_path / "own"
    shutil.copytree(run, own)
    words = ["add-class", str(own), "Big/Square", str(shapes / "train" / "square")]
    assert main(words) == 0
    assert Path(capsys.readouterr().out.strip()) == own / "artifact+Big_Square.safetensors"
    assert read_artifact(own).classes == ("lying", "standing")
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--in-place", "--out", "x"]) == 2
    assert main([*words, "--in-place"]) == 0
    assert read_artifact(own).classes == ("lying", "standing", "Big/Square")
    assert main(["eval", str(own)]) == 0
    assert main(["report", str(own), "--output", str(tmp_path / "page.html")]) == 0


def test_images_that_cannot_be_read_are_left_out(
    run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = broken_files(tmp_path / "broken")
    with pytest.raises(UserError, match=f"none of the {len(broken)} images of the class 'square' can be read"):
        vpt.add_class(run, "square", [*broken.values()], tmp_path / "a.safetensors", console=QUIET)
    assert not (tmp_path / "a.safetensors").exists()
    good = sorted((shapes / "train" / "square").iterdir())[:2]
    mixed = [broken["text"], *good]
    vpt.add_class(run, "square", mixed, tmp_path / "a.safetensors", batch_size=1)
    said = capsys.readouterr().err
    assert "left out: " in said
    assert "text.jpg" in said
    assert "class 'square' from 2 images; 3 classes" in said


def test_mistakes_are_told(run: Path, shapes: Path, tmp_path: Path, small_net):
    folder = shapes / "train" / "square"
    for name, sentence in (
        ("lying", "has the class 'lying' already"),
        (" lying ", "has the class 'lying' already"),
        ("", "is empty"),
        ("a" * 1001, "more than 1000 characters"),
    ):
        with pytest.raises(UserError, match=sentence):
            vpt.add_class(run, name, folder, console=QUIET)
    with pytest.raises(UserError, match="no such file, folder or match"):
        vpt.add_class(run, "square", tmp_path / "none", console=QUIET)
    with pytest.raises(UserError, match="no such run folder"):
        vpt.add_class(tmp_path / "none", "square", folder, console=QUIET)
    words = [f"data={shapes}", f"out={tmp_path}", "name=linear", *NET, "prompt=none", "train.epochs=1"]
    linear = train(load_config(overrides=words), QUIET)
    with pytest.raises(UserError, match="has head=linear, to which no class can be added without training"):
        vpt.add_class(linear.folder, "square", folder, console=QUIET)


def test_stored_features_are_bounded(two: Path, shapes: Path, tmp_path: Path, small_net):
    run = train(load_config(overrides=settings(two, tmp_path, "knn", "head.images=5", "head.k=3")), QUIET)
    assert read_artifact(run.artifact).tensors["head.keys"].shape[0] == 5
    grown = vpt.add_class(run.folder, "square", shapes / "train" / "square", tmp_path / "a.safetensors", console=QUIET)
    tensors = read_artifact(grown).tensors
    assert tensors["head.labels"].bincount().tolist()[2] == 5
    assert str(tensors["head.keys"].dtype) == "torch.float16"
    found = evaluate(run.folder, "test", ["head.k=1", "head.temperature=0.5"], QUIET)
    assert 0 <= found["accuracy"] <= 1
