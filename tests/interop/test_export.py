"""Exported files give our scores: run in onnxruntime and by torch.export, for every way a prompt acts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import vpt
from tests.helpers import bank_tasks
from tests.helpers.photo import photo
from tests.helpers.runs import NET
from vpt.cli.main import main
from vpt.data.transforms.classification import EvalTransform
from vpt.interop.export.export import export
from vpt.interop.export.formats import opened, write
from vpt.interop.export.preprocess import Square
from vpt.interop.export.program import Program
from vpt.interop.export.target import Format, Target
from vpt.interop.export.written import Exported
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
    "tcpa",
    "viapt",
    "ship",
    "sa2vp",
    "adapter",
    "adapter-after",
    "pixels",
    "pixels-shrunk",
    "pixels-lowrank",
    "mean-first",
]


pytestmark = pytest.mark.usefixtures("small_net")


def make(folder: Path, kind: str, seed: int, *words: str) -> Path:
    """An artifact on a network of two layers, for tracing takes as long as a model has layers."""
    return bank_tasks.make(folder, kind, seed, *NET, "data.crop_pct=1.0", *words)


@pytest.fixture(scope="module")
def any_size(small_net: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Format, Exported]]:
    """An artifact, and its files for photos of any size; of these the 7 that come with scikit-learn and one more are
    compared with prediction."""
    artifact = make(tmp_path_factory.mktemp("any-size"), "deep", 3, "data.crop_pct=0.8")
    return artifact, {format: export(artifact, format=format, check=photo(70, 50)) for format in ("onnx", "torch")}


def scores_of(predictor, pictures: list[np.ndarray]) -> np.ndarray:
    found = predictor.predict(pictures, top=100)
    return np.array([[dict(zip(one.labels, one.scores))[name] for name in predictor.classes] for one in found])


@pytest.mark.parametrize("kind", KINDS)
def test_torch_programs_give_our_scores(tmp_path: Path, kind: str):
    artifact = make(tmp_path, kind, 1)
    predictor = vpt.load(artifact, device="cpu")
    side = predictor.model.image_size
    # Resizing is the same for all methods, so only the fixture `any_size` has it inside.
    done = export(artifact, format="torch", size=(side, side))
    assert done.path == artifact.with_suffix(".pt2")
    pictures = [photo(side, side, seed) for seed in range(5)]
    module = torch.export.load(str(done.path)).module()
    mine = module(torch.from_numpy(np.stack(pictures))).numpy()
    np.testing.assert_allclose(mine, scores_of(predictor, pictures), atol=1e-5)


@pytest.mark.parametrize("kind", ["deep", "shallow", "vapt", "pixels-shrunk"])
def test_onnx_gives_our_scores_for_any_batch(tmp_path: Path, any_size, kind: str):
    artifact = any_size[0] if kind == "deep" else make(tmp_path, kind, 2)
    predictor = vpt.load(artifact, device="cpu")
    side = predictor.model.image_size
    done = any_size[1]["onnx"] if kind == "deep" else export(artifact, size=(side, side))
    assert done.bytes == done.path.stat().st_size
    assert done.difference < 1e-4
    # Squares that are not resized, but with a crop of less than 1 photos of any size always are.
    atol = 2e-3 if kind == "deep" else 1e-4
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        pictures = [photo(side, side, seed) for seed in range(count)]
        (mine,) = session.run(None, {"images": np.stack(pictures)})
        np.testing.assert_allclose(mine, scores_of(predictor, pictures), atol=atol)
    told = {entry.key: entry.value for entry in onnx.load(str(done.path)).metadata_props}
    assert json.loads(told["classes"]) == list(predictor.classes)
    assert told["scores"] == "softmax"


SIZES = ((427, 640), (640, 427), (90, 120), (50, 400), (31, 30), (900, 1400))


def real_photos(sizes) -> list[np.ndarray]:
    originals = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [
        np.asarray(originals[at % 2].resize((width, height), Image.Resampling.LANCZOS))
        for at, (height, width) in enumerate(sizes)
    ]


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_photos_of_any_size_get_the_scores_of_prediction(any_size, format: Format):
    """By default: another tool gives the file the pixels of a photo and nothing else."""
    artifact, files = any_size
    done = files[format]
    assert done.recipe == ""
    assert done.photos is not None
    assert done.photos.same == done.photos.photos == 7
    assert done.photos.difference < 0.005
    predictor = vpt.load(artifact, device="cpu")
    run = opened(done.path, Target(format))
    for pixels in real_photos(SIZES):
        (mine,) = run(torch.from_numpy(pixels.copy())[None])
        np.testing.assert_allclose(mine.numpy(), scores_of(predictor, [pixels]), atol=0.002)


def test_the_file_says_how_photos_are_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = make(tmp_path, "probe", 3, "data.crop_pct=0.8")

    def described() -> dict:
        return {entry.key: entry.value for entry in onnx.load(str(artifact.with_suffix(".onnx"))).metadata_props}

    assert main(["export", str(artifact)]) == 0
    assert "the same class for 6 of 6 photos" in capsys.readouterr().out
    assert described()["images"] == "uint8 (batch, height, width, 3), RGB"
    assert json.loads(described()["preprocessing"]) == {
        "resize_and_crop": "inside",
        "resize_short_side": 40,
        "center_crop": [32, 32],
        "interpolation": "bicubic",
        "antialias": True,
        "normalisation": "inside",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "input_range": [0, 255],
        "layout": "batch, height, width, RGB",
    }
    # Squares of the model's own size are taken as they are, and both the file and the message say what that requires.
    assert main(["export", str(artifact), "--size", "32x32"]) == 0
    out = capsys.readouterr().out
    assert "resize the short side to 40 pixels (bicubic, antialiased), crop the 32x32 centre" in out
    assert described()["images"] == "uint8 (batch, 32, 32, 3), RGB"
    assert json.loads(described()["preprocessing"])["resize_and_crop"] == "not inside: do this first"
    predictor = vpt.load(artifact, device="cpu")
    prepared = predictor.transform(photo(200, 300)).permute(1, 2, 0)[None]
    (mine,) = opened(artifact.with_suffix(".onnx"), Target("onnx"))(prepared.contiguous())
    np.testing.assert_allclose(mine.numpy(), scores_of(predictor, [photo(200, 300)]), atol=1e-4)


def test_a_file_whose_photos_differ_from_prediction_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = make(tmp_path, "deep", 3)
    # A plain resize instead of resizing and cropping, as another tool would do.
    monkeypatch.setattr(
        "vpt.interop.export.classifier.Square", lambda transform: Square(replace(transform, resize="squash"))
    )
    with pytest.raises(UserError, match="was not written: scores of photos would differ by"):
        export(artifact, format="torch")
    assert not artifact.with_suffix(".pt2").exists()


def test_resizing_and_cropping_of_one_size(tmp_path: Path):
    artifact = make(tmp_path, "deep", 3)
    done = export(artifact, tmp_path / "wide.onnx", size=(90, 120), check=photo(70, 50))
    predictor = vpt.load(artifact, device="cpu")
    pictures = [photo(90, 120, seed) for seed in range(3)]
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (mine,) = session.run(None, {"images": np.stack(pictures)})
    np.testing.assert_allclose(mine, scores_of(predictor, pictures), atol=0.002)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_squares_are_those_of_prediction(resize: str, mode: str):
    for pixels in real_photos(((50, 90), (101, 90), (30, 31), (10, 200), (64, 64), (500, 333), (3, 1000), (1, 1))):
        for share in (1.0, 0.875, 1.2):
            transform = EvalTransform(64, resize, share, mode, (10, 200, 77))
            images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
            wrong = (Square(transform)(images)[0].int() - transform(pixels).int()).abs()
            assert wrong.max() <= 2
            assert (wrong > 0).float().mean() < 0.01


def test_nearest_pixels_are_those_of_prediction():
    pixels = real_photos(((60, 90),))[0]
    transform = EvalTransform(30, "squash", interpolation="nearest")
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    assert torch.equal(Square(transform)(images)[0], transform(pixels))


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
    write(program, Target("torch"), tmp_path / "small.pt2")
    assert (tmp_path / "small.pt2").stat().st_size < 100_000
    torch.testing.assert_close(opened(tmp_path / "small.pt2", Target("torch"))(images)[0], module(images))


def test_what_cannot_be_exported_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nothing"):
        export(tmp_path / "nothing")


def test_a_file_that_is_not_right_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = make(tmp_path, "probe", 4)
    monkeypatch.setattr("vpt.interop.export.written.opened", lambda *_: lambda images: (torch.zeros(len(images), 3),))
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
