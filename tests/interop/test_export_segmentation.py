"""Exported segmenters give our masks: run in onnxruntime and by torch.export, for every way a photo is resized."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import vpt
from tests.helpers.runs import NET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.interop.export import segmenter
from vpt.interop.export.export import export
from vpt.interop.export.formats import opened
from vpt.interop.export.target import Target
from vpt.models.artifact import save_artifact
from vpt.training.tasks import task_of
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")


def artifact_of(folder: Path, head: str, *words: str) -> Path:
    """A segmenter with scrambled weights, those of queries more, which would else agree on one class."""
    settings = [*NET, "task=segmentation", f"head={head}", "head.size=64", "prompt.tokens=2", *words]
    config = load_config(overrides=settings)
    classes = ["sky", "tree", "house"]
    model = task_of(config).build(config, classes)
    torch.manual_seed(2)
    with torch.no_grad():
        for _, role, parameter in model.trainable():
            much = 0.3 if role == "head" and head.startswith("query") else 0.1
            parameter.add_(much * torch.randn_like(parameter))
    return save_artifact(folder / "artifact.safetensors", model, config, classes)


def picture(height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((width, height)))


def assert_same_masks(artifact: Path, run, sizes: list[tuple[int, int]]) -> None:
    """A file gives the masks of `vpt predict`, up to the pixels at which two classes are equally likely."""
    predictor = vpt.load(artifact, device="cpu")
    for height, width in sizes:
        pixels = picture(height, width)
        mask, scores = run(torch.from_numpy(np.stack([pixels, pixels[::-1]])))
        assert mask.dtype == torch.uint8
        assert mask.shape == scores.shape == (2, height, width)
        assert 0 < float(scores.min()) <= float(scores.max()) <= 1
        wanted = [found.mask for found in predictor.predict([pixels, np.ascontiguousarray(pixels[::-1])])]
        assert len(np.unique(wanted)) > 1
        assert (mask.numpy() == np.stack(wanted)).mean() > 0.99


def test_photos_of_any_size(tmp_path: Path):
    """With squares inside, the file takes the pixels of a photo of any size and answers at that size."""
    artifact = artifact_of(tmp_path, "linear_segmentation", "head.resize=square")
    done = export(artifact, check=picture(50, 81))
    assert done.equal is not None
    assert done.equal > 0.99
    assert not done.fixed
    assert_same_masks(artifact, opened(done.path, Target("onnx")), [(120, 70), (64, 64), (41, 200)])


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("query_segmentation", ("head.queries=20",)),
        ("linear_segmentation", ("head.window=32", "head.taps=0,-1")),
    ],
)
def test_photos_of_one_size(tmp_path: Path, head: str, words: tuple[str, ...]):
    """The aspect ratio of the size is kept inside; a sliding window becomes part of the file."""
    artifact = artifact_of(tmp_path, head, *words)
    done = export(artifact, format="torch", size=(60, 100))
    assert_same_masks(artifact, opened(done.path, Target("torch")), [(60, 100)])


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = artifact_of(tmp_path, "fpn_segmentation", "head.channels=16", "head.scales=[1.0]")
    file = tmp_path / "mask.onnx"
    assert main(["export", str(artifact), "--output", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "the same class for " in printed
    assert "for photos of another aspect ratio: --size HxW" in printed
    described = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    assert json.loads(described["classes"]) == ["sky", "tree", "house"]
    assert described["images"] == "uint8 (batch, 64, 64, 3), RGB"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["mask", "scores"]
    assert_same_masks(artifact, opened(file, Target("onnx")), [(64, 64)])


def test_other_masks_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As with a runtime that resizes otherwise: the file is compared with prediction before it gets its name."""
    artifact = artifact_of(tmp_path, "linear_segmentation")
    predicted = segmenter.read_out

    def upside_down(*given):
        found = predicted(*given)
        return found._replace(labels=found.labels.flip(0))

    monkeypatch.setattr(segmenter, "read_out", upside_down)
    with pytest.raises(UserError, match=r"was not written: in photos .*% of the pixels would get another class"):
        export(artifact, format="torch", size=(60, 80))
    assert not (tmp_path / "artifact.pt2").exists()
