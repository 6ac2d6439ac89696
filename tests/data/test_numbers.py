"""Numbers to predict, from tables as other programs write them and from folders."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from tests.helpers.image_files import photo, save
from vpt.config import DataConfig, load_config
from vpt.data.dataset import NumberRecord
from vpt.data.datasets.numbers import load_numbers, load_numbers_measured
from vpt.data.evaluation_data import EvaluationRequest
from vpt.utils.errors import UserError


def table(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    for number in range(12):
        save(folder / "images" / f"{number}.png", photo(24, 32, number))
    (folder / "table.csv").write_bytes("\n".join(lines).encode(encoding))
    return folder / "table.csv"


def numbers(file: Path, **settings: object) -> list[float]:
    data = load_numbers(DataConfig(path=str(file), **settings))
    found = sorted((*data.train, *data.val, *data.test), key=lambda record: int(Path(record.name).stem))
    return [record.number for record in found if isinstance(record, NumberRecord)]


def rows(values: list[object], sign: str = ",") -> list[str]:
    return [f"images/{number}.png{sign}{value}" for number, value in enumerate(values)]


VALUES = [0, -1.5, 2.25, 1e-3, 40, 5, 6, 7, 8, 9, 10, 11]


def test_a_table_is_read_as_spreadsheets_and_pandas_write_it(tmp_path: Path):
    texts = ["0", "-1.5", "2.25", "1e-03", "40.0", *map(str, range(5, 12))]
    assert numbers(table(tmp_path, "path,label", *rows(texts))) == VALUES
    assert numbers(table(tmp_path, "filename;target", *rows(texts, ";"))) == VALUES
    assert numbers(table(tmp_path, "\ufefffile,Age", *rows(texts)), label_column="age") == VALUES
    quoted = [f'"{text}"' for text in texts]
    wide = table(tmp_path, "id\tage\tweight", *(f"{row}\t1" for row in rows(quoted, "\t")), encoding="utf-16")
    assert wide.read_bytes().startswith(codecs.BOM_UTF16)
    assert numbers(wide, label_column="age") == VALUES


def test_columns_and_splits_are_kept(tmp_path: Path):
    lines = [f"{row},P{number // 3},{'test' if number > 8 else 'train'}" for number, row in enumerate(rows(VALUES))]
    file = table(tmp_path, "path,age,patient,split", *lines)
    data = load_numbers(DataConfig(path=str(file), label_column="age", group="patient", val_fraction=0.3))
    assert data.classes == ("age",)
    assert [record.number for record in data.test] == VALUES[9:]
    assert not {record.group for record in data.train} & {record.group for record in data.val}
    assert data.summary() == "numbers (age), 6 training, 3 validation and 3 test images"
    other = load_numbers(DataConfig(path=str(file), label_column="age", val_fraction=0.3))
    assert data.fingerprint() != other.fingerprint()
    folds = [
        load_numbers(DataConfig(path=str(file), label_column="age", group="patient", folds=3, fold=fold)).test
        for fold in range(3)
    ]
    assert sorted(record.number for fold in folds for record in fold) == sorted(VALUES[:9])
    shown, split = load_numbers_measured(
        DataConfig(path=str(file), label_column="age"), EvaluationRequest("test", ("age",))
    )
    assert (split, [record.number for record in shown.test]) == ("test", VALUES[9:])


def test_another_number_is_another_data_set(tmp_path: Path):
    first = load_numbers(DataConfig(path=str(table(tmp_path, "path,label", *rows(VALUES)))))
    second = load_numbers(DataConfig(path=str(table(tmp_path, "path,label", *rows([*VALUES[:-1], 11.5])))))
    assert first.fingerprint() != second.fingerprint()


def test_folders_whose_names_are_numbers(tmp_path: Path):
    for name in ("7", "12.5", "-3"):
        for number in range(4):
            save(tmp_path / name / f"{number}.png", photo(24, 32, number))
    data = load_numbers(DataConfig(path=str(tmp_path)))
    assert {record.number for record in data.train} == {7.0, 12.5, -3.0}
    save(tmp_path / "old" / "0.png", photo())
    with pytest.raises(UserError, match=r"1 image whose label is no number: old/0\.png, 'old'; name the column"):
        load_numbers(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("3,5", "write 3.5 instead of 3,5"),
        ("nan", "whose label is no number: images/0.png, 'nan', table.csv, line 2"),
        ("inf", "whose label is no number"),
        ("1e31", "whose label is no number"),
        ("1_000", "whose label is no number"),
        ("0x10", "whose label is no number"),
        ("3|4", "with several labels: images/0.png, 3|4"),
        ("", "1 image without a number: images/0.png, table.csv, line 2; fill the numbers in"),
    ],
)
def test_a_cell_that_is_no_number_is_named(tmp_path: Path, cell: str, sentence: str):
    file = table(tmp_path, "path;label", *rows([cell, *VALUES[1:]], ";"))
    with pytest.raises(UserError) as error:
        numbers(file)
    assert sentence in str(error.value)


def test_other_mistakes_are_told(tmp_path: Path):
    file = table(tmp_path, "path,age,split", *(f"{row},train" for row in rows(VALUES)))
    with pytest.raises(UserError, match=r"no column 'label'.*another column is named by data\.label_column"):
        numbers(file)
    with pytest.raises(UserError, match=r"no column 'ages' \(data\.label_column\); did you mean 'age'"):
        numbers(file, label_column="ages")
    with pytest.raises(UserError, match="the column 'split' has another meaning"):
        numbers(file, label_column="split")
    with pytest.raises(UserError, match="have the same number"):
        numbers(table(tmp_path, "path,label", *rows([5] * 12)))
    with pytest.raises(UserError, match="no training images"):
        numbers(table(tmp_path, "path,label,split", *(f"{row},test" for row in rows(VALUES))))


def test_a_label_column_is_for_classes_too(tmp_path: Path):
    from vpt.data.datasets.registry import load_data

    lines = [f"images/{number}.png,{number},{'ab'[number % 2]}" for number in range(12)]
    file = table(tmp_path, "path,label,kind", *lines)
    assert load_data(DataConfig(path=str(file), label_column="kind")).classes == ("a", "b")


@pytest.mark.usefixtures("whole_data")
def test_embedded_numbers():
    digits = load_numbers(load_config(overrides=["head=regression"]).data)
    assert {record.number for record in digits.train} == set(range(10))
    distances = load_numbers(DataConfig(path="digit-distances"))
    assert [len(distances.split(name)) for name in ("train", "val", "test")] == [800, 200, 400]
    ranges = {"touching": (12, 21), "near": (21, 30), "far": (30, 39), "very far": (39, 48)}
    for record in distances.test:
        low, high = ranges[Path(record.name).parent.name]
        assert low <= record.number < high
