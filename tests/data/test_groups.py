"""`data.group`: a patient is on one side of every split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vpt.config import load_config
from vpt.config.data import DataConfig
from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.datasets.registry import load_data
from vpt.data.detection.dataset import BoxEntry, BoxFound, RawBox
from vpt.data.detection.registry import numbered
from vpt.data.segmentation.dataset import MaskFound, MaskRecord
from vpt.data.segmentation.registry import _in_splits
from vpt.data.splits import TEST, draw_shots, folds_of, split_off
from vpt.utils.errors import UserError

RARE = 4  # patients of the rare class


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """30 patients with one to five images each in a table; four have the rare condition. Images are not opened."""
    rows = ["path,label,patient id"]
    for patient in range(30):
        for number in range(1 + patient % 5):
            rows.append(f"P{patient:02d}_{number}.png,{'rare' if patient < RARE else 'usual'},{1000 + patient}")
    for row in rows[1:]:
        (tmp_path / row.split(",")[0]).write_bytes(b"")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "table.csv"


def patients(records: tuple[Record, ...]) -> set[str]:
    return {record.name[:3] for record in records}


def check_apart(data: LabelledData) -> None:
    sides = [patients(data.split(name)) for name in SPLITS]
    assert len(set.union(*sides)) == sum(map(len, sides))


@pytest.mark.parametrize("group", ["patient id", "Patient ID", "re:(P[0-9]+)_", r"re:^P\d{2}"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_patients_stay_on_one_side_and_classes_on_both(clinic: Path, group: str, seed: int):
    config = DataConfig(path=str(clinic), group=group, split_seed=seed, test_fraction=0.2, val_fraction=0.2)
    data = load_data(config)
    check_apart(data)
    assert sum(len(data.split(name)) for name in SPLITS) == 90
    for name in SPLITS:
        assert {label for record in data.split(name) for label in record.labels} == {0, 1}, name
    assert 12 <= len(data.test) <= 26
    assert load_data(config).fingerprint() == data.fingerprint()
    assert all(record.group for name in SPLITS for record in data.split(name))


def test_a_column_and_a_pattern_split_alike_and_the_seed_matters(clinic: Path):
    found = [
        load_data(DataConfig(path=str(clinic), group=group, split_seed=seed)).fingerprint()
        for group, seed in (("patient id", 0), ("re:P([0-9]+)_", 0), ("patient id", 1))
    ]
    assert found[0] == found[1] != found[2]


def test_without_groups_nothing_changes(clinic: Path):
    """Patients are divided then."""
    data = load_data(DataConfig(path=str(clinic), val_fraction=0.3))
    assert patients(data.train) & patients(data.val)
    assert {record.group for record in data.train} == {""}


def test_shots_count_patients(clinic: Path):
    data = load_data(DataConfig(path=str(clinic), group="patient id", shots=2))
    check_apart(data)
    drawn = Counter(next(iter(record.labels)) for record in {record.group: record for record in data.train}.values())
    assert drawn == {0: 2, 1: 2}
    whole = load_data(DataConfig(path=str(clinic), group="patient id"))
    for patient in patients(data.train):
        assert sum(r.name.startswith(patient) for r in data.train) == sum(
            r.name.startswith(patient) for r in whole.train
        )
    short = load_data(DataConfig(path=str(clinic), group="patient id", shots=10))
    assert "fewer training groups than data.shots=10, so all are used: rare (3)" in " ".join(short.notes)


def test_given_splits_that_share_patients_are_reported(tmp_path: Path):
    rows = ["path,label,split,who"]
    for at, (split, who) in enumerate([("train", "a"), ("train", "b"), ("val", "a"), ("test", "c"), ("test", "b")] * 2):
        rows.append(f"{at}.png,{'cat' if at < 5 else 'dog'},{split},{who}")
        (tmp_path / f"{at}.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    warnings = [
        note for note in load_data(DataConfig(path=str(tmp_path / "t.csv"), group="who")).notes if "warn" in note
    ]
    assert len(warnings) == 1
    assert "2 groups of data.group in more than one given split" in warnings[0]
    assert "t.csv, line 2 (train) and t.csv, line 4 (val)" in warnings[0]


def test_missing_groups_and_columns_are_refused(clinic: Path, tmp_path: Path):
    text = clinic.read_text().splitlines()
    text[3] = text[3].rpartition(",")[0] + ","
    other = clinic.with_name("other.csv")
    other.write_text("\n".join(text))
    with pytest.raises(UserError, match=r"1 image without a group: other.csv, line 4; give every image a group"):
        load_data(DataConfig(path=str(other), group="patient id"))
    with pytest.raises(UserError, match=r"no column 'patientid'.*did you mean 'patient id'.*columns are path, label"):
        load_data(DataConfig(path=str(clinic), group="patientid"))
    with pytest.raises(UserError, match=r"90 images without a group: .*line 2"):
        load_data(DataConfig(path=str(clinic), group="re:(Q[0-9])"))
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "folders" / name).parent.mkdir(parents=True)
        (tmp_path / "folders" / name).write_bytes(b"")
    with pytest.raises(UserError, match="it names a column of a CSV; for other data give a regular expression"):
        load_data(DataConfig(path=str(tmp_path / "folders"), group="patient"))


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a+)+$", "at most three repetitions"),
        ("(?:a|a)*b", "at most three repetitions"),
        ("((a){1,9}){1,9}", "one group in parentheses"),
        (".*.*.*.*x", "at most three repetitions"),
        ("a?a?a?a?a?a?a?a?a?aaaaaaaaa", "at most three repetitions"),
        ("(a", "not a regular expression"),
        ("(a)(b)", "one group in parentheses"),
        ("a{1,99999999999999999999}", "not a regular expression"),
    ],
)
def test_patterns_that_could_take_forever_are_refused(pattern: str, why: str):
    with pytest.raises(UserError, match=why):
        load_config(overrides=[f"data.group='re:{pattern}'"])


def test_brackets_in_classes_and_escapes_are_no_groups():
    for pattern in (r"\(([0-9]+)\)+_", "[(]([^)]+)[)+]*", r"(?:P|Q)(\d+)", r"/(\d+)-[a-z]*-"):
        assert DataConfig(group=f"re:{pattern}").group == f"re:{pattern}"


def test_a_class_of_one_patient_stays_in_training():
    records = [
        Record(f"{at}", Path(f"{at}"), (at // 8,), group=f"p{at // 4}" if at < 16 else "only") for at in range(20)
    ]
    train, val = split_off(records, 0.3, 0)
    assert {record.group for record in records if record.labels == (2,)} <= {record.group for record in train}
    assert {record.labels for record in val} == {(0,), (1,)}
    assert split_off(records[:4], 0.5, 0)[1] == []


def test_folds_cover_every_image_once():
    records = [Record(f"{at}", Path(f"{at}"), (at % 3,), group=f"p{at // 3 % 20}") for at in range(120)]
    folds = folds_of(records, 5, 0, TEST)
    assert sorted(at for fold in folds for at in fold) == list(range(120))
    owners = [{records[at].group for at in fold} for fold in folds]
    assert sum(map(len, owners)) == 20
    alone = [Record(f"{at}", Path(f"{at}"), (at % 2,)) for at in range(20)]
    assert [Counter(alone[at].labels for at in fold) for fold in folds_of(alone, 5, 0, TEST)] == [
        {(0,): 2, (1,): 2}
    ] * 5


def test_shots_of_single_images_are_as_before():
    records = [Record(f"{at}", Path(f"{at}"), (0, 0) if at % 2 else (1,)) for at in range(10)]
    kept, _ = draw_shots(records, 2, 0)
    assert Counter(label for record in kept for label in record.labels) == {0: 2, 1: 2}


def test_boxes_and_masks_of_a_patient_stay_together():
    config = DataConfig(group="re:(P[0-9]+)_", test_fraction=0.3, val_fraction=0.3)
    boxes = [
        BoxEntry(f"P{at // 3}_{at}.png", Path(f"{at}.png"), (RawBox("cat", (0.0, 0.0, 4.0, 4.0)),), (8, 8), None)
        for at in range(30)
    ]
    mask: Any = None  # not opened
    masks: dict[str, list[MaskRecord]] = {
        "train": [MaskRecord(f"P{at // 3}_{at}.png", Path(f"{at}.png"), (at % 2,), mask) for at in range(30)]
    }
    for data in (
        numbered(BoxFound({"train": boxes}), config),
        _in_splits(masks, MaskFound(classes=("a", "b")), config),
    ):
        sides = [{record.name.split("_")[0] for record in data.split(name)} for name in SPLITS]
        assert all(sides)
        assert len(set.union(*sides)) == sum(map(len, sides)) == 10
