"""Exported files give our scores: run in onnxruntime and by torch.export, for every way a prompt acts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import vpt
from tests.helpers.bank_tasks import make
from tests.helpers.photo import photo
from vpt.cli.main import main
from vpt.data.transforms.classification import EvalTransform
from vpt.interop.export.export import export
from vpt.interop.export.onnx import Program, opened, write
from vpt.interop.export.preprocess import Square
from vpt.utils.errors import UserError

KINDS = [
    "deep",
    "shallow",
    "probe",
    "vfpt",
    "e2vpt",
    "cvpt",
    "vapt",
    "gated",
    "bpt",
    "davpt",
    "vqt",
    "provpt",
    "adapter",
    "adapter-after",
    "pixels",
    "pixels-shrunk",
    "pixels-lowrank",
    "mean-first",
]


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
    done = export(artifact, tmp_path / "wide.onnx", size=(90, 120), check=photo(70, 50))
    predictor = vpt.load(artifact, device="cpu")
    pictures = [photo(90, 120, seed) for seed in range(3)]
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (mine,) = session.run(None, {"images": np.stack(pictures)})
    # Pillow rounds here and there otherwise than this resize, by one level.
    np.testing.assert_allclose(mine, scores_of(predictor, pictures), atol=0.005)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_squares_are_those_of_prediction(resize: str, mode: str):
    for height, width in ((50, 90), (101, 40), (30, 31), (10, 200)):
        for share in (1.0, 0.875):
            transform = EvalTransform(64, resize, share, mode, (10, 200, 77))
            picture = photo(height, width)
            images = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
            wrong = (Square(transform, (height, width))(images)[0].int() - transform(picture).int()).abs()
            assert wrong.max() <= 2
            assert (wrong > 0).float().mean() < 0.05


def test_a_filter_that_no_runtime_has_is_refused():
    transform = EvalTransform(8, interpolation="lanczos")
    with pytest.raises(UserError, match="lanczos, which no runtime has; leave out the size"):
        Square(transform, (9, 9))
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert Square(transform, (8, 8))(images) is images


def test_weights_that_nothing_reads_stay_behind(tmp_path: Path):
    class Halved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.unread = torch.nn.Linear(3, 3), torch.nn.Linear(1000, 1000)
            self.register_buffer("never", torch.zeros(1000))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.read(images)

    module, images = Halved(), torch.randn(2, 3)
    program = Program(module, images, "images", ("scores",), None, {})
    assert sorted(program.traced().state_dict) == ["read.bias", "read.weight"]
    write(program, "torch", tmp_path / "small.pt2")
    assert (tmp_path / "small.pt2").stat().st_size < 100_000
    torch.testing.assert_close(opened(tmp_path / "small.pt2", "torch")(images)[0], module(images))


def test_what_cannot_be_exported_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nothing"):
        export(tmp_path / "nothing")


def test_a_file_that_is_not_right_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = make(tmp_path, "probe", 4)
    monkeypatch.setattr("vpt.interop.export.export.opened", lambda *_: lambda images: (torch.zeros(len(images), 3),))
    artifact.with_suffix(".pt2").write_text("what was there before")
    with pytest.raises(UserError, match="was not written, because its scores would differ"):
        export(artifact, format="torch")
    assert artifact.with_suffix(".pt2").read_text() == "what was there before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["probe-4.pt2", "probe-4.safetensors"]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = make(tmp_path, "probe", 5)
    assert main(["export", str(artifact), "--format", "torch", "--output", str(tmp_path / "out.pt2")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(tmp_path / "out.pt2")
    assert "ms per image" in out[1]
    assert main(["export", str(artifact), "--size", "big"]) == 2
    assert "as in --size 480x640" in capsys.readouterr().err
