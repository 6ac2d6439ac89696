"""`data.folds` for boxes and masks: every image is tested once, patients stay together, and one command resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.coco_folder import picture
from tests.helpers.mask_folders import save_mask
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import DataConfig, RunConfig, load_config
from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.splits import hold_fold
from vpt.experiments.folds import mean_interval, means_of, pool_objects, train_folds
from vpt.metrics.metrics_file import read_metrics
from vpt.metrics.segmentation import SegmentationMeter
from vpt.metrics.segmentation_bootstrap import interval
from vpt.training.tasks import task_of
from vpt.utils.errors import UserError

PATIENTS, IMAGES = 8, 2  # images of each
NAMES = [f"P{patient}_{number}.png" for patient in range(PATIENTS) for number in range(IMAGES)]
GROUP = "data.group=re:(P[0-9])_"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two kinds of objects, as boxes and as masks."""
    root = tmp_path_factory.mktemp("objects")
    tree: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    for number, name in enumerate(NAMES):
        picture(root / "boxes" / "images" / name)
        picture(root / "masks" / "images" / name)
        mask, label = np.zeros((32, 48), np.uint8), 1 + number // 2 % 2
        mask[4 : 14 + number, 6:30] = label
        save_mask(root / "masks" / "masks" / name, mask)
        tree["images"].append({"id": number, "file_name": name, "width": 48, "height": 32})
        box = {"bbox": [6, 4, 24, 10 + number], "category_id": label, "image_id": number, "id": number, "iscrowd": 0}
        tree["annotations"].append(box)
    (root / "masks" / "classes.txt").write_text("ground\na\nb\n")
    (root / "boxes" / "annotations").mkdir()
    (root / "boxes" / "annotations" / "instances_train.json").write_text(json.dumps(tree))
    return {"detection": root / "boxes", "segmentation": root / "masks"}


def settings(task: str, place: Path, *words: str) -> RunConfig:
    small = ["prompt.tokens=2", "head.size=32", "head.channels=64", "train.epochs=1", "data.workers=0"]
    return load_config(
        overrides=[f"task={task}", f"data={place}", GROUP, "data.val_fraction=0.3", *NET, *small, *words]
    )


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.usefixtures("small_net")
def test_every_image_is_tested_once_and_patients_stay_together(places: dict[str, Path], task: str) -> None:
    tested: list[str] = []
    for fold in range(4):
        config = settings(task, places[task], "data.folds=4", f"data.fold={fold}")
        data: LabelledData = task_of(config).load(config)
        sides = [{record.group for record in data.split(split)} for split in SPLITS]
        assert all(sides)
        assert len(set.union(*sides)) == sum(map(len, sides)) == PATIENTS
        assert {label for record in data.test for label in record.labels} >= {
            len(data.classes) - 1,
            len(data.classes) - 2,
        }
        assert f"fold {fold} of 4, counted from 0: 4 test images" in " ".join(data.notes)
        tested += [Path(record.name).name for record in data.test]
    assert sorted(tested) == NAMES
    config = settings(task, places[task], "data.folds=9", "data.fold=0")
    with pytest.raises(UserError, match="8 groups cannot be divided"):
        task_of(config).load(config)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.usefixtures("small_net")
@pytest.mark.filterwarnings("ignore")
def test_a_command_trains_all_folds_and_resumes(
    places: dict[str, Path], task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"task={task}", f"data={places[task]}", GROUP, "data.val_fraction=0.3", *NET, "prompt.tokens=2"]
    words += [
        "head.size=32",
        "head.channels=64",
        "train.epochs=1",
        "data.workers=0",
        f"out={tmp_path}",
        "name=cv",
        "folds=2",
    ]
    assert main(["train", *words]) == 0
    said, folder = capsys.readouterr().err, tmp_path / "cv"
    (row,) = json.loads((folder / "folds.json").read_text())["rows"]
    metric, other = {"detection": ("map", "map50"), "segmentation": ("miou", "mean_dice")}[task]
    runs = [folder / f"fold{fold}" for fold in range(2)]
    found = [read_metrics(run / "metrics.json")["test"] for run in runs]
    assert row["metric"] == metric
    assert row["scores"] == [one[metric] for one in found]
    assert row["interval"] == pytest.approx(list(mean_interval(row["scores"])))
    mean, limits = row["means"][other]
    assert mean == pytest.approx(np.mean([one[other] for one in found]))
    assert limits == pytest.approx(list(mean_interval([one[other] for one in found])))
    assert f"{other.replace('_', ' ')} {mean:.3f} (" in said
    rows = json.loads((folder / "predictions.json").read_text())
    assert sorted(Path(one["image"]).name for one in rows) == NAMES
    for patient in range(PATIENTS):
        mine = [one for one in rows if f"P{patient}_" in one["image"]]
        assert len({one["fold"] for one in mine}) == len({one["group"] for one in mine}) == 1
    assert row["pooled"]["images"] == len(NAMES)
    assert row["pooled"]["groups"] == len({one["group"] for one in rows}) == PATIENTS
    if task == "segmentation":
        confusion = sum(np.array(one["confusion"]) for one in found)
        meter = SegmentationMeter(["ground", "a", "b"], boundaries=False)
        meter.confusion += confusion
        assert row["pooled"]["miou"] == pytest.approx(meter.result().miou)
        assert row["pooled"]["mean_dice"] == pytest.approx(meter.result().mean_dice)
        low, high = row["pooled"]["intervals"]["miou"]
        assert low <= row["pooled"]["miou"] <= high
        assert "all 16 out-of-fold predictions of 8 groups: miou" in said
    before = json.loads((folder / "folds.json").read_text())
    (runs[1] / "metrics.json").unlink()
    stamp = (runs[0] / "artifact.safetensors").stat().st_mtime_ns
    assert train_folds(load_config(overrides=words), QUIET) == folder
    assert (runs[0] / "artifact.safetensors").stat().st_mtime_ns == stamp
    assert json.loads((folder / "folds.json").read_text()) == before
    if task == "segmentation":  # a report of a fold reads rows with groups
        assert main(["report", str(runs[0])]) == 0
        assert (runs[0] / "report.html").stat().st_size > 10_000


def test_masks_are_resampled_by_patient(tmp_path: Path) -> None:
    """Two patients, one right and one wrong: an interval over images would be narrower."""
    rows = []
    for at in range(8):
        right = at < 4
        counts = {"a": [6, 6, 6]} if right else {"a": [0, 0, 6], "b": [0, 6, 0]}
        rows.append({"image": f"{at}.png", "group": "1" if right else "2", "counts": counts})
    for fold, part in enumerate((rows[:4], rows[4:])):
        for row in part:
            row["group"] = "1"  # every run numbers its own
        (tmp_path / f"fold{fold}").mkdir()
        (tmp_path / f"fold{fold}" / "predictions-test.json").write_text(json.dumps(part))
    found = pool_objects([tmp_path / "fold0", tmp_path / "fold1"], tmp_path / "all.json")
    assert found["groups"] == 2
    assert found["intervals"]["miou"] == (0.0, 1.0)
    assert found["miou"] == pytest.approx(0.25)
    assert found["mean_dice"] == pytest.approx((2 / 3 + 0) / 2)
    assert [row["group"] for row in json.loads((tmp_path / "all.json").read_text())] == ["1"] * 4 + ["2"] * 4
    single = np.array([[[6, 6, 6], [0, 0, 0]]] * 4 + [[[0, 0, 6], [0, 6, 0]]] * 4)
    low, high = interval(single)
    assert 0 < low < high < 1


def test_a_fold_without_boxes_is_refused_before_training() -> None:
    records = [Record(f"{at}", Path(f"{at}"), (0,) if at < 2 else ()) for at in range(12)]
    assert [len(part) for part in hold_fold(records, DataConfig(folds=2, fold=1))] == [6, 6]
    with pytest.raises(UserError, match="a fold would have no image with a label"):
        hold_fold(records, DataConfig(folds=3, fold=0))
    assert means_of([{"map": 0.5}, {"map": None}]) == {}
