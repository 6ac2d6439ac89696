"""Segmentation: runs learn, resume and round-trip bit-identically; mistakes are reported before training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.helpers.mask_runs import CLASSES, mask_settings, squares
from tests.helpers.runs import QUIET, interrupted
from vpt.cli.main import main
from vpt.config import FpnMaskHead, load_config
from vpt.data.segmentation.run_lengths import mask_of
from vpt.inference.evaluate import evaluate
from vpt.inference.predictor import load
from vpt.metrics.metrics_file import read_metrics
from vpt.metrics.segmentation import SegmentationMeter
from vpt.models.artifact import read_artifact
from vpt.models.detection.detector import dynamic_backbone
from vpt.models.shape_check import check_tensors
from vpt.training.run import resume, train
from vpt.training.tasks.segmentation import pixel_weights
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def trained(data: Path, drawn_plots: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["train.epochs=12", "data.augment=none", "head.loss=[cross_entropy,dice]", "train.eval_every=4"]
    return train(mask_settings(data, tmp_path_factory.mktemp("runs"), *words), QUIET).folder


def test_the_defaults():
    config = load_config(overrides=["task=segmentation"])
    assert isinstance(config.head, FpnMaskHead)
    assert (config.data.path, config.train.batch_size, config.train.optimizer.lr.head) == ("scenes", 8, 4e-3)
    assert load_config(overrides=["task=segmentation", "head=linear_segmentation"]).head.kind == "linear_segmentation"


def test_a_run_learns_and_writes_its_results(trained: Path, data: Path):
    found = read_metrics(trained / "metrics.json")
    assert found["test"]["miou"] > 0.6
    assert {name for name in found["test"] if name != "per_class"} == {
        *("miou", "mean_dice", "pixel_accuracy", "mean_accuracy", "boundary_f", "loss", "images", "confusion")
    }
    assert [row["class"] for row in found["test"]["per_class"]] == list(CLASSES)
    assert found["test"]["images"] == 2
    assert sum(map(sum, found["test"]["confusion"])) == 2 * (48 * 32 - 4)  # without the ignored pixels
    epochs = [row for row in read_rows(trained) if row["kind"] == "epoch" and "val_miou" in row]
    assert epochs
    assert all(row["val_loss"] > 0 for row in epochs)
    for name in ("val_batch.jpg", "val_predictions.jpg", "confusion.png", "curves.png"):
        with Image.open(trained / name) as picture:
            assert picture.size[0] > 100


def test_validation_images_are_drawn_at_another_size_than_that_of_their_masks(data: Path, tmp_path: Path):
    """Masks of evaluation have the size of the file, images that of the head."""
    config = mask_settings(data, tmp_path, "head.size=64", "head=linear_segmentation", "train.epochs=1")
    folder = train(config, QUIET).folder
    assert "is not drawn" not in (folder / "log.txt").read_text()
    shown = _pixels(folder / "val_batch.jpg")[6:226, 238:458].astype(int)  # the second of two images
    mask = _pixels(data / "masks" / "val" / "4.png")
    found = []
    for label in (1, 2):  # the red and the blue square
        rows, columns = np.nonzero(mask == label)
        y, x = (round((rows.mean() + 0.5) * 220 / 48 + 37), round((columns.mean() + 0.5) * 220 / 48))
        found.append(shown[y - 4 : y + 4, x - 4 : x + 4].mean((0, 1)))
    red, blue = found
    assert red[2] < 45  # half of the image's colour and half of the class's: red and green, blue and yellow
    assert blue[2] > 80


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def test_metrics_are_those_of_the_written_and_the_predicted_masks(trained: Path, data: Path):
    found = read_metrics(trained / "metrics.json")["test"]
    rows = json.loads((trained / "predictions-test.json").read_text())
    predictor = load(trained)
    written, predicted = SegmentationMeter(CLASSES), SegmentationMeter(CLASSES)
    for row in rows:
        truth = _pixels(data / "masks" / Path(row["image"]).relative_to("images"))
        written.update(mask_of(row["segments"], CLASSES), truth)
        (one,) = predictor.predict(data / row["image"])
        predicted.update(one.mask, truth)
        assert row["miou"] == pytest.approx(written.image_miou[-1], abs=1e-6)
    assert written.result().miou == pytest.approx(found["miou"])
    assert predicted.result().miou == pytest.approx(found["miou"])
    assert evaluate(trained, "test", console=QUIET)["miou"] == pytest.approx(found["miou"])


def test_an_artifact_is_evaluated_on_other_data(trained: Path, tmp_path: Path):
    """Classes are matched by name, whatever their indices; pixels of unknown ones are ignored."""
    other = squares(tmp_path / "other", classes=("background", "blue", "green"))
    found = evaluate(trained, "test", [f"data={other}"], console=QUIET)
    confusion = np.array(found["confusion"])
    assert confusion.shape == (3, 3)
    assert confusion[2].sum() == 2 * 14 * 14  # what the file calls blue
    assert confusion[1].sum() == 0
    assert found["per_class"][1]["boundary"] in (None, 0.0)
    none = squares(tmp_path / "none", classes=("sky", "sea", "sand"))
    with pytest.raises(UserError, match="has no class that the artifact was trained on: it has sky, sea, sand"):
        evaluate(trained, "test", [f"data={none}"], console=QUIET)


@pytest.mark.parametrize(
    "words", [["head=linear_segmentation", "head.dropout=0.2"], ["data.augment=light", "prompt.dropout=0.1"]]
)
def test_a_stopped_run_continues_bit_identically(data: Path, tmp_path: Path, words: list[str]):
    whole = train(mask_settings(data, tmp_path / "whole", *words), QUIET).folder
    with interrupted(3, save=True):
        train(mask_settings(data, tmp_path / "cut", *words), QUIET)
    resume(tmp_path / "cut" / "run", console=QUIET)
    one, other = (load_file(folder / "artifact.safetensors") for folder in (whole, tmp_path / "cut" / "run"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, tmp_path / "cut" / "run")]
    assert metrics[0]["test"] == metrics[1]["test"]


def test_every_head_and_loss_trains(data: Path, tmp_path: Path):
    for number, words in enumerate(
        (
            ["head=query_segmentation", "head.queries=4", "head.channels=16", "prompt=none", "head.loss=[focal]"],
            ["head=linear_segmentation", "head.taps=[1,5]", "tuning=lora", "train.class_weights=balanced"],
            ["head=fpn_segmentation", "head.window=32", "head.size=64", "head.resize=square", "prompt=vfpt"],
            ["head=linear_segmentation", "prompt.init=sample", "head.loss=[dice]", "data.augment=none"],
        )
    ):
        result = train(mask_settings(data, tmp_path / str(number), "train.epochs=1", *words), QUIET)
        assert 0 <= result.metrics["test"]["miou"] <= 1
        assert load(result.folder).predict(np.zeros((5, 9, 3), np.uint8))[0].mask.shape == (5, 9)


def test_balanced_weights_count_pixels(data: Path, tmp_path: Path):
    from vpt.training.tasks.segmentation import Segmentation

    config = mask_settings(data, tmp_path, "train.class_weights=balanced")
    weights = pixel_weights(config, Segmentation().load(config))
    ground = 48 * 32 - 4 - 2 * 14 * 14  # the corner is ignored
    total = 48 * 32 - 4
    np.testing.assert_allclose(weights, [total / 3 / ground, total / 3 / 196, total / 3 / 196], rtol=0.02)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["head=linear"], "task=segmentation does not go with head=linear"),
        (["prompt=coop"], "does not take prompt=coop; choose a token prompt or none"),
        (["prompt=pixel"], "does not take prompt=pixel"),
        (["train.label_smoothing=0.1"], "train.label_smoothing does not go with task=segmentation"),
        (["train.shard=true"], "train.shard does not go with task=segmentation"),
        (["data.half=base"], "data.half does not go with task=segmentation"),
        (["head.loss=[hinge]"], "cross_entropy"),
        (["head.taps=[9]"], "layers 0 to 5"),
        (["head.size=33"], "head.size=33 is not a multiple of the patch size"),
        (["head.scales=[3.0]"], "head.scales has 3"),
        (["data.augment=lite"], "data.augment=lite does not exist"),
        (["train.class_weights=[1,2]"], "has 2 numbers; 3 classes need 3"),
        (["data=no/such"], "there is no no/such"),
        (["backbone=resnet18", "backbone.pretrained=false"], "not a vision transformer"),
    ],
)
def test_mistakes_are_reported_before_training(data: Path, tmp_path: Path, words: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        train(mask_settings(data, tmp_path, *words), QUIET)
    assert not any(tmp_path.iterdir())


def test_masks_are_not_for_classification():
    with pytest.raises(UserError, match="set task=segmentation"):
        load_config(overrides=["head=fpn_segmentation"])


def test_a_damaged_mask_is_named_before_and_during_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    data = squares(tmp_path / "data")
    broken = data / "masks" / "train" / "0.png"
    whole = broken.read_bytes()
    usual = Trainer.begin_epoch

    def damage(trainer: Trainer) -> None:
        broken.write_bytes(whole[:60])
        usual(trainer)

    monkeypatch.setattr(Trainer, "begin_epoch", damage)
    with pytest.raises(UserError, match=r"0\.png"):
        train(mask_settings(data, tmp_path / "runs"), QUIET)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"0\.png.*data\.on_bad=skip"):
        train(mask_settings(data, tmp_path / "others"), QUIET)
    assert main(["data", "check", str(data), "task=segmentation", "--preview", str(tmp_path / "preview.png")]) == 2
    out = capsys.readouterr().out
    assert "0.png" in out
    assert "preview of images with their masks" in out
    broken.write_bytes(whole)
    assert main(["data", "check", str(data), "task=segmentation", "--preview", str(tmp_path / "preview.png")]) == 0
    assert "red: 8 training images, 2 validation images, 2 test images" in capsys.readouterr().out
    resume(tmp_path / "runs" / "run", console=QUIET)


def test_the_command_line_measures(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(trained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = read_metrics(trained / "metrics.json")["test"]
    assert lines[0].split() == ["miou", f"{found['miou']:.4f}"]
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert table[0] == ["class", "IoU", "Dice", "boundary", "pixels"]
    assert [row[:2] for row in table[1:]] == [[row["class"], f"{row['iou']:.3f}"] for row in found["per_class"]]
    assert main(["eval", str(trained), "head.window=32", "--format", "json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["miou"] <= 1


def test_an_artifact_of_other_tensors_than_its_header_is_refused(trained: Path):
    """The header of an untrusted file must not decide what is allocated."""
    artifact = read_artifact(trained)
    backbone = dynamic_backbone(artifact.config)
    check_tensors(artifact.path, artifact.config, artifact.classes, artifact.tensors, backbone)
    wrong = "does not fit the model that its own header describes"
    larger = artifact.config.with_({"head.channels": 1024})
    with pytest.raises(UserError, match=wrong):
        check_tensors(artifact.path, larger, artifact.classes, artifact.tensors, backbone)
    with pytest.raises(UserError, match=wrong):
        check_tensors(artifact.path, artifact.config, artifact.classes[:2], artifact.tensors, backbone)
    broken = {name: value * float("nan") for name, value in artifact.tensors.items()}
    with pytest.raises(UserError, match="not finite"):
        check_tensors(artifact.path, artifact.config, artifact.classes, broken, backbone)
