"""Experiment trackers, against MLflow with an SQLite store and W&B offline; and results.csv."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import QUIET, interrupted, settings
from tests.helpers.serving import until
from vpt.training import trackers
from vpt.training.run import resume, train
from vpt.training.trackers import RUN_IDS, Tracker
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows

pytestmark = [pytest.mark.usefixtures("small_net"), pytest.mark.filterwarnings("ignore")]


def test_results_csv_holds_every_epoch_also_of_a_resumed_run(shapes: Path, tmp_path: Path):
    with interrupted(7):
        train(settings(shapes, tmp_path), QUIET)
    result = resume(tmp_path / "run", console=QUIET)
    with (result.folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [row for row in read_rows(result.folder) if row["kind"] == "epoch"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3] == [row["epoch"] for row in logged]
    for row, log in zip(rows, logged, strict=True):
        assert float(row["val_accuracy"]) == log["val_accuracy"]
        assert float(row["lr.prompt"]) == log["lr"]["prompt"]


def test_mlflow_tracks_a_run_and_goes_on_with_it_when_it_is_resumed(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    with interrupted(7):
        train(settings(shapes, tmp_path, "log=mlflow"), QUIET)
    run_id = json.loads((tmp_path / "run" / RUN_IDS).read_text())["mlflow"]
    result = resume(tmp_path / "run", console=QUIET)
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("vpt").experiment_id])
    assert [run.info.run_id for run in runs] == [run_id]
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "3"
    assert run.data.metrics["test.accuracy"] == result.metrics["test"]["accuracy"]
    assert [each.step for each in client.get_metric_history(run_id, "val_accuracy")] == [1, 2, 3]
    files = {file.path for file in client.list_artifacts(run_id)}
    assert {"artifact.safetensors", "curves.png", "confusion.png"} <= files
    assert {"train_batch.jpg", "val_batch.jpg", "labels.jpg", "val_predictions.jpg"} <= files


def test_wandb_tracks_a_run_offline(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}.items():
        monkeypatch.setenv(name, value)
    train(settings(shapes, tmp_path, "log=wandb", "train.epochs=1"), QUIET)
    run_id = json.loads((tmp_path / "run" / RUN_IDS).read_text())["wandb"]
    (written,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
    until(lambda: b"val_accuracy" in written.read_bytes())  # its own process writes it


class Failing(Tracker):
    """A tracker that cannot reach its server from a method on."""

    name, package = "json", "json"
    fails: str
    calls: list[str]

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise ConnectionError("no route to host")

    def start(self, *_: Any) -> str:
        self._call("start")
        return "someid"

    def log(self, *_: Any) -> None:
        self._call("log")

    def finish(self, *_: Any) -> None:
        self._call("finish")

    def stop(self) -> None:
        self._call("stop")


@pytest.mark.parametrize(
    ("fails", "calls"),
    [
        ("start", ["start"]),
        ("log", ["start", "log"]),
        ("finish", ["start", "log", "finish"]),
        ("stop", ["start", "log", "finish", "stop"]),
    ],
)
def test_a_tracker_that_fails_stops_nothing(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, calls: list[str]
):
    Failing.fails, Failing.calls = fails, []
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Failing)
    warned: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "warn", warned.append)
    result = train(settings(shapes, tmp_path, "log=mlflow", "train.epochs=1"), console)
    assert result.artifact.is_file()
    assert Failing.calls == calls
    said = [line for line in warned if "log=json" in line]
    assert said == ([] if fails == "stop" else ["log=json failed and is switched off for this run: no route to host"])


def test_a_missing_package_is_said_before_anything_is_written(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trackers.Mlflow, "name", "no_such_package")
    with pytest.raises(UserError, match="pip install mlflow-skinny"):
        train(settings(shapes, tmp_path, "log=mlflow"), QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"mlflow": 3}', '{"mlflow": "../x"}', "\xff"])
def test_a_damaged_file_of_ids_starts_a_new_tracked_run(tmp_path: Path, text: str):
    (tmp_path / RUN_IDS).write_text(text, encoding="latin-1")
    assert trackers._run_ids(tmp_path) == {}
