"""A folder of a sweep, or a study in a database, is of one search: another one never takes up its trials, nor deletes
its best run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import NET, QUIET
from vpt.experiments.sweep.search_space import read_space
from vpt.experiments.sweep.study import Sweep, search, sweep
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")


def plan(shapes: Path, out: Path, *more: str, over: str = "prompt.tokens=1,2", **rest: Any) -> Sweep:
    words = [f"data={shapes}", f"out={out}", "name=sweep", *NET, "data.workers=0", "train.epochs=1"]
    return Sweep([*words, "prompt.tokens=2", *more], read_space([over]), trials=2, **rest)


@pytest.fixture(scope="module")
def searched(shapes: Path, small_net: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(plan(shapes, tmp_path_factory.mktemp("searched")), QUIET).folder


@pytest.mark.parametrize(
    ("more", "rest", "named"),
    [
        (["train.batch_size=12"], {}, "train.batch_size"),
        (["data.test=null", "data.val=null", "data.path={copy}"], {}, "data.path"),
        (["prompt=shallow"], {}, "prompt.kind"),
        ([], {"over": "prompt.tokens=1,3"}, "over.prompt.tokens"),
        ([], {"over": "train.optimizer.lr=0.1,0.2"}, "over.prompt.tokens, over.train.optimizer.lr"),
        ([], {"grid": True}, "grid"),
    ],
)
def test_another_is_refused_and_changes_nothing(
    searched: Path, shapes: Path, tmp_path: Path, more: list[str], rest: dict, named: str
):
    copy = shutil.copytree(shapes, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in searched.rglob("*") if path.name != ".lock"}
    given = [word.format(copy=copy) for word in more]
    with pytest.raises(UserError, match=rf"sweep was started with other settings \({named}.*\); use the same, or ano"):
        sweep(plan(shapes, searched.parent, *given, **rest), QUIET)
    assert {path: path.stat().st_mtime_ns for path in searched.rglob("*") if path.name != ".lock"} == before


def test_the_same_elsewhere_computed_may_go_on(searched: Path, shapes: Path, monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
    stamp = (searched / "best" / "artifact.safetensors").stat().st_mtime_ns
    sweep(plan(shapes, searched.parent, "train.checkpoint_minutes=5", "compare=[none]"), QUIET)
    assert (searched / "best" / "artifact.safetensors").stat().st_mtime_ns == stamp


def test_another_last_training_keeps_the_trials(shapes: Path, tmp_path: Path):
    first = sweep(plan(shapes, tmp_path), QUIET)
    found = sweep(plan(shapes, tmp_path, final=["data.join_val=true"]), QUIET)
    assert found.trials == first.trials
    assert "48 training" in found.best.metrics["data"]


def test_a_folder_of_something_else_is_left_alone(shapes: Path, tmp_path: Path):
    (tmp_path / "sweep" / "best").mkdir(parents=True)
    (tmp_path / "sweep" / "best" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and contains something else"):
        sweep(plan(shapes, tmp_path), QUIET)
    assert (tmp_path / "sweep" / "best" / "mine.txt").read_text() == "mine"


def test_a_mistake_leaves_no_folder_behind(shapes: Path, tmp_path: Path):
    for wrong in ["data.val=/nowhere", "head=zeroshot", "data.augment=ligth", "train.class_weights=[1,2]"]:
        with pytest.raises(UserError):
            sweep(plan(shapes, tmp_path / "new", wrong), QUIET)
    with pytest.raises(UserError, match=r"data\.augment=ligth does not exist; did you mean 'light'"):
        sweep(plan(shapes, tmp_path / "new", over="data.augment=ligth,lihgt"), QUIET)
    with pytest.raises(UserError, match="--storage nonsense cannot be opened"):
        sweep(plan(shapes, tmp_path / "new", storage="nonsense"), QUIET)
    assert not (tmp_path / "new").exists()


def test_no_validation_is_told_before_anything_is_written(shapes: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"a sweep needs a validation split; set data\.val_fraction"):
        sweep(plan(shapes, tmp_path / "new", "data.join_val=true"), QUIET)
    assert not (tmp_path / "new").exists()


def test_values_that_do_not_go_together_are_failed_trials(shapes: Path, tmp_path: Path):
    found = search(plan(shapes, tmp_path, over="prompt.layers=[7],all", grid=True), QUIET)
    assert sorted((row["state"], *row["words"]) for row in found.trials) == [
        ("complete", "prompt.layers=all"),
        ("fail", "prompt.layers=[7]"),
    ]


def test_machines_that_share_a_database_share_the_settings(shapes: Path, tmp_path: Path, monkeypatch):
    url = f"sqlite:///{tmp_path}/trials.db"
    first = search(plan(shapes, tmp_path / "one", storage=url), QUIET)
    with pytest.raises(UserError, match=r"the sweep vpt-sweep in this database was started .* \(train\.batch_size\)"):
        search(plan(shapes, tmp_path / "two", "train.batch_size=12", storage=url), QUIET)
    with pytest.raises(UserError, match=r"over\.prompt\.tokens"):
        search(plan(shapes, tmp_path / "two", over="prompt.tokens=4,5", storage=url), QUIET)
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
    assert search(plan(shapes, tmp_path / "two", storage=url), QUIET).trials == first.trials
