"""Names that are no UTF-8, hold control characters, or look like formulas, through every writer of names."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.runs import QUIET, settings
from vpt.cli.main import main
from vpt.config import load_config
from vpt.data.dataset import LabelledData
from vpt.data.datasets.registry import load_data
from vpt.data.detection.convert import convert
from vpt.data.detection.registry import load_boxes
from vpt.metrics.predictions import Answer, read_answers, write_answers
from vpt.report.build import write_report
from vpt.training.run import train
from vpt.utils.console import Console
from vpt.utils.csv_cells import plain_cell, safe_cell, to_csv
from vpt.utils.file_names import one_line, original, printable, shown

# As Linux gives them: bytes that are no UTF-8, a line break, a terminal's codes, formulas, quotes, another alphabet.
ODD = [
    b"caf\xe9.png",
    b"two\nlines.png",
    b"\x1b[2J\x1b]0;title\x07.png",
    b"=1+1.png",
    b"@sum.png",
    b"-2+3.png",
    b"'quoted'.png",
    b'a,"b";c.png',
    b"back\\slash.png",
    b"back\\xe9slash.png",
    "\u202egnp.png".encode(),
    "ünï¢ødé 图.png".encode(),
    b"\xff\xfe.png",
]
TERMINAL = ("\x1b", "\x07", "\x9b", "\u202e")


@pytest.fixture(scope="module", autouse=True)
def _small_net(small_net: None) -> None:
    pass


@pytest.fixture(scope="module")
def odd(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes and photos with odd names, in three splits."""
    root = tmp_path_factory.mktemp("odd")
    classes = [b"caf\xe9 \x1b[31m", b"=cmd|'calc'!A1", b"plain"]
    for split in ("train", "val", "test"):
        for label, name in enumerate(classes):
            folder = os.path.join(os.fsencode(root), split.encode(), name)
            os.makedirs(folder)
            for number, file in enumerate(ODD):
                pixels = np.full((32, 32, 3), 20 * label + number, dtype=np.uint8)
                Image.fromarray(pixels).save(os.fsdecode(os.path.join(folder, file)))
    return root


@pytest.fixture(scope="module")
def run(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["train.epochs=1", "data.workers=0", "data.augment=none"]
    return train(settings(odd, tmp_path_factory.mktemp("runs"), *words), QUIET).folder


def photos(odd: Path) -> Path:
    return next((odd / "test").glob("plain"))


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_printable_and_gives_its_file_back(tmp_path: Path, name: bytes):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"")
    text = shown(path)
    text.encode()
    assert not [sign for sign in text if sign in "".join(TERMINAL) + "\n"]
    assert original(text) == path
    assert original(text).is_file()


@given(st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & set(b"\0/")))
def test_every_name_is_printable_and_gives_its_file_back(name: bytes):
    path = Path(os.fsdecode(name))
    text = shown(path)
    assert original(text) == path
    assert one_line(text) == text
    text.encode()


@given(st.text(max_size=20))
def test_texts_that_are_no_names_can_be_printed(text: str):
    printable(text).encode()
    assert "\x1b" not in printable(text)
    assert len(one_line(text).splitlines()) <= 1


@given(st.text(alphabet="=+-@'\t\r\n1.e,\"a", max_size=6))
def test_a_cell_reads_back_and_is_no_formula(text: str):
    assert plain_cell(safe_cell(text)) == text
    (row,) = list(csv.reader([to_csv([[text, "x"]])], strict=True)) if "\n" not in text and "\r" not in text else [None]
    cell = safe_cell(text) if row is None else row[0]
    try:
        float(cell)
    except ValueError:
        assert not cell.startswith(tuple("=+-@\t\r\n"))


def test_numbers_stay_numbers():
    assert rows_of(to_csv([[-0.5, "-0.5", "+1e-3", "-", "1", ""]])) == [["-0.5", "-0.5", "+1e-3", "'-", "1", ""]]


class TestPredict:
    """`vpt predict` lost everything where one file's name was no UTF-8."""

    def predicted(self, run: Path, odd: Path, target: Path, form: str) -> str:
        assert main(["predict", str(run), str(photos(odd)), "--format", form, "--output", str(target)]) == 0
        return target.read_bytes().decode()

    def files(self, odd: Path) -> set[Path]:
        return {photos(odd) / os.fsdecode(name) for name in ODD}

    def test_csv(self, run: Path, odd: Path, tmp_path: Path):
        header, *rows = rows_of(self.predicted(run, odd, tmp_path / "found.csv", "csv"))
        assert header == ["image", "rank", "label", "score"]
        assert {original(plain_cell(row[0])) for row in rows} == self.files(odd)
        assert {plain_cell(row[2]) for row in rows} == {"caf\\xe9 [31m", "=cmd|'calc'!A1", "plain"}
        assert not [row for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
        assert all(float(row[3]) <= 1 for row in rows)

    def test_json(self, run: Path, odd: Path, tmp_path: Path):
        found = json.loads(self.predicted(run, odd, tmp_path / "found.json", "json"))
        assert {original(row["image"]) for row in found} == self.files(odd)

    def test_a_table_is_a_line_an_image_and_moves_no_cursor(self, run: Path, odd: Path, tmp_path: Path):
        text = self.predicted(run, odd, tmp_path / "found.txt", "table")
        assert len(text.splitlines()) == len(ODD)
        assert not [sign for sign in TERMINAL if sign in text]

    @pytest.mark.parametrize("form", ["table", "json", "csv"])
    def test_on_a_terminal_that_knows_ascii_alone(
        self, run: Path, odd: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
    ):
        with (tmp_path / "out").open("w", encoding="ascii") as out:
            monkeypatch.setattr("sys.stdout", out)
            assert main(["predict", str(run), str(photos(odd)), "--format", form]) == 0
        text = (tmp_path / "out").read_bytes().decode("ascii")
        if form == "json":
            assert {original(row["image"]) for row in json.loads(text)} == self.files(odd)
        assert len(text.splitlines()) >= len(ODD)

    def test_what_the_backbone_sees_is_written(self, run: Path, odd: Path, tmp_path: Path):
        words = ["--prompted", str(tmp_path / "seen"), "--output", str(tmp_path / "found.txt")]
        assert main(["predict", str(run), str(photos(odd)), *words]) == 0
        assert len(list((tmp_path / "seen").iterdir())) == len(ODD)

    def test_a_file_that_cannot_be_read_is_named(
        self, run: Path, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        for name in (b"good.png", b"bad\xff\x1b[2J.png"):
            shutil.copy(photos(odd) / "=1+1.png", os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        with open(os.path.join(os.fsencode(tmp_path), b"bad\xff\x1b[2J.png"), "wb") as file:
            file.write(b"no image")
        assert main(["predict", str(run), str(tmp_path), "--output", str(tmp_path / "found.txt")]) == 1
        assert f"cannot use the image {tmp_path}/bad\\xff\\u001b[2J.png: it is not" in capsys.readouterr().err
        assert "good.png" in (tmp_path / "found.txt").read_text()


class TestRun:
    """What a run writes of such names, and what reads it again."""

    def test_answers_and_data_agree_about_names(self, run: Path, odd: Path):
        answers = read_answers(run / "predictions-test.csv")
        data = load_data(load_config(overrides=[f"data={odd}"]).data)
        assert [answer.image for answer in answers] == [record.name for record in data.test]
        assert {answer.true for answer in answers} == set(data.classes)
        cells = [cell for row in rows_of((run / "predictions-test.csv").read_text()) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]

    def test_no_file_for_people_moves_a_cursor(self, run: Path, tmp_path: Path):
        page = write_report(run, tmp_path / "page.html", model=False, console=QUIET)
        other = write_report([run, run], tmp_path / "two.html", model=False, console=QUIET)
        for file in (page, other, *(run / name for name in ("log.txt", "log.jsonl", "predictions-test.csv"))):
            text = file.read_bytes().decode()
            assert not [sign for sign in TERMINAL if sign in text], file

    @pytest.mark.parametrize("command", ["check", "eval", "report"])
    def test_nothing_on_the_terminal_moves_a_cursor(
        self, run: Path, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
    ):
        words = {
            "check": ["data", "check", str(odd)],
            "eval": ["eval", str(run), "split=test"],
            "report": ["report", str(run), "--no-model", "--output", str(tmp_path / "page.html")],
        }
        capsys.readouterr()
        code = main(words[command])
        said = "".join(capsys.readouterr())
        assert code == 0
        assert not [sign for sign in TERMINAL if sign in said]


def test_answers_that_were_written_before_cells_were_neutral_read_as_they_were(tmp_path: Path):
    path = tmp_path / "old.csv"
    path.write_text("image,true,predicted,score,score_of_true\n=a.png,'x,-b,0.5,0.25\n", encoding="utf-8")
    assert read_answers(path) == [Answer("=a.png", "'x", "-b", 0.5, 0.25)]


def test_answers_read_back(tmp_path: Path):
    names = ["=a", "'=a", "'a", "-0.5", "+", "@", "\ttab", "a,b", '"', "", "-1e5", "\uff1da"]
    written = [Answer(name, name, name, 0.5, 0.25) for name in names]
    assert read_answers(write_answers(tmp_path / "answers.csv", written)) == written


def test_tables_and_lines_of_a_console_move_no_cursor(capsys: pytest.CaptureFixture[str]):
    console = Console()
    console.say("a \x1b[2J file")
    console.warn("\x9b31m")
    console.table("a \x1b title", ["\x1b]0;x\x07"], [["[/red] \x1b[1m"], ["two\nlines"]])
    said = capsys.readouterr().err
    assert "\\u001b[2J" in said
    assert "[/red]" in said  # no markup
    assert not [sign for sign in TERMINAL if sign in said]


def of(data: LabelledData) -> Sequence[str]:
    return [*data.classes, *(record.name for record in (*data.train, *data.val, *data.test))]


def test_names_in_lists_and_annotations_are_cleaned_where_they_come_in(tmp_path: Path):
    """A class called by half of a surrogate pair could not be written into an artifact."""
    for number in range(8):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
    rows = [f'{number}.png,"{"a" if number % 2 else chr(27) + "[31m"}"' for number in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    tree = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 20, "height": 20} for number in range(8)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": number % 2, "bbox": [1, 1, 9, 9]} for number in range(8)
        ],
        "categories": [{"id": 0, "name": "\ud800"}, {"id": 1, "name": "\x1b[31m\n"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(tree))
    lists = load_data(load_config(overrides=[f"data={tmp_path / 'list.csv'}"]).data)
    boxes = load_boxes(load_config(overrides=["task=detection", f"data={tmp_path / 'boxes.json'}"]).data)
    assert boxes.classes == ("\\ud800", "\\u001b[31m\\u000a")
    for text in [*of(lists), *of(boxes)]:
        text.encode()
        assert text == one_line(text)
    for form in ("coco", "voc", "yolo"):
        again = load_boxes(
            load_config(overrides=["task=detection", f"data={convert(boxes, tmp_path / form, form)}"]).data
        )
        assert set(again.classes) == set(boxes.classes)


def test_photos_of_boxes_with_odd_names_are_converted(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number, name in enumerate(ODD):
        path = tmp_path / "images" / os.fsdecode(name)
        Image.fromarray(np.full((20, 20, 3), number, dtype=np.uint8)).save(path)
        (tmp_path / "labels" / path.name).with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    words = ["task=detection", f"data={tmp_path / 'data.yaml'}"]
    data = load_boxes(load_config(overrides=words).data)
    for form in ("coco", "voc", "yolo"):
        folder = convert(data, tmp_path / form, form)
        again = load_boxes(load_config(overrides=["task=detection", f"data={folder}"]).data)
        assert len([*again.train, *again.val]) == len(ODD)
