"""Exported files give our scores: run in onnxruntime and by torch.export, for every way a prompt acts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from test_bank import make

import vpt
from vpt.cli.main import main
from vpt.errors import UserError
from vpt.export import export

KINDS = ["deep", "shallow", "probe", "vfpt", "e2vpt", "cvpt", "vapt", "gated", "bpt", "pixels", "pixels-shrunk"]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def scores_of(predictor, pictures: list[np.ndarray]) -> np.ndarray:
    found = predictor.predict(pictures, top=100)
    return np.array([[dict(zip(one.labels, one.scores))[name] for name in predictor.classes] for one in found])


@pytest.mark.parametrize("kind", KINDS)
def test_torch_programs_give_our_scores(tmp_path: Path, kind: str):
    artifact = make(tmp_path, kind, 1)
    done = export(artifact, format="torch")
    assert done.path == artifact.with_suffix(".pt2")
    predictor = vpt.load(artifact, device="cpu")
    side = predictor.model.image_size
    pictures = [photo(side, side, seed) for seed in range(5)]
    module = torch.export.load(str(done.path)).module()
    mine = module(torch.from_numpy(np.stack(pictures))).numpy()
    np.testing.assert_allclose(mine, scores_of(predictor, pictures), atol=1e-5)


@pytest.mark.parametrize("kind", ["deep", "shallow", "vapt", "pixels-shrunk"])
def test_onnx_gives_our_scores_for_any_batch(tmp_path: Path, kind: str):
    artifact = make(tmp_path, kind, 2)
    done = export(artifact)
    assert done.bytes == done.path.stat().st_size
    assert done.difference < 1e-4
    predictor = vpt.load(artifact, device="cpu")
    side = predictor.model.image_size
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        pictures = [photo(side, side, seed) for seed in range(count)]
        (mine,) = session.run(None, {"images": np.stack(pictures)})
        np.testing.assert_allclose(mine, scores_of(predictor, pictures), atol=1e-4)
    told = {entry.key: entry.value for entry in onnx.load(str(done.path)).metadata_props}
    assert json.loads(told["classes"]) == list(predictor.classes)
    assert told["scores"] == "softmax"


def test_resizing_and_cropping_inside(tmp_path: Path):
    artifact = make(tmp_path, "deep", 3)
    done = export(artifact, tmp_path / "wide.onnx", size=(90, 120))
    predictor = vpt.load(artifact, device="cpu")
    pictures = [photo(90, 120, seed) for seed in range(3)]
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (mine,) = session.run(None, {"images": np.stack(pictures)})
    # Pillow's resize and this one round differently, by a level or so.
    np.testing.assert_allclose(mine, scores_of(predictor, pictures), atol=0.02)


def test_what_cannot_be_exported_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nothing"):
        export(tmp_path / "nothing")


def test_a_file_that_is_not_right_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = make(tmp_path, "probe", 4)
    monkeypatch.setattr("vpt.export.write.opened", lambda *_: lambda images: (torch.zeros(len(images), 3),))
    with pytest.raises(UserError, match="differ from ours"):
        export(artifact, format="torch")
    assert not artifact.with_suffix(".pt2").exists()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = make(tmp_path, "probe", 5)
    assert main(["export", str(artifact), "--format", "torch", "--output", str(tmp_path / "out.pt2")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(tmp_path / "out.pt2")
    assert "ms for one image" in out[1]
    assert main(["export", str(artifact), "--size", "big"]) == 2
    assert "as in --size 480x640" in capsys.readouterr().err
