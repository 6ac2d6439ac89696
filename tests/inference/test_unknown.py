"""Images of none of the classes: from training to every answer."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import vpt
from tests.helpers.hostile_artifacts import refused
from tests.helpers.image_files import save
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.inference.classifier import Classifier
from vpt.inference.evaluate import evaluate
from vpt.inference.server.json_results import row_of
from vpt.interop.export.export import export
from vpt.interop.export.formats import opened
from vpt.interop.export.target import Target
from vpt.models.artifact import read_artifact
from vpt.training.run import train
from vpt.training.run_folder import TrainResult
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import open_tensors, write_tensors


def picture(chance: np.random.Generator, level: int) -> np.ndarray:
    return np.clip(chance.normal(level, 12, (32, 32, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and light noise, and one image of stripes, which is neither."""
    root, chance = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 12), ("test", 8)):
        for name, level in (("dark", 60), ("light", 180)):
            for number in range(count):
                save(root / "data" / split / name / f"{number}.png", picture(chance, level))
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::4], stripes[::8] = (255, 0, 0), (0, 0, 255)
    save(root / "stripes.png", stripes)
    return root


WORDS = [*NET, "prompt.tokens=2", "train.epochs=1", "data.augment=none", "train.precision=fp32", "data.workers=0"]


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory, small_net: None) -> TrainResult:
    words = [f"data={images / 'data'}", f"out={tmp_path_factory.mktemp('runs')}", *WORDS]
    more = ["metrics.unknown=0.1", "metrics.threshold=youden", "metrics.unsure=0.01", "name=run"]
    return train(load_config(overrides=[*words, *more]), QUIET)


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["predict", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_a_run_reports_how_many_it_rejects(run: TrainResult, tmp_path: Path):
    assert 0 < run.metrics["val"]["unknown_rate"] <= 0.1
    assert run.metrics["test"]["unknown_rate"] < 0.6
    again = evaluate(run.folder, "test", (), QUIET)
    assert again["unknown_rate"] == pytest.approx(run.metrics["test"]["unknown_rate"])
    with pytest.raises(UserError, match=r"metrics\.unknown would have no effect"):
        evaluate(run.folder, "test", ["metrics.unknown=0.2"], QUIET)
    page = vpt.write_report(run.folder, tmp_path / "page.html", model=False, images=0).read_text()
    assert "answered: none of these" in page
    names = set(read_artifact(run.folder).tensors)
    assert {"unknown.center", "unknown.directions", "unknown.alpha", "unknown.threshold"} <= names


def test_every_answer_says_it(run: TrainResult, images: Path, capsys: pytest.CaptureFixture[str]):
    stripes, dark = images / "stripes.png", images / "data" / "train" / "dark" / "0.png"
    predictor = vpt.load(run.folder, device="cpu")
    strange, usual = predictor.predict([stripes, dark])
    assert strange.unknown
    assert strange.holding == ()
    assert strange.unknown_score > 0.5 > usual.unknown_score
    assert usual.holding == ("dark",)
    assert strange.lines()[0].startswith("[none of these]  ")
    rows = json.loads(ask(capsys, run.folder, stripes, dark, "--format", "json", "--device", "cpu"))
    assert [(row["labels"], row["unknown"]) for row in rows] == [([], True), (["dark"], False)]
    assert rows[0]["unknown_score"] == pytest.approx(strange.unknown_score, abs=1e-5)
    text = ask(capsys, run.folder, stripes, dark, "--format", "csv", "--top", "1", "--device", "cpu")
    table = list(csv.DictReader(io.StringIO(text)))
    assert list(table[0]) == ["image", "rank", "label", "score", "decision", "unsure", "unknown", "unknown_score"]
    assert [(row["decision"], row["unknown"]) for row in table] == [("", "yes"), ("dark", "no")]
    assert "[none of these]" in ask(capsys, run.folder, stripes, "--device", "cpu")
    # A bank and a server compute the features in passes of their own.
    bank = vpt.Bank(device="cpu")
    bank.add("noise", run.artifact)
    found = bank.predict([stripes, dark], ["noise", "noise"])
    assert [each.unknown for each in found] == [True, False]
    assert found[0].unknown_score == pytest.approx(strange.unknown_score, abs=1e-3)
    assert row_of(found[0], "stripes.png", "noise", 1, 0)["unknown"] is True
    square = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert bank.logits(square, ["noise"])[0].shape == (2,)


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_exported_files_say_it(run: TrainResult, images: Path, tmp_path: Path, format: Any):
    """The score of unknown images and the decision are outputs, and the metadata explain them."""
    predictor = vpt.load(run.folder, device="cpu")
    assert isinstance(predictor, Classifier)
    file = tmp_path / f"file.{format}"
    export(run.folder, file, format=format, size=(32, 32))
    pictures = [picture(np.random.default_rng(number), level) for number, level in enumerate((60, 110, 118, 180, 255))]
    scores, unknown, decided = opened(file, Target(format))(torch.from_numpy(np.stack(pictures)))
    squares = [torch.from_numpy(each).permute(2, 0, 1) for each in pictures]  # taken as they are, as by the file
    for number, found in enumerate(predictor.answer(list("abcde"), squares, [(32, 32)] * 5, 2)):
        by_name = dict(zip(found.labels, found.scores))
        assert scores[number].tolist() == pytest.approx([by_name[name] for name in predictor.classes], abs=1e-4)
        assert float(unknown[number]) == pytest.approx(found.unknown_score, abs=1e-3)
        row = decided[number].tolist()
        assert [name for name, one in zip(predictor.classes, row) if one == 1] == list(found.holding)
        unsure = [name for name, one in zip(predictor.classes, row) if one == -1]
        assert unsure == list(found.unsure)
    if format == "onnx":
        described = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
        decision = json.loads(described["decision"])
        threshold = run.metrics["val"]["threshold"]
        assert (decision["thresholds"], decision["unsure"]) == ({"light": threshold}, 0.01)
        assert json.loads(described["unknown"])["threshold"] == 0.5
    else:
        described = {"vpt.json": ""}
        torch.export.load(file, extra_files=described)
        assert json.loads(described["vpt.json"])["decision"]["thresholds"]["light"] == run.metrics["val"]["threshold"]


def test_without_the_setting_answers_are_as_before(images: Path, tmp_path: Path, small_net: None):
    words = [f"data={images / 'data'}", f"out={tmp_path}", *WORDS, "name=plain", "prompt=none"]
    result = train(load_config(overrides=words), QUIET)
    predictor = vpt.load(result.folder, device="cpu")
    assert predictor.columns == ("image", "rank", "label", "score")
    (found,) = predictor.predict(images / "stripes.png")
    assert not found.unknown
    assert found.unknown_score is None
    assert set(found.to_dict()) == {"image", "labels", "scores"}
    assert "unknown_rate" not in result.metrics["test"]


def test_it_needs_validation_and_classification(images: Path, tmp_path: Path, small_net: None):
    words = [f"data={images / 'data'}", f"out={tmp_path}", *WORDS, "metrics.unknown=0.1", "name=none"]
    with pytest.raises(UserError, match=r"metrics\.unknown needs training and validation images: set data\.val_frac"):
        train(load_config(overrides=[*words, "data.join_val=true"]), QUIET)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"metrics\.unknown is for task=classification"):
        load_config(overrides=["task=detection", "metrics.unknown=0.1"])


def test_other_tensors_are_refused(run: TrainResult, tmp_path: Path):
    """Sizes follow from the settings of the file and its backbone, before any memory of that size is taken."""
    with open_tensors(run.artifact) as file:
        tensors, tree = file.tensors(), file.tree
    for name, value in (
        ("unknown.center", torch.zeros(31)),
        ("unknown.directions", torch.zeros(32, 64)),
        ("unknown.alpha", torch.tensor(float("nan"))),
        ("unknown.more", torch.zeros(1)),
    ):
        path = write_tensors(tmp_path / "hostile.safetensors", {**tensors, name: value}, tree)
        assert name in refused(lambda path=path: vpt.load(path, device="cpu"))
    less = {name: value for name, value in tensors.items() if name != "unknown.center"}
    path = write_tensors(tmp_path / "hostile.safetensors", less, tree)
    assert "unknown.center" in refused(lambda: vpt.load(path, device="cpu"))
