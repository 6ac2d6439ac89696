"""Pascal VOC as people and tools write it: whose XML is whose, lists of splits, corners, names."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.boxes import BOX, notes, picture, read, records, xml
from vpt.config import DataConfig
from vpt.data.detection.registry import load_boxes
from vpt.utils.errors import UserError


def voc(folder: Path, stems: Any = ("0", "1", "2"), place: str = "JPEGImages") -> Path:
    for stem in stems:
        picture(folder / place / f"{stem}.jpg")
        xml(folder / "Annotations" / f"{stem}.xml", f"{stem}.jpg")
    return folder


def lists(folder: Path, **splits: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names.split()))
    return folder


def refused(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_boxes(DataConfig(path=str(folder)))
    return str(caught.value)


def stems(folder: Path) -> dict[str, list[str]]:
    return {split: [Path(name).stem for name in images] for split, images in read(folder).items()}


def test_an_xml_file_belongs_to_the_image_that_is_called_like_it(tmp_path: Path):
    """Pictures and XML were renamed together, <filename> was not."""
    for number in range(6):
        picture(tmp_path / "JPEGImages" / f"{number:03d}.jpg")
        box = ("cat", 6 + number, 6, 25, 25)
        xml(tmp_path / "Annotations" / f"{number:03d}.xml", f"{min(number + 1, 5):03d}.jpg", [box])
    found = read(tmp_path)["train"]
    assert {name: boxes[0][1][0] for name, boxes in found.items()} == {f"{at:03d}.jpg": 5 + at for at in range(6)}
    text = notes(tmp_path)
    assert "5 XML files whose <filename> differs from the image" in text
    assert "000.xml (names '001.jpg')" in text


def test_the_image_that_filename_names_is_taken_where_none_is_called_like_the_xml(tmp_path: Path):
    for number in range(3):
        picture(tmp_path / "images" / f"photo {number}.png")
        xml(tmp_path / "Annotations" / f"{number}.xml", f"photo {number}.png", [("cat", 6 + number, 7, 25, 21)])
    found = read(tmp_path)["train"]
    assert {name: boxes[0][1][0] for name, boxes in found.items()} == {f"photo {at}.png": 5 + at for at in range(3)}


@pytest.mark.parametrize(
    "filename", ["gone.jpg", "0", "", None, "C:\\photos\\0.jpg", "/home/me/0.jpg", "../../etc/passwd", "\u200b0.jpg"]
)
def test_a_filename_that_leads_nowhere_does_no_harm(tmp_path: Path, filename: str | None):
    voc(tmp_path)
    xml(tmp_path / "Annotations" / "0.xml", filename)
    assert read(tmp_path)["train"] == {f"{number}.jpg": [BOX] for number in range(3)}


def test_a_path_in_filename_is_read_by_its_end(tmp_path: Path):
    picture(tmp_path / "images" / "photo.jpg")
    picture(tmp_path / "images" / "0.jpg")
    xml(tmp_path / "Annotations" / "a.xml", "C:\\set\\photo.jpg")
    xml(tmp_path / "Annotations" / "0.xml", "0.jpg")
    assert read(tmp_path)["train"] == {"0.jpg": [BOX], "photo.jpg": [BOX]}


def test_two_xml_files_for_one_image_are_refused(tmp_path: Path):
    picture(tmp_path / "images" / "photo.jpg")
    for stem in "ab":
        xml(tmp_path / "Annotations" / f"{stem}.xml", "photo.jpg")
    text = refused(tmp_path)
    assert "a.xml and " in text
    assert "b.xml both name the image" in text


def test_an_xml_file_does_not_take_the_image_of_another(tmp_path: Path):
    voc(tmp_path)
    xml(tmp_path / "Annotations" / "9.xml", "0.jpg")
    assert "1 image cannot be found: 9.jpg (9.xml)" in refused(tmp_path)
    assert records(tmp_path, on_bad="skip")["9.jpg"].source.name == "9.jpg"


def test_images_that_differ_in_the_extension(tmp_path: Path):
    voc(tmp_path)
    picture(tmp_path / "JPEGImages" / "0.png")
    assert read(tmp_path)["train"]["0.jpg"] == [BOX]  # <filename> tells
    assert "left out 1 image without an XML file: 0.png" in notes(tmp_path)
    xml(tmp_path / "Annotations" / "0.xml", "other.bmp")
    assert "several images in" in refused(tmp_path)


NAMES = ["a[1]", "a*", "img1", "img10", "img1.0", "ä", "c#%20", "{d}", "e&f<g>"]


def test_names_are_names(tmp_path: Path):
    for at, name in enumerate(NAMES):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        xml(tmp_path / "Annotations" / f"{name}.xml", f"{name}.jpg", [("cat", at + 1, 7, 25, 21)])
    lists(tmp_path / "ImageSets" / "Main", train=" ".join(NAMES))
    found = read(tmp_path)["train"]
    assert {name: boxes[0][1][0] for name, boxes in found.items()} == {
        f"{name}.jpg": at for at, name in enumerate(NAMES)
    }


def test_names_are_compared_in_one_unicode_form(tmp_path: Path):
    one, other = (unicodedata.normalize(form, "Å1") for form in ("NFC", "NFD"))
    picture(tmp_path / "JPEGImages" / f"{one}.jpg")
    xml(tmp_path / "Annotations" / f"{other}.xml", f"{other}.jpg", [(unicodedata.normalize("NFD", "ä"), 6, 7, 25, 21)])
    lists(tmp_path / "ImageSets" / "Main", train=other)
    assert read(tmp_path) == {"train": {f"{one}.jpg": [(unicodedata.normalize("NFC", "ä"), BOX[1])]}}


def test_spaces_in_names_and_folders(tmp_path: Path):
    picture(tmp_path / "JPEGImages" / "sub dir" / "a b.jpg")
    xml(tmp_path / "Annotations" / "sub dir" / "a b.xml", "sub dir/a b.jpg")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for line in ("sub dir/a b", '"sub dir/a b"', "sub dir/a b.jpg", "JPEGImages/sub dir/a b.jpg", "sub dir/a b 1"):
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(f"{line}\n")
        assert read(tmp_path) == {"train": {"a b.jpg": [BOX]}}, line
    assert list(records(tmp_path, join_val=True)) == ["sub dir/a b.jpg"]


class TestLists:
    def test_of_all_splits(self, tmp_path: Path):
        voc(tmp_path, "abcdef")
        lists(tmp_path / "ImageSets" / "Main", train="a b", val="c", test="d e", trainval="a b c")
        assert stems(tmp_path) == {"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]}
        assert "left out 1 image that the lists of" in notes(tmp_path)
        assert "assign to no split: f" in notes(tmp_path)

    def test_trainval_without_train(self, tmp_path: Path):
        voc(tmp_path, "abcd")
        lists(tmp_path / "ImageSets" / "Main", trainval="a b c", test="d")
        assert stems(tmp_path) == {"train": ["a", "b", "c"], "test": ["d"]}
        lists(tmp_path / "ImageSets" / "Main", val="b")
        assert stems(tmp_path) == {"train": ["a", "c"], "val": ["b"], "test": ["d"]}

    @pytest.mark.parametrize(
        "place", ["ImageSets/Main", "ImageSets", "ImageSets/Segmentation", "ImageSets/Layout", "imagesets/main", "."]
    )
    @pytest.mark.parametrize("name", ["test", "Test", "testing", "test2017"])
    def test_held_out_alone(self, tmp_path: Path, place: str, name: str):
        """What only a list for testing names is not trained on."""
        voc(tmp_path, "abcd")
        lists(tmp_path / place, **{name: "b d"})
        assert stems(tmp_path) == {"train": ["a", "c"], "test": ["b", "d"]}
        assert "lists no training images, so 2 images in none of its lists are used" in notes(tmp_path)

    def test_all_held_out(self, tmp_path: Path):
        voc(tmp_path, "ab")
        lists(tmp_path / "ImageSets" / "Main", test="a b")
        assert stems(tmp_path) == {"test": ["a", "b"]}
        data = load_boxes(DataConfig(path=str(tmp_path)))
        assert (data.train, data.val, len(data.test)) == ((), (), 2)

    def test_two_lists_of_one_split(self, tmp_path: Path):
        voc(tmp_path, "abcd")
        lists(tmp_path, val="b", valid="d")
        assert stems(tmp_path) == {"train": ["a", "c"], "val": ["b", "d"]}

    def test_a_list_whose_name_tells_nothing_is_refused(self, tmp_path: Path):
        voc(tmp_path, "abcd")
        lists(tmp_path / "ImageSets" / "Main", train="a b", final="c d")
        assert "final.txt lists 2 images, but its name does not tell the purpose" in refused(tmp_path)
        lists(tmp_path / "ImageSets" / "Main", final="a b")  # nothing new
        assert stems(tmp_path) == {"train": ["a", "b"]}

    def test_cvat_s_default(self, tmp_path: Path):
        voc(tmp_path, "abc")
        lists(tmp_path / "ImageSets" / "Main", default="a b c")
        assert stems(tmp_path) == {"train": ["a", "b", "c"]}

    def test_cvat_s_subsets(self, tmp_path: Path):
        voc(tmp_path, "abc")
        lists(tmp_path / "ImageSets" / "Main", Train="a", Validation="b", Test="c")
        assert stems(tmp_path) == {"train": ["a"], "val": ["b"], "test": ["c"]}

    def test_lists_of_classes(self, tmp_path: Path):
        """Lines of VOC's own lists of a class end in 1, 0 or -1; the image is of the split all the same."""
        voc(tmp_path, "abcd")
        main = tmp_path / "ImageSets" / "Main"
        lists(main)
        (main / "cat_train.txt").write_text("a  1\nb -1\n")
        (main / "cat_val.txt").write_text("c  0\nd -1\n")
        assert stems(tmp_path) == {"train": ["a", "b"], "val": ["c", "d"]}
        lists(main, train="a b c", val="d")  # where there are plain ones, those count
        assert stems(tmp_path) == {"train": ["a", "b", "c"], "val": ["d"]}

    def test_names_that_begin_alike(self, tmp_path: Path):
        voc(tmp_path, ["img1", "img10", "img100"])
        lists(tmp_path / "ImageSets" / "Main", train="img1 img100", test="img10")
        assert stems(tmp_path) == {"train": ["img1", "img100"], "test": ["img10"]}

    @pytest.mark.parametrize(
        "form", ["{}.jpg", "JPEGImages/{}.jpg", "./JPEGImages/{}.jpg ./Annotations/{}.xml", "{}.xml"]
    )
    def test_lines_may_be_paths(self, tmp_path: Path, form: str):
        voc(tmp_path, "ab")
        for split, stem in (("train", "a"), ("val", "b")):
            (tmp_path / f"{split}_list.txt").write_text(form.format(stem, stem) + "\n")
        assert stems(tmp_path) == {"train": ["a"], "val": ["b"]}

    def test_an_image_in_two_lists_is_refused(self, tmp_path: Path):
        voc(tmp_path, "abc")
        lists(tmp_path / "ImageSets" / "Main", train="a b", val="b c")
        assert "is in train and in val, which makes the score meaningless" in refused(tmp_path)

    def test_a_repeated_line_is_one_image(self, tmp_path: Path):
        voc(tmp_path, "ab")
        lists(tmp_path / "ImageSets" / "Main", train="a b a")
        assert stems(tmp_path) == {"train": ["a", "b"]}

    def test_a_name_without_xml_is_shown_with_what_cannot_be_seen(self, tmp_path: Path):
        voc(tmp_path, "ab")
        lists(tmp_path / "ImageSets" / "Main")
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes("\ufeffa\n\u200bb\n".encode())
        assert "lists images without an XML file: '\\u200bb'" in refused(tmp_path)  # a byte order mark is none of it


def test_folders_called_after_splits(tmp_path: Path):
    for split in ("train", "val"):
        picture(tmp_path / "JPEGImages" / split / f"{split}.jpg")
        xml(tmp_path / "Annotations" / split / f"{split}.xml", f"{split}.jpg")
    assert stems(tmp_path) == {"train": ["train"], "val": ["val"]}
    assert list(records(tmp_path)) == ["train/train.jpg", "val/val.jpg"]


def test_xml_in_capitals_and_linked_folders(tmp_path: Path):
    picture(tmp_path / "store" / "0.JPG")
    picture(tmp_path / "store" / "1.jpg")
    for stem in "01":
        xml(tmp_path / "set" / "Annotations" / f"{stem}.XML", f"{stem}.jpg")
    (tmp_path / "set" / "JPEGImages").symlink_to(tmp_path / "store")
    assert read(tmp_path / "set") == {"train": {"0.JPG": [BOX], "1.jpg": [BOX]}}


def test_corners_in_the_wrong_order_are_put_right(tmp_path: Path):
    voc(tmp_path)
    xml(tmp_path / "Annotations" / "0.xml", "0.jpg", [("cat", 25, 21, 6, 7), ("cat", 6, 7, 25, 21)])
    assert read(tmp_path)["train"]["0.jpg"] == [BOX, BOX]
    assert "swapped the corners of 1 box: 0.xml" in notes(tmp_path)


@pytest.mark.parametrize("corners", [(10, 10, 10, 10), (10, 10, 10, 20), (10, 10, 20, 10)])
def test_corners_that_coincide_have_no_area(tmp_path: Path, corners: tuple[int, int, int, int]):
    """A click by mistake in labelImg, which counted as a box of one pixel."""
    voc(tmp_path)
    xml(tmp_path / "Annotations" / "0.xml", "0.jpg", [("cat", *corners), ("cat", 6, 7, 25, 21)])
    assert read(tmp_path)["train"]["0.jpg"] == [BOX]
    named = f"0.jpg ({', '.join(map(str, corners))}) object 1 of 0.xml"
    assert f"left out 1 box without area inside the image: {named}" in notes(tmp_path)


DATUMARO = (
    "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>",
    "<owner><name>Label Studio</name></owner>",
)


@pytest.mark.parametrize("sign", DATUMARO)
def test_tools_that_count_pixels_from_zero(tmp_path: Path, sign: str):
    voc(tmp_path)
    for number in range(3):
        xml(tmp_path / "Annotations" / f"{number}.xml", f"{number}.jpg", [("cat", 5.0, 6.0, 25.0, 21.0)], more=sign)
    assert read(tmp_path)["train"] == {f"{number}.jpg": [BOX] for number in range(3)}
    assert "the boxes of 3 XML files count pixels from 0" in notes(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("<xmin>6</xmin>", "<xmin>6,5</xmin>", "object 1: xmin is '6,5', not a number"),
        ("<xmin>6</xmin>", "<xmin>\u200b6</xmin>", "object 1: xmin is '\\u200b6', not a number"),
        ("<xmin>6</xmin>", "", "object 1: xmin is '', not a number"),
        ("<name>cat</name>", "<name> </name>", "object 1 has no name"),
        ("<width>64</width>", "<width>wide</width>", "size/width is 'wide', not a whole number of pixels"),
        ("annotation>", "annotations>", "is not Pascal VOC: its root is 'annotations'"),
        ("<bndbox>", "<robndbox>", "cannot be read as XML"),
        ("bndbox>", "robndbox>", "object 1 (cat) has no bndbox"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, old: str, new: str, word: str):
    voc(tmp_path)
    file = tmp_path / "Annotations" / "1.xml"
    file.write_text(file.read_text().replace(old, new), encoding="utf-8")
    text = refused(tmp_path)
    assert str(file) in text
    assert word in text


def test_entities_are_not_expanded_without_end(tmp_path: Path):
    voc(tmp_path)
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    text = f'<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">{bomb}]><annotation><filename>&a11;</filename></annotation>'
    (tmp_path / "Annotations" / "1.xml").write_text(text)
    assert "cannot be read as XML" in refused(tmp_path)


def test_numbers_that_are_no_boxes_are_left_out(tmp_path: Path):
    voc(tmp_path)
    xml(tmp_path / "Annotations" / "0.xml", "0.jpg", [("cat", float("nan"), 7, 25, 21), ("cat", 70, 7, 75, 21)])
    assert read(tmp_path)["train"]["0.jpg"] == []
    assert "0.jpg (a number that is not finite) object 1 of 0.xml" in notes(tmp_path)


def test_images_without_objects_are_background(tmp_path: Path):
    voc(tmp_path)
    xml(tmp_path / "Annotations" / "0.xml", "0.jpg", [])
    picture(tmp_path / "JPEGImages" / "9.jpg")
    assert read(tmp_path)["train"]["0.jpg"] == []
    text = notes(tmp_path)
    assert "1 image without boxes, treated as background: 0.jpg" in text
    assert "left out 1 image without an XML file: 9.jpg" in text
