"""CSV files as pandas, Excel, Kaggle and Roboflow write them: headers, columns of 0 and 1, images without a label."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.helpers.image_files import photo, save
from vpt.config import DataConfig
from vpt.data.collate import ImageMaker
from vpt.data.dataset import LabelledData
from vpt.data.datasets.registry import load_data
from vpt.data.evaluation_data import EvaluationRequest, load_measured
from vpt.utils.errors import UserError


def table(folder: Path, text: str, count: int = 8, encoding: str = "utf-8", suffix: str = ".png") -> Path:
    for number in range(count):
        save(folder / f"{number}{suffix}", photo(8, 8, number))
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def load(path: Path, **settings: object) -> LabelledData:
    return load_data(DataConfig(path=str(path), **settings))  # type: ignore[arg-type]


def labels(data: LabelledData) -> dict[str, str]:
    records = (*data.train, *data.val, *data.test)
    return {record.name: "|".join(data.classes[label] for label in record.labels) for record in records}


HEADERS = [
    "filename,labels",
    "path,class",
    "image,label(s)",
    "file_name,label",
    "File Name,Class Name",
    "Image,Labels",
    "image_id,label",
    "img_path,category",
    "name,tags",
    '"filename","target"',
]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_of_other_tools(tmp_path: Path, header: str) -> None:
    data = load(table(tmp_path, f"{header}\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8))))
    assert not data.multilabel
    assert labels(data) == {f"{n}.png": "ab"[n % 2] for n in range(8)}
    path, label = (cell.strip('"') for cell in header.split(","))
    assert f"images are in the column '{path}', labels in the column '{label}'" in data.notes[0]


def test_our_own_header_needs_no_note(tmp_path: Path) -> None:
    data = load(table(tmp_path, "Path,Label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8))))
    assert not any("column" in note for note in data.notes)


def test_an_index_and_other_columns_of_pandas(tmp_path: Path) -> None:
    text = ",id,filename,label,width\n" + "".join(f"{n},{n * 7},{n}.png,{'ab'[n % 2]},8\n" for n in range(8))
    assert labels(load(table(tmp_path, text)))["3.png"] == "b"
    named = text.replace(",id,", "Unnamed: 0,id,", 1)
    assert labels(load(table(tmp_path, named)))["4.png"] == "a"


def test_excel(tmp_path: Path) -> None:
    """A byte order mark, semicolons and CRLF."""
    text = "Filename;Labels\r\n" + "".join(f"{n}.png;{'a|b' if n == 0 else 'ab'[n % 2]}\r\n" for n in range(8))
    data = load(table(tmp_path, text, encoding="utf-8-sig"))
    assert data.multilabel
    assert data.classes == ("a", "b")
    assert labels(load(table(tmp_path, "sep=;\r\n" + text)))["0.png"] == "a|b"
    assert labels(load(table(tmp_path, text.replace(";", "\t"), encoding="utf-16")))["1.png"] == "b"


def test_images_without_a_label_are_negatives(tmp_path: Path) -> None:
    text = "path,label\n0.png,a|b\n1.png,a\n2.png,\n3.png,b\n4.png,|\n5.png,a\n6.png,\n7.png,b\n"
    data = load(table(tmp_path, text))
    assert data.classes == ("a", "b")
    found = labels(data)
    assert sorted(name for name, label in found.items() if not label) == ["2.png", "4.png", "6.png"]
    assert len(found) == 8
    assert any("3 images without a label: none of the classes" in note for note in data.notes)
    empty = next(record for record in (*data.train, *data.val) if not record.labels)
    assert ImageMaker(None, 2, True)._labels([empty]).tolist() == [[0.0, 0.0]]  # type: ignore[arg-type]
    drawn = load(table(tmp_path, text), shots=1)
    assert any(not record.labels for record in drawn.train)


def test_one_label_stays_one_label(tmp_path: Path) -> None:
    """Rows without a label are refused where no image has several; data.multilabel says that they are meant."""
    listing = table(tmp_path, "filename,labels\n" + "".join(f"{n}.png,{['a', 'b', ''][n % 3]}\n" for n in range(8)))
    with pytest.raises(UserError, match=r"2 images without a label: 2.png .list.csv, line 4., .*data.multilabel=true"):
        load(listing)
    data = load(listing, multilabel=True)
    assert data.multilabel
    assert sorted(name for name, label in labels(data).items() if not label) == ["2.png", "5.png"]


def test_a_column_of_0_and_1_for_every_class(tmp_path: Path) -> None:
    rows = [(1, 0, 0), (0, 1, 1), (0, 0, 0), (0, 0, 1), (1, 1, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)]
    text = "image,cat,Dog,bird\n" + "".join(f"{n}.png,{','.join(map(str, row))}\n" for n, row in enumerate(rows))
    data = load(table(tmp_path, text))
    assert data.multilabel
    assert data.classes == ("Dog", "bird", "cat")
    assert labels(data)["1.png"] == "Dog|bird"
    assert labels(data)["2.png"] == ""
    assert any("3 columns of 0 and 1 are the classes: cat, Dog, bird" in note for note in data.notes)
    floats = "image,cat,Dog,bird\n" + "".join(
        f"{n}.png,{','.join('1.0' if cell else '' for cell in row)}\n" for n, row in enumerate(rows)
    )
    assert labels(load(table(tmp_path, floats))) == labels(data)
    celeba = text.replace(",0", ",-1")
    assert labels(load(table(tmp_path, celeba))) == labels(data)
    spaced = text.replace(",", ", ")  # Roboflow's _classes.csv
    assert labels(load(table(tmp_path, spaced))) == labels(data)


def test_exactly_one_1_in_every_row_is_one_label(tmp_path: Path) -> None:
    text = "image,age,NV,MEL,split\n" + "".join(
        f"{n}.png,{30 + n},{n % 2}.0,{1 - n % 2}.0,{['train', 'test'][n > 5]}\n" for n in range(8)
    )
    data = load(table(tmp_path, text))
    assert not data.multilabel
    assert data.classes == ("MEL", "NV")
    assert len(data.test) == 2
    assert labels(data)["3.png"] == "NV"
    notes = " ".join(data.notes)
    assert "every row marks exactly one class" in notes
    assert "columns that are not used: age" in notes


def test_a_label_column_is_preferred_to_columns_of_0_and_1(tmp_path: Path) -> None:
    text = "path,label,verified,blurred\n" + "".join(f"{n}.png,{'ab'[n % 2]},1,0\n" for n in range(8))
    data = load(table(tmp_path, text))
    assert (data.classes, data.multilabel) == (("a", "b"), False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,verified\n0.png,1\n1.png,0\n", "no column 'label'; rename the column 'verified' to 'label'"),
        ("path,class,category\n0.png,a,b\n", "several columns that could be 'label': class, category; rename the one"),
        ("image,file,label\n0.png,1.png,b\n", "several columns that could be 'path': image, file"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\n0.png,8,8,a,1,1,2,2\n", "is a table of boxes"),
        ("path,cat,dog\n0.png,1,2\n1.png,0,1\n", "no column 'label'"),
        ("path,cat,dog\n", "no column 'label'"),
        ("id,breed\n0.png,pug\n", "no column 'label'; rename the column 'breed' to 'label'"),
    ],
)
def test_columns_that_are_not_clear(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(table(tmp_path, text))


def test_kaggle(tmp_path: Path) -> None:
    """The images lie in a folder next to the list, which leaves out their extension."""
    text = "id,label\n" + "".join(f"{n},{n % 2}\n" for n in range(8))
    listing = table(tmp_path, text, count=0)
    for number in range(8):
        save(tmp_path / "train_images" / f"{number}.jpg", photo(8, 8, number))
    data = load(listing)
    assert labels(data)["5"] == "1"
    assert any("found as train_images/0.jpg" in note for note in data.notes)
    save(tmp_path / "test_images" / "0.jpg", photo(8, 8, 0))
    assert len(labels(load(listing))) == 8  # the folder with the most
    for number in range(8):
        save(tmp_path / "test_images" / f"{number}.jpg", photo(8, 8, number))
    with pytest.raises(UserError, match="none can be found"):
        load(listing)  # not clear which


def test_lists_in_cells(tmp_path: Path) -> None:
    """As pandas writes a column of lists."""
    cells = ["['cat', 'dog']", "['cat']", "[]", '["dog\'s", "cat"]', "['dog']", "['cat']", "['dog']", ""]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "labels"), *((f"{n}.png", cell) for n, cell in enumerate(cells))])
    data = load(table(tmp_path, (tmp_path / "list.csv").read_text()))
    assert data.classes == ("cat", "dog", "dog's")
    assert labels(data)["0.png"] == "cat|dog"
    assert labels(data)["2.png"] == labels(data)["7.png"] == ""


def test_another_separator_is_suggested(tmp_path: Path) -> None:
    cells = ["a;b", "a", "b", "red fox", "c", "a", "b", "c"]
    text = "path,label\n" + "".join(f"{n}.png,{cell}\n" for n, cell in enumerate(cells))
    data = load(table(tmp_path, text))
    assert not data.multilabel
    warnings = [note for note in data.notes if note.startswith("warning: ") and "separator" in note]
    assert len(warnings) == 1
    assert "a;b is read as one class; if these are several labels, set data.separator=';'" in warnings[0]
    assert load(table(tmp_path, text), separator=";").multilabel


def test_a_column_of_splits_under_another_name(tmp_path: Path) -> None:
    text = "path,label,subset\n" + "".join(f"{n}.png,{'ab'[n % 2]},{['train', 'test'][n > 5]}\n" for n in range(8))
    notes = " ".join(load(table(tmp_path, text)).notes)
    assert "the column 'subset' is not used; if it divides the images" in notes


def test_negatives_in_an_evaluation(tmp_path: Path) -> None:
    listing = table(tmp_path, "path,label\n0.png,a\n1.png,\n2.png,z\n")
    with pytest.raises(UserError, match="1 image without a label"):
        load_measured(DataConfig(path=str(listing)), EvaluationRequest("test", ("a", "b")))
    data, _ = load_measured(DataConfig(path=str(listing), multilabel=True), EvaluationRequest("test", ("a", "b")))
    assert [record.labels for record in data.test] == [(0,), ()]
