"""Runs that predict a number: the height of a bar, which a table names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score

from tests.helpers.image_files import photo, save
from tests.helpers.runs import NET, QUIET, interrupted
from vpt.cli.main import main
from vpt.config import RegressionHead, load_config
from vpt.experiments.folds import train_folds
from vpt.experiments.seeds import train_seeds
from vpt.heads.regression import build_regression
from vpt.inference.bank.bank import Bank
from vpt.inference.evaluate import evaluate
from vpt.inference.predictor import load
from vpt.inference.regression import NumberResult
from vpt.interop.export.export import export
from vpt.metrics.metrics_file import read_metrics
from vpt.metrics.number_predictions import read_numbers
from vpt.models.artifact import read_artifact
from vpt.report.build import write_report
from vpt.training.run import resume, train
from vpt.training.run_folder import TrainResult
from vpt.training.tasks.regression import number_loss
from vpt.utils.errors import UserError
from vpt.utils.image_grid import grid, tile


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty bars of 4 to 27 pixels, three a patient; the table has their heights in hundreds."""
    root = tmp_path_factory.mktemp("bars")
    chance = np.random.default_rng(0)
    lines = ["file,height,patient,split"]
    for number in range(60):
        height = int(chance.integers(4, 28))
        pixels = chance.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        pixels[32 - height :, 8:24] += 150
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append(f"{number}.png,{100 * height + 2000},P{number // 3},{'test' if number >= 45 else 'train'}")
    (root / "bars.csv").write_text("\n".join(lines))
    return root


def words(bars: Path, out: Path, *more: str) -> list[str]:
    common = ["head=regression", f"data={bars / 'bars.csv'}", "data.label_column=height", f"out={out}", *NET]
    return [*common, "prompt.tokens=2", "train.epochs=2", "data.group=patient", "data.val_fraction=0.2", *more]


@pytest.fixture(scope="module")
def run(bars: Path, tmp_path_factory: pytest.TempPathFactory, small_net) -> TrainResult:
    return train(load_config(overrides=words(bars, tmp_path_factory.mktemp("runs"), "name=run", "compare=none")), QUIET)


def test_predictions_are_drawn_beside_the_truth(run: TrainResult) -> None:
    files = sorted(file.name for file in run.folder.glob("*_predictions.jpg"))
    assert files == ["val_predictions.jpg"]
    tiles = grid(
        [tile(np.zeros((9, 9, 3), np.uint8), ["a", "b"])] * len(read_numbers(run.folder / "predictions-val.csv"))
    )
    with Image.open(run.folder / files[0]) as found:
        assert found.size == tiles.shape[1::-1]
        assert np.asarray(found).std() > 20
    assert "true: " in write_report([run.folder], output=run.folder / "page.html").read_text()


def test_metrics_are_those_of_its_predictions(run: TrainResult, bars: Path):
    answers = read_numbers(run.folder / "predictions-test.csv")
    wanted, predicted = [one.true for one in answers], [one.predicted for one in answers]
    found = run.metrics["test"]
    assert found["r2"] == pytest.approx(r2_score(wanted, predicted), rel=1e-5)
    assert found["mae"] == pytest.approx(mean_absolute_error(wanted, predicted), rel=1e-5)
    assert found["r2"] > 0.5
    assert {one.group for one in answers} == {"1", "2", "3", "4", "5"}  # patients, without their names
    assert found["intervals"]["mae"][0] < found["mae"] < found["intervals"]["mae"][1]
    assert read_metrics(run.folder / "metrics.json")["test"] == found
    assert (run.folder / "predicted.png").is_file()
    again = evaluate(run.folder, console=QUIET)
    assert again == found
    whole = evaluate(run.folder, "test", [f"data={bars / 'bars.csv'}", "data.group=null"], QUIET)
    assert whole["mae"] == pytest.approx(found["mae"])


def test_the_artifact_has_the_scale_of_the_target(run: TrainResult, bars: Path):
    artifact = read_artifact(run.artifact)
    assert artifact.classes == ("height",)
    assert artifact.config.task == "regression"
    data = [line.split(",") for line in (bars / "bars.csv").read_text().splitlines()[1:46]]
    assert 2000 < float(artifact.tensors["head.mean"]) < max(float(row[1]) for row in data)
    results = load(run.folder).predict(bars)
    assert all(isinstance(each, NumberResult) for each in results)
    by_name = {Path(each.image).name: each.number for each in results}
    for one in read_numbers(run.folder / "predictions-test.csv"):
        assert by_name[one.image] == pytest.approx(one.predicted, rel=1e-5)


def test_commands_print_the_number(run: TrainResult, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = str(bars / "50.png")
    assert main(["predict", str(run.folder), image, "--draw", str(tmp_path / "drawn")]) == 0
    assert "50.png  height " in capsys.readouterr().out
    assert len(list((tmp_path / "drawn").iterdir())) == 1
    assert main(["predict", str(run.folder), image, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert set(row) == {"image", "name", "number"}
    assert main(["predict", str(run.folder), image, "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "image,name,number"
    assert main(["predict", str(run.folder), image, "--threshold", "0.3"]) == 2
    assert "--threshold cannot be used with an artifact of task=regression" in capsys.readouterr().err
    assert main(["eval", str(run.folder)]) == 0
    assert "(95%: " in capsys.readouterr().out
    assert main(["data", "check", str(bars / "bars.csv"), "task=regression", "data.label_column=height"]) == 0
    assert "\ntraining: 41 images, height from 2" in capsys.readouterr().out


def test_a_bank_and_exports_give_the_same_number(run: TrainResult, bars: Path, tmp_path: Path):
    pictures = [np.asarray(Image.open(bars / f"{number}.png").convert("RGB")) for number in (0, 7)]
    wanted = [each.number for each in load(run.folder).predict(pictures)]
    bank = Bank()
    bank.add("height", run.folder)
    found = bank.predict(pictures, ["height", "height"])
    assert [each.number for each in found] == pytest.approx(wanted, rel=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = export(run.folder, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(exported.path))
    (numbers,) = session.run(["number"], {"images": np.stack(pictures)})
    assert numbers.tolist() == pytest.approx(wanted, rel=1e-3)
    assert session.get_modelmeta().custom_metadata_map["name"] == "height"
    program = export(run.folder, tmp_path / "a.pt2", format="torch")
    found = torch.export.load(program.path).module()(torch.from_numpy(np.stack(pictures)))
    assert found.tolist() == pytest.approx(wanted, rel=1e-3)


def test_a_report_shows_and_compares(run: TrainResult, bars: Path, tmp_path: Path):
    page = write_report(run.folder, tmp_path / "one.html", console=QUIET).read_text(encoding="utf-8")
    assert "the mean absolute error is" in page
    assert "predicted height by true height" in page
    assert page.count("data:image/jpeg") + page.count("data:image/png") >= 10
    both = [run.folder, run.folder / "compare-none"]
    page = write_report(both, tmp_path / "two.html", console=QUIET).read_text(encoding="utf-8")
    assert "R² of the other" in page
    assert "paired bootstrap" in page


def test_a_run_resumes_exactly(bars: Path, tmp_path: Path, small_net):
    more = ["name=run", "prompt.dropout=0.1", "head.init=small", "head.hidden=[8]", "head.loss=huber"]
    whole = train(load_config(overrides=words(bars, tmp_path / "whole", *more)), QUIET)
    with interrupted(step=3, save=True):
        train(load_config(overrides=words(bars, tmp_path / "cut", *more)), QUIET)
    rest = resume(tmp_path / "cut" / "run", console=QUIET)
    assert rest.metrics["test"] == whole.metrics["test"]
    for name, value in read_artifact(whole.artifact).tensors.items():
        assert torch.equal(read_artifact(rest.artifact).tensors[name], value), name


def test_seeds_and_folds_are_summarised(bars: Path, tmp_path: Path, small_net, capsys: pytest.CaptureFixture[str]):
    config = load_config(overrides=words(bars, tmp_path, "prompt=none", "train.epochs=1"))
    folder = train_seeds(config.with_(name="seeds"), [0, 1])
    assert json.loads((folder / "seeds.json").read_text())["rows"][0]["metric"] == "r2"
    assert "test r2 0." in capsys.readouterr().err
    folder = train_folds(config.with_({"name": "folds", "data.folds": 3}))
    said = capsys.readouterr().err
    assert "all 45 out-of-fold predictions of 15 groups: r2 " in said
    (row,) = json.loads((folder / "folds.json").read_text())["rows"]
    answers = read_numbers(folder / "predictions.csv")
    assert row["pooled"]["mae"] == pytest.approx(
        mean_absolute_error([one.true for one in answers], [one.predicted for one in answers]), rel=1e-5
    )
    assert len({one.group for one in answers}) == 15


@pytest.mark.parametrize(
    ("loss", "twin"),
    [
        ("l2", torch.nn.functional.mse_loss),
        ("l1", torch.nn.functional.l1_loss),
        ("huber", lambda a, b: torch.nn.functional.huber_loss(a, b, delta=0.5)),
    ],
)
def test_losses_are_of_standardised_targets(loss: str, twin):
    config = RegressionHead(loss=loss, delta=0.5)
    head = build_regression(config, 3, 1)
    head.standardise(np.array([10.0, 30.0, 50.0]))
    outputs, labels = torch.tensor([[10.0], [30.0], [80.0]]), torch.tensor([20.0, 25.0, 0.0])
    std = np.std([10.0, 30.0, 50.0])
    wanted = twin((outputs[:, 0] - 30) / std, (labels - 30) / std)
    assert float(number_loss(config, head)(outputs, labels)) == pytest.approx(float(wanted))


def test_the_head_names_the_task():
    assert load_config(overrides=["head=regression"]).task == "regression"
    assert load_config(overrides=["task=regression"]).head.kind == "regression"
    recipe = load_config(overrides=["head=regression"])
    assert (recipe.starts_from_probe, recipe.train.batch_size) == (True, 16)
    assert not load_config(overrides=["head=regression", "head.hidden=8"]).starts_from_probe
    with pytest.raises(UserError, match="task=regression does not go with head=linear; choose head=regression"):
        load_config(overrides=["task=regression", "head=linear"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["train.label_smoothing=0.1"], "train.label_smoothing is for classes"),
        (["train.loss=coral"], "train.loss is for classes"),
        (["data.multilabel=true", "data.half=base"], "data.multilabel, data.half is for classes"),
        (["metrics.threshold=youden"], "metrics.threshold is for classes"),
        (["prompt=davpt"], "prompt=davpt needs classes"),
        (["prompt.pae=released"], "prompt=deep needs classes"),
        (["prompt=coop"], "prompt=coop needs classes"),
        (["head.init=probe", "head.hidden=8"], "is for a head without head.hidden"),
    ],
)
def test_settings_of_classes_are_refused(given: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        load_config(overrides=["head=regression", *given])


def test_data_of_classes_is_refused(tmp_path: Path):
    for name in ("cat", "dog"):
        for number in range(3):
            save(tmp_path / name / f"{number}.png", photo())
    with pytest.raises(UserError, match=r"whose label is no number: cat/0\.png, 'cat'"):
        train(load_config(overrides=["head=regression", f"data={tmp_path}"]), QUIET)
