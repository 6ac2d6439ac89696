"""YOLO's folders as people and tools write them: names, places, lists, label lines."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.boxes import BOX, LINE, label, notes, picture, read, records, yolo
from vpt.cli.main import main
from vpt.config import DataConfig
from vpt.data.detection.registry import load_boxes
from vpt.utils.errors import UserError


def refused(folder: Path | str, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_boxes(DataConfig(path=str(folder), **settings))
    return str(caught.value)


ALL = {f"{number}.jpg": [BOX] for number in range(3)}


class TestNames:
    def classes(self, folder: Path, names: str) -> tuple[str, ...]:
        return load_boxes(DataConfig(path=str(yolo(folder, LINE, f"train: images/train\n{names}\n")))).classes

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("names: [no, on, 010, 1.10]", ("no", "on", "010", "1.10")),
            ("names: [yes, off, y, null, ~, 1_000, 0x10, 1e3, 12:30, 2024-01-01, .inf]",
             ("yes", "off", "y", "null", "~", "1_000", "0x10", "1e3", "12:30", "2024-01-01", ".inf")),
            ("names: {0: no, 1: on}", ("no", "on")),
            ("names:\n  1: dog\n  0: cat", ("cat", "dog")),
            ("names: {'0': cat, '1': dog}", ("cat", "dog")),
            ("names:\n- cat\n- 'a: b'\n- \"c\\td\"", ("cat", "a: b", "c\\u0009d")),
            ("nc: 2", ("class_0", "class_1")),
        ],
    )  # fmt: skip
    def test_they_are_texts(self, tmp_path: Path, text: str, names: tuple[str, ...]):
        assert self.classes(tmp_path, text) == names

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("names: [cat, cat]", "a class name occurs twice: 'cat'"),
            ("names: {0: cat, 0: dog}", "the key 0 occurs twice"),
            ("names: {0: cat, 2: dog}", "the keys of names must be the numbers 0 to 1"),
            ("names: {a: cat}", "the keys of names must be numbers from 0 on"),
            ("names: cat", "needs the class names, as in 'names: [cat, dog]'"),
            ("names: []", "needs the class names"),
            ("names: [[cat]]", "the name of class 0 is \"['cat']\"; it must be text"),
            ("names: ['', cat]", "the name of class 0 is ''; it must be text"),
            ("names: [cat", "is not valid YAML"),
            ("nc: 99999999999", "needs the class names"),
            ("names: [cat]\nkpt_shape: 17", "kpt_shape must be the number of keypoints and 2 or 3"),
            ("names: [cat]\nkpt_shape: [17, 4]", "kpt_shape must be"),
            ("names: [cat]\npath: [a]", "path must be a folder"),
        ],
    )
    def test_what_is_none_is_refused(self, tmp_path: Path, text: str, word: str):
        yolo(tmp_path, LINE, f"train: images/train\n{text}\n")
        assert word in refused(tmp_path)

    def test_tags_do_nothing(self, tmp_path: Path):
        text = f"names: !!python/object/apply:os.system ['touch {tmp_path}/done']"
        assert self.classes(tmp_path, text) == (f"touch {tmp_path}/done",)
        assert not (tmp_path / "done").exists()

    def test_a_count_that_is_not_theirs_is_told(self, tmp_path: Path):
        yolo(tmp_path, LINE, "train: images/train\nnames: [cat, dog]\nnc: 80\n")
        assert "data.yaml has nc: 80 but 2 class names" in notes(tmp_path)

    def test_a_byte_order_mark(self, tmp_path: Path):
        yolo(tmp_path)
        (tmp_path / "data.yaml").write_bytes(b"\xef\xbb\xbftrain: images/train\r\nnames: [cat]\r\n")
        assert read(tmp_path) == {"train": ALL}
        assert main(["data", "check", str(tmp_path / "data.yaml"), "task=detection"]) == 0


class TestLines:
    @pytest.mark.parametrize(
        ("text", "keypoints", "word"),
        [
            ("0.0 0.234375 0.28125 0.3125 0.3125", None, ""),
            ("0.000000e+00 2.34375e-01 2.8125e-01 3.125e-01 3.125e-01", None, ""),
            ("0\t0.234375\t0.28125\t.3125\t+0.3125\r", None, ""),
            ("\n\n0 0.234375 0.28125 0.3125 0.3125\n   \n", None, ""),
            ("0 0.234375 0.28125 0.3125 0.3125 0.87", None, "the bounding boxes of 1 lines with an additional number"),
            ("0 0.234375 0.28125 0.3125 0.3125 17", None, "the bounding boxes of 1 lines with an additional number"),
            ("0 0.078125 0.125 0.390625 0.125 0.390625 0.4375", None, "bounding boxes of 1 polygons"),
            (
                "0 0.078125 0.125 0.390625 0.125 0.390625 0.4375 0.078125 0.4375",
                None,
                "bounding boxes of 1 polygons",
            ),  # OBB
            ("0 0.234375 0.28125 0.3125 0.3125 0.2 0.2 0.3 0.3 0.9 0.9", "[3, 2]", "bounding boxes of 1 poses"),
            (
                "0 0.234375 0.28125 0.3125 0.3125 0.2 0.2 2 0.3 0.3 1 0.9 0.9 0 0 0 0",
                "[4, 3]",
                "bounding boxes of 1 poses",
            ),
            ("0 0.234375 0.28125 0.3125 0.3125 0.2 0.2 2 7", "[1, 3]", "bounding boxes of 1 poses"),
            ("0 0.234375 0.28125 0.3125 0.3125", "[4, 3]", ""),
        ],
    )
    def test_what_they_may_be(self, tmp_path: Path, text: str, keypoints: str | None, word: str):
        shape = f"kpt_shape: {keypoints}\n" if keypoints else ""
        yolo(tmp_path, LINE, f"train: images/train\nnames: [cat, dog]\n{shape}")
        label(tmp_path / "labels" / "train" / "0.txt", text)
        assert read(tmp_path) == {"train": ALL}
        assert word in notes(tmp_path)

    def test_a_byte_order_mark(self, tmp_path: Path):
        yolo(tmp_path)
        label(tmp_path / "labels" / "train" / "0.txt", LINE, "utf-8-sig")
        assert read(tmp_path) == {"train": ALL}

    @pytest.mark.parametrize(
        ("text", "keypoints", "word"),
        [
            ("\u200b0 0.5 0.5 0.1 0.1", None, "line 2: '\\u200b0 0.5 0.5 0.1 0.1' is not 'class x y width height'"),
            ("0 0,5 0,5 0,1 0,1", None, "line 2: '0 0,5 0,5 0,1 0,1' is not"),
            ("0 0.5 0.5 0.1 0_1", None, "is not 'class x y width height'"),
            ("0.5 0.5 0.5 0.1 0.1", None, "is not 'class x y width height'"),
            ("-1 0.5 0.5 0.1 0.1", None, "class -1 is out of range: there are 2 names, counted from 0"),
            ("2 0.5 0.5 0.1 0.1", None, "class 2 is out of range: there are 2 names"),
            ("nan 0.5 0.5 0.1 0.1", None, "is not"),
            ("cat 0.5 0.5 0.1 0.1", None, "is not"),
            ("0 0.5 0.5 0.1", None, "is not"),
            (
                "0 100 50 20 20",
                None,
                "they must be fractions of the image's sides, from 0 to 1, and these look like pixels",
            ),
            ("0 0.5 0.5 0.1 0.1 0.45 0.45 2", None, "poses need kpt_shape in data.yaml"),
            ("0 0.5 0.5 0.1 0.1 0.45 0.45 2 0.1 0.1 2", None, "poses need kpt_shape in data.yaml"),
            ("0 10 20 30 20 30 40", None, "nor a polygon in fractions of the image's sides"),
            (
                "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4",
                "[2, 3]",
                "has 7 numbers after the class; with kpt_shape it must have 4 or 10",
            ),
        ],
    )
    def test_what_they_may_not_be(self, tmp_path: Path, text: str, keypoints: str | None, word: str):
        shape = f"kpt_shape: {keypoints}\n" if keypoints else ""
        yolo(tmp_path, LINE, f"train: images/train\nnames: [cat, dog]\n{shape}")
        file = label(tmp_path / "labels" / "train" / "1.txt", f"{LINE}{text}\n")
        message = refused(tmp_path)
        assert f"{file}, line 2: " in message
        assert word in message

    def test_bad_files_are_listed_together(self, tmp_path: Path):
        yolo(tmp_path, count=14)
        for number in range(12):
            label(tmp_path / "labels" / "train" / f"{number}.txt", "x\n")
        message = refused(tmp_path)
        assert message.count("line 1: 'x' is not") == 10
        assert message.endswith("and 2 more label files")

    def test_boxes_without_area_are_left_out_by_line(self, tmp_path: Path):
        yolo(tmp_path)
        label(
            tmp_path / "labels" / "train" / "1.txt",
            f"{LINE}0 0.5 0.5 0 0.1\n0 0.5 0.5 -0.1 0.1\n0 1.2 0.5 0.1 0.1\n0 nan 0 1 1",
        )
        assert read(tmp_path) == {"train": ALL}
        text = notes(tmp_path)
        assert (
            "left out 4 boxes without area inside the image: images/train/1.jpg (32, 21.6, 32, 26.4) line 2 of 1.txt"
            in text
        )


class TestPlaces:
    def test_linked_folders_are_followed(self, tmp_path: Path):
        for number in range(3):
            picture(tmp_path / "set" / "images" / "a" / f"a{number}.jpg")
            picture(tmp_path / "store" / f"b{number}.jpg")
            for part in "ab":
                label(tmp_path / "set" / "labels" / part / f"{part}{number}.txt")
        (tmp_path / "set" / "images" / "b").symlink_to(tmp_path / "store")
        (tmp_path / "set" / "images" / "b2").symlink_to(tmp_path / "set" / "images")  # back to a folder above
        (tmp_path / "set" / "data.yaml").write_text("train: images\nnames: [cat]\n")
        assert read(tmp_path / "set")["train"] == {f"{part}{at}.jpg": [BOX] for part in "ab" for at in range(3)}

    @pytest.mark.parametrize("path", ["set", "{}/images/set"])
    def test_labels_are_sought_within_the_data_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str):
        """A folder above is called images, which says nothing about the data set."""
        for number in range(3):
            picture(tmp_path / "images" / "set" / "train" / f"{number}.jpg")
            label(tmp_path / "images" / "set" / "train" / f"{number}.txt")
        label(tmp_path / "labels" / "set" / "train" / "0.txt", "0 0.5 0.5 0.1 0.1")  # of something else
        (tmp_path / "images" / "set" / "data.yaml").write_text("train: train\nnames: [cat]\n")
        monkeypatch.chdir(tmp_path / "images")
        assert read(path.format(tmp_path)) == {"train": ALL}

    def test_a_folder_images_above_the_data_set_counts_where_nothing_else_is(self, tmp_path: Path):
        for number in range(3):
            picture(tmp_path / "images" / "train" / f"{number}.jpg")
            label(tmp_path / "labels" / "train" / f"{number}.txt")
        (tmp_path / "data.yaml").write_text("path: images\ntrain: train\nnames: [cat]\n")
        assert read(tmp_path) == {"train": ALL}

    def test_labels_beside_the_image_count_where_labels_has_none(self, tmp_path: Path):
        for part in ("a", "b/images", "c/images"):
            picture(tmp_path / part / f"{part[0]}.jpg")
            label(tmp_path / part / f"{part[0]}.txt", LINE if part[0] != "c" else "0 0.5 0.5 0.1 0.1")
        label(tmp_path / "c" / "labels" / "c.txt")
        (tmp_path / "data.yaml").write_text("train: [a, b/images, c/images]\nnames: [cat]\n")
        assert read(tmp_path) == {"train": {f"{part}.jpg": [BOX] for part in "abc"}}

    def test_only_the_last_folder_images_is_replaced(self, tmp_path: Path):
        picture(tmp_path / "images" / "old" / "images" / "a.jpg")
        label(tmp_path / "images" / "old" / "labels" / "a.txt")
        label(tmp_path / "labels" / "old" / "images" / "a.txt", "0 0.5 0.5 0.1 0.1")
        (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
        assert read(tmp_path) == {"train": {"a.jpg": [BOX]}}

    @pytest.mark.parametrize(
        "description",
        [
            "train: images/train",
            "train: ./images/train/",
            "train: [images/train]",
            "train: ../images/train",  # Roboflow's: from the folder of data.yaml
            "train: images\\train",
            "path: .\ntrain: images/train",
            "path: ../set\ntrain: images/train",
            "path: ../datasets/gone\ntrain: images/train",
            "path: {root}\ntrain: images/train",
            "train: {root}/images/train",
            "train: train.txt",
            "train: [images/train/0.jpg, images/train/1.jpg, images/train/2.jpg]",
            "Train: images/train\nTest:\nval: ~\n",
        ],
    )
    def test_what_a_description_may_say(self, tmp_path: Path, description: str):
        root = yolo(tmp_path / "set", LINE, f"{description.format(root=tmp_path / 'set')}\nnames: [cat]\n")
        (root / "train.txt").write_text("".join(f"./images/train/{number}.jpg\n" for number in range(3)))
        assert read(root) == {"train": ALL}
        assert sorted(records(root)) == [f"images/train/{number}.jpg" for number in range(3)]

    @pytest.mark.parametrize("key", ["val", "test"])
    def test_a_split_that_is_not_there_is_told(self, tmp_path: Path, key: str):
        """Roboflow names all three, also where a set has no test images."""
        yolo(tmp_path, LINE, f"train: ../train/images\n{key}: ../{key}/images\nnames: [cat]\n")
        (tmp_path / "train").mkdir()
        (tmp_path / "images" / "train").rename(tmp_path / "train" / "images")
        (tmp_path / "labels" / "train").rename(tmp_path / "train" / "labels")
        assert read(tmp_path) == {"train": ALL}
        assert f"data.yaml has {key}: ../{key}/images, which does not exist" in notes(tmp_path)

    def test_training_images_must_be_there(self, tmp_path: Path):
        yolo(tmp_path, LINE, "train: images/tain\nnames: [cat]\n")
        assert "there is no folder or list" in refused(tmp_path)

    def test_a_description_may_have_another_name(self, tmp_path: Path):
        yolo(tmp_path)
        (tmp_path / "data.yaml").rename(tmp_path / "coco8.yaml")
        (tmp_path / "hyp.yaml").write_text("lr: 0.1\n")
        assert read(tmp_path) == {"train": ALL}

    def test_a_set_for_testing_alone(self, tmp_path: Path):
        yolo(tmp_path, LINE, "test: images/train\nnames: [cat]\n")
        assert read(tmp_path) == {"test": ALL}


class TestLists:
    @pytest.mark.parametrize(
        ("place", "form"),
        [
            ("train.txt", "images/train/{}.jpg"),
            ("train.txt", "./images/train/{}.jpg"),
            ("train.txt", "{root}/images/train/{}.jpg"),
            ("train.txt", "images\\train\\{}.jpg"),
            ("train.txt", "data/images/train/{}.jpg"),  # Datumaro's
            ("train.txt", "/home/me/darknet/set/images/train/{}.jpg"),  # of another machine
            ("train.txt", "./images/../images/train/{}.jpg"),
            ("splits/train.txt", "../images/train/{}.jpg"),
            ("splits/train.txt", "images/train/{}.jpg"),
        ],
    )
    @pytest.mark.parametrize("start", ["", "\ufeff"])
    def test_what_a_line_may_be(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, form: str, start: str
    ):
        root = yolo(tmp_path / "set", LINE, f"train: {place}\nnames: [cat]\n")
        (root / place).parent.mkdir(exist_ok=True)
        lines = [form.format(number, root=root) for number in range(3)]
        (root / place).write_text(start + "\n".join(lines) + "\n\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        assert read("set") == {"train": ALL}
        assert read(root) == {"train": ALL}
        assert sorted(records(root)) == [f"images/train/{number}.jpg" for number in range(3)]

    @pytest.mark.parametrize("line", ["../secret.jpg", "{}/secret.jpg", "images/../../secret.jpg", "/etc/passwd"])
    def test_nothing_outside_is_opened(self, tmp_path: Path, line: str):
        picture(tmp_path / "secret.jpg")
        root = yolo(tmp_path / "set", LINE, "train: train.txt\nnames: [cat]\n")
        (root / "train.txt").write_text(f"images/train/0.jpg\n{line.format(tmp_path)}\n")
        assert "is not inside" in refused(root)

    def test_missing_images_are_listed_at_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        yolo(tmp_path, LINE, "train: train.txt\nnames: [cat]\n", count=4)
        (tmp_path / "train.txt").write_text("".join(f"images/train/{number}.jpg\n" for number in range(6)))
        assert "2 images cannot be found: images/train/4.jpg, images/train/5.jpg" in refused(tmp_path)
        assert main(["data", "check", str(tmp_path), "task=detection", "data.on_bad=skip"]) == 2
        assert capsys.readouterr().out.count("no such file") == 2

    def test_broken_links_are_listed_at_once(self, tmp_path: Path):
        yolo(tmp_path)
        for number in (7, 8):
            (tmp_path / "images" / "train" / f"{number}.jpg").symlink_to("/no/such.jpg")
        assert "2 images cannot be found: images/train/7.jpg, images/train/8.jpg" in refused(tmp_path)
        found = records(tmp_path, on_bad="skip")
        assert len(found) == 5

    def test_a_repeated_line_is_one_image(self, tmp_path: Path):
        yolo(tmp_path, LINE, "train: train.txt\nnames: [cat]\n")
        (tmp_path / "train.txt").write_text("".join(f"images/train/{number}.jpg\n" for number in (0, 1, 2, 1)))
        assert read(tmp_path) == {"train": ALL}
        assert "left out 1 repetition of an image: images/train/1.jpg" in notes(tmp_path)

    @pytest.mark.parametrize(("name", "split"), [("val", "val"), ("valid", "val"), ("test", "test"), ("Test", "test")])
    @pytest.mark.parametrize(
        "form",
        ["images/train/1.jpg", "./images/train/1.jpg", "{}/images/train/1.jpg", "1.jpg", "1", "/a/b/train/1.jpg 0"],
    )
    def test_held_out_lists_are_heeded(self, tmp_path: Path, name: str, split: str, form: str):
        """data.yaml names one folder, and a list next to it says what is not to be trained on."""
        yolo(tmp_path)
        (tmp_path / f"{name}.txt").write_text(form.format(tmp_path) + "\n")
        assert {split: list(images) for split, images in read(tmp_path).items()} == {
            "train": ["0.jpg", "2.jpg"],
            split: ["1.jpg"],
        }
        assert f"moved 1 image from training to {split}, held out by {name}.txt" in notes(tmp_path)

    def test_names_that_begin_alike(self, tmp_path: Path):
        yolo(tmp_path, count=12)
        (tmp_path / "test.txt").write_text("1\n")
        assert list(read(tmp_path)["test"]) == ["1.jpg"]

    def test_held_out_folders_are_heeded(self, tmp_path: Path):
        yolo(tmp_path, LINE, "train: images\nnames: [cat]\n")
        picture(tmp_path / "images" / "test" / "9.jpg")
        label(tmp_path / "labels" / "test" / "9.txt")
        assert read(tmp_path) == {"train": ALL, "test": {"9.jpg": [BOX]}}

    def test_a_text_file_that_is_no_list_does_no_harm(self, tmp_path: Path):
        yolo(tmp_path)
        (tmp_path / "test.txt").write_bytes(b"\xff\xfe\x00 notes on testing")
        assert read(tmp_path) == {"train": ALL}


NAMES = ["a[1]", "a*", "img1", "img10", "img1.0", "ä", " b ", "c#%20", "{d}"]


def test_names_are_names(tmp_path: Path):
    for at, name in enumerate(NAMES):
        picture(tmp_path / "images" / f"{name}.jpg")
        label(tmp_path / "labels" / f"{name}.txt", f"0 {(at + 16) / 64} 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    found = read(tmp_path)["train"]
    assert {name: boxes[0][1][0] for name, boxes in found.items()} == {
        f"{name}.jpg": at for at, name in enumerate(NAMES)
    }


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_in_one_unicode_form(tmp_path: Path, forms: tuple[str, str]):
    one, other = (unicodedata.normalize(form, "Å1") for form in forms)
    picture(tmp_path / "images" / one / f"{one}.jpg")
    label(tmp_path / "labels" / other / f"{other}.txt")
    (tmp_path / "train.txt").write_text(f"images/{other}/{other}.jpg\n", encoding="utf-8")
    for description in (
        "train: images\nnames: [cat]\n",
        f"train: images/{other}\nnames: [cat]\n",
        "train: train.txt\nnames: [cat]\n",
    ):
        (tmp_path / "data.yaml").write_text(description, encoding="utf-8")
        assert read(tmp_path) == {"train": {f"{one}.jpg": [BOX]}}, description


@pytest.mark.parametrize("suffixes", [("JPG", "txt"), ("jpg", "TXT"), ("PNG", "Txt")])
def test_the_case_of_extensions(tmp_path: Path, suffixes: tuple[str, str]):
    picture(tmp_path / "images" / f"a.{suffixes[0]}")
    label(tmp_path / "labels" / f"a.{suffixes[1]}")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    assert read(tmp_path) == {"train": {f"a.{suffixes[0]}": [BOX]}}


def test_images_without_a_label_file_are_background(tmp_path: Path):
    yolo(tmp_path)
    picture(tmp_path / "images" / "train" / "8.jpg")
    picture(tmp_path / "images" / "train" / "9.jpg")
    label(tmp_path / "labels" / "train" / "9.txt", "")
    assert read(tmp_path)["train"] == {**ALL, "8.jpg": [], "9.jpg": []}
    text = notes(tmp_path)
    assert "1 image with no label file, treated as background: images/train/8.jpg" in text
    assert "1 image without boxes, treated as background: images/train/9.jpg" in text


def test_images_that_share_a_label_file_are_told(tmp_path: Path):
    yolo(tmp_path)
    picture(tmp_path / "images" / "train" / "0.png")
    assert "1 label file of several images that differ only in the extension: 0.txt" in notes(tmp_path)


def test_where_labels_were_sought_is_told(tmp_path: Path):
    yolo(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "label")
    assert "no label files were found for the images of" in refused(tmp_path)
