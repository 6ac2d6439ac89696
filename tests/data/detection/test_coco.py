"""COCO files as people and tools write them: ids, categories, boxes, areas and places of images."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.boxes import BOX, change, coco, coco_tree, notes, picture, read, records, write_json
from vpt.cli.main import main
from vpt.config import DataConfig
from vpt.data.detection.registry import load_boxes
from vpt.data.detection.segmentation_boxes import segmentation_box
from vpt.utils.errors import UserError


def refused(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_boxes(DataConfig(path=str(folder)))
    return str(caught.value)


def test_two_images_with_one_id_are_refused(tmp_path: Path):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["images"][2].update(id=1))
    text = refused(tmp_path)
    assert "two images have the same id: 1 (0.png and 2.png)" in text
    assert "instances_train.json" in text


def test_an_image_that_is_listed_twice_is_one(tmp_path: Path):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["images"].append(dict(tree["images"][0])))
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}
    assert "lists 1 image a second time" in notes(tmp_path)


def test_two_entries_for_one_file_are_refused(tmp_path: Path):
    """Each would lack the boxes of the other."""
    coco(tmp_path)

    def twice(tree: dict[str, Any]) -> None:
        tree["images"].append({**tree["images"][0], "id": 9})
        tree["annotations"].append({"id": 9, "image_id": 9, "category_id": 2, "bbox": [1, 1, 5, 5]})

    change(tmp_path, twice)
    assert "the same image is annotated twice, with different boxes: instances_train/0.png" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["text", "whole floats", "mixed"])
def test_ids_may_be_anything_that_names(tmp_path: Path, kind: str):
    coco(tmp_path)

    def rename(tree: dict[str, Any]) -> None:
        form = {"text": lambda value: f"id-{value}", "whole floats": float, "mixed": str}[kind]
        for image in tree["images"]:
            image["id"] = form(image["id"])
        for annotation in tree["annotations"]:
            if kind != "mixed":  # elsewhere "7" and 7 are the same image
                annotation["image_id"] = form(annotation["image_id"])

    change(tmp_path, rename)
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}


def test_categories_may_have_text_ids_and_any_order(tmp_path: Path):
    coco(tmp_path, ["0.png", "1.png"])

    def rename(tree: dict[str, Any]) -> None:
        tree["categories"] = [{"id": 10, "name": "dog"}, {"id": "9", "name": "cat"}]
        tree["annotations"][0]["category_id"], tree["annotations"][1]["category_id"] = 9, "10"

    change(tmp_path, rename)
    assert load_boxes(DataConfig(path=str(tmp_path), join_val=True)).classes == ("cat", "dog")  # 9 before 10
    assert [boxes[0][0] for boxes in read(tmp_path)["train"].values()] == ["cat", "dog"]


def test_names_of_classes_show_what_cannot_be_seen(tmp_path: Path):
    coco(tmp_path, ["0.png", "1.png"])
    coco(tmp_path, ["2.png"], split="val")
    change(tmp_path, lambda tree: tree.update(categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]))
    change(tmp_path, lambda tree: tree.update(categories=[{"id": 1, "name": "cat\u200b"}]), "val")
    assert load_boxes(DataConfig(path=str(tmp_path))).classes == ("cat", "cat\u200b")
    other = coco(tmp_path / "other", ["3.png"], split="test")
    change(other, lambda tree: tree["categories"][0].update(name="cat "), "test")
    with pytest.raises(
        UserError, match=r"the test boxes have 1 class that training lacks: 'cat '; add training images"
    ):
        load_boxes(DataConfig(path=str(tmp_path), test=str(other)))


def test_splits_that_number_their_categories_differently_agree_by_name(tmp_path: Path):
    coco(tmp_path, ["0.png", "1.png"])
    coco(tmp_path, ["2.png"], split="val")
    change(tmp_path, lambda tree: tree["annotations"][1].update(category_id=2))
    change(tmp_path, lambda tree: tree.update(categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]), "val")
    assert read(tmp_path)["val"]["2.png"][0][0] == "dog"
    assert load_boxes(DataConfig(path=str(tmp_path))).classes == ("cat", "dog")
    assert "number their categories differently" in notes(tmp_path)


def test_a_category_without_boxes_may_share_a_name(tmp_path: Path):
    """Roboflow lists the name of the project as category 0, which may be that of a class."""
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["categories"].insert(0, {"id": 0, "name": "cat", "supercategory": "none"}))
    assert load_boxes(DataConfig(path=str(tmp_path))).classes == ("cat",)


def test_annotations_may_share_an_id(tmp_path: Path):
    """Datumaro numbers them within an image."""
    coco(tmp_path)
    change(tmp_path, lambda tree: [annotation.update(id=5) for annotation in tree["annotations"]])
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}


def test_what_is_missing_in_a_file(tmp_path: Path):
    coco(tmp_path)

    def thin(tree: dict[str, Any]) -> None:
        for annotation in tree["annotations"]:
            del annotation["iscrowd"], annotation["id"]

    change(tmp_path, thin)
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}


@pytest.mark.parametrize(
    ("value", "crowd"), [(0, False), (1, True), (True, True), ("0", False), ("1", True), (None, False)]
)
def test_crowds(tmp_path: Path, value: Any, crowd: bool):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["annotations"][0].update(iscrowd=value))
    assert records(tmp_path)["instances_train/0.png"].crowds == (crowd,)


def test_a_crowd_that_is_neither_is_refused(tmp_path: Path):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["annotations"][0].update(iscrowd="no"))
    assert "annotation 1: 'iscrowd' is 'no'; it must be 0 or 1" in refused(tmp_path)


POLYGONS = [[5, 6, 25, 6, 25, 21], [7, 8, 9, 8, 9, 9]]


@pytest.mark.parametrize(
    "segmentation",
    [
        POLYGONS,
        POLYGONS[0],
        {"size": [48, 64], "counts": [5 * 48 + 6, 15] + [33, 15] * 19 + [39 * 48 + 27]},
    ],
    ids=["polygons", "flat polygon", "run lengths"],
)
@pytest.mark.parametrize("missing", [True, False])
def test_segmentations_give_the_box_where_there_is_none(tmp_path: Path, segmentation: Any, missing: bool):
    coco(tmp_path)

    def move(tree: dict[str, Any]) -> None:
        for annotation in tree["annotations"]:
            annotation.update(segmentation=segmentation, bbox=[])
            if missing:
                del annotation["bbox"]

    change(tmp_path, move)
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}
    assert "3 annotations without bbox" in notes(tmp_path)


def test_a_box_that_is_there_counts_more_than_the_segmentation(tmp_path: Path):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["annotations"][0].update(segmentation=[[0, 0, 60, 0, 60, 40]]))
    assert read(tmp_path)["train"]["0.png"] == [BOX]


@given(st.integers(1, 14), st.integers(1, 14), st.floats(0.02, 0.98), st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_run_lengths_have_the_box_of_pycocotools(height: int, width: int, share: float, seed: int):
    from pycocotools import mask as masks

    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    encoded = masks.encode(np.asfortranarray(mask))
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    x, y, w, h = masks.toBbox(encoded)
    expected = (x, y, x + w, y + h) if mask.any() else None
    assert segmentation_box({"size": [height, width], "counts": encoded["counts"].decode()}) == expected
    assert segmentation_box({"size": [height, width], "counts": counts}) == expected


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[]],
        [[1, 2]],
        [[1, 2, 3]],
        [["a", "b", "c", "d"]],
        {},
        {"size": [10**12, 10**12], "counts": [5, 5]},
        {"size": [4, 4], "counts": [1, -1]},
        {"size": [4, 4], "counts": [5, 10**9]},
        {"size": [4, 4], "counts": [1.5]},
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": "o" * 20},
        {"size": [4, 4], "counts": [16]},
        {"size": [True, 4], "counts": [1, 2]},
        "polygon",
    ],
)
def test_segmentations_that_are_none(segmentation: Any):
    assert segmentation_box(segmentation) is None


@pytest.mark.parametrize(
    ("bbox", "word"),
    [
        ([1, 2, 3], "no bbox of four numbers: '[1, 2, 3]'"),
        (["1", 2, 3, 4], "no bbox of four numbers"),
        ([True, 2, 3, 4], "no bbox of four numbers"),
        (None, "no bbox of four numbers, and no segmentation"),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, bbox: Any, word: str):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["annotations"][1].update(bbox=bbox))
    text = refused(tmp_path)
    assert "instances_train.json: annotation 2 has " + word in text


def test_boxes_without_area_are_left_out_by_name(tmp_path: Path):
    coco(tmp_path, [f"{number}.png" for number in range(8)])
    boxes = [[5, 5, 0, 10], [5, 5, -3, 10], [60, 40, 10, 20], [70, 5, 5, 5], [5, 5, float("nan"), 5], [5, 5, 1e400, 9]]

    def spoil(tree: dict[str, Any]) -> None:
        for annotation, box in zip(tree["annotations"], boxes, strict=False):
            annotation["bbox"] = box

    change(tmp_path, spoil)
    found = read(tmp_path)["train"]
    assert [found[f"{number}.png"] for number in range(6)] == [[], [], [("cat", (60, 40, 64, 48))], [], [], []]
    text = notes(tmp_path)
    assert "left out 5 boxes without area inside the image: " in text
    assert "instances_train/0.png (5, 5, 5, 15) annotation 1 of instances_train.json" in text
    assert "instances_train/4.png (a number that is not finite) annotation 5" in text
    assert "clipped 1 box at the image's edge: instances_train/2.png" in text


def test_repeated_boxes_are_told(tmp_path: Path):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["annotations"].append(dict(tree["annotations"][0])))
    assert read(tmp_path)["train"]["0.png"] == [BOX, BOX]  # as pycocotools does
    assert "1 box repeated within an image, and kept: instances_train/0.png" in notes(tmp_path)


@pytest.mark.parametrize(
    ("area", "expected"), [(900, 900.0), (0, 0.0), (None, 300.0), ("9", 300.0), (-4, 300.0), (float("nan"), 300.0)]
)
def test_the_area_is_the_files(tmp_path: Path, area: Any, expected: float):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["annotations"][0].update(area=area))
    assert records(tmp_path)["instances_train/0.png"].object_areas() == (expected,)


def test_annotations_of_nothing_are_counted(tmp_path: Path):
    coco(tmp_path)
    change(tmp_path, lambda tree: [one.update(image_id=99) for one in tree["annotations"][:2]])
    text = refused(tmp_path)
    assert "annotation 1 belongs to image 99, which is not listed, annotation 2 belongs to image 99" in text


def test_a_byte_order_mark_is_no_fault(tmp_path: Path):
    coco(tmp_path)
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}


NAMES = [
    "a[1].png",
    "a*.png",
    "a?.png",
    "img1.png",
    "img10.png",
    "img1.0.png",
    "ä.png",
    " b .png",
    "c#%20.png",
    "{d}.png",
]


def test_names_are_names(tmp_path: Path):
    coco(tmp_path, NAMES)

    def number(tree: dict[str, Any]) -> None:
        for at, annotation in enumerate(tree["annotations"]):
            annotation["bbox"] = [at, 6, 20, 15]

    change(tmp_path, number)
    found = read(tmp_path)["train"]
    assert {name: boxes[0][1][0] for name, boxes in found.items()} == dict(zip(NAMES, range(len(NAMES)), strict=True))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_in_one_unicode_form(tmp_path: Path, forms: tuple[str, str]):
    written, stored = (unicodedata.normalize(form, "Ångström ü") for form in forms)
    picture(tmp_path / "images" / stored / f"{stored}.png")
    picture(tmp_path / "images" / "b.png")
    images = [{"file_name": f"{written}/{written}.png"}, {"file_name": "b.png"}]
    annotations = [{"image_id": 1, "bbox": [5, 6, 20, 15]}]
    write_json(tmp_path / "annotations" / "instances_train.json", coco_tree(images, annotations))
    assert read(tmp_path)["train"] == {f"{stored}.png": [BOX], "b.png": []}


def test_the_case_of_an_extension_does_not_matter_unless_it_tells_two_apart(tmp_path: Path):
    coco(tmp_path, ["a.JPG", "b.jpg"])
    change(tmp_path, lambda tree: tree["images"][0].update(file_name="a.jpg"))
    assert read(tmp_path)["train"] == {"a.JPG": [BOX], "b.jpg": [BOX]}
    picture(tmp_path / "images" / "a.jpg")
    assert read(tmp_path)["train"] == {"a.jpg": [BOX], "b.jpg": [BOX]}


@pytest.mark.parametrize("kind", ["absolute", "dots", "resolved"])
def test_paths_that_stay_inside_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    folder = coco(tmp_path / "set")
    monkeypatch.chdir(tmp_path)

    def rename(tree: dict[str, Any]) -> None:
        for image in tree["images"]:
            start = {
                "absolute": f"{folder}/images/",
                "dots": "../images/",
                "resolved": f"{folder.resolve()}/images/../images/",
            }
            image["file_name"] = start[kind] + image["file_name"]

    change(folder, rename)
    for path in ("set", folder, "set/annotations/instances_train.json"):
        assert read(path)["train"] == {f"{number}.png": [BOX] for number in range(3)}


def test_paths_of_another_machine_are_taken_by_their_end(tmp_path: Path):
    """Label Studio writes paths from where its own files lie."""
    coco(tmp_path)

    def rename(tree: dict[str, Any]) -> None:
        for image, start in zip(tree["images"], ("../../upload/1/", "/label-studio/data/", "C:\\data\\"), strict=True):
            image["file_name"] = start + image["file_name"]

    change(tmp_path, rename)
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}
    assert "3 paths lead out of the data set" in notes(tmp_path)


def test_nothing_outside_the_data_set_is_opened(tmp_path: Path):
    picture(tmp_path / "secret.png")
    folder = coco(tmp_path / "set")
    for name in ("../../secret.png", str(tmp_path / "secret.png"), "/etc/passwd", "../../../../etc/passwd"):
        change(folder, lambda tree, name=name: tree["images"][0].update(file_name=name))
        assert "is not inside" in refused(folder)


def test_missing_images_and_broken_links_are_listed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    coco(tmp_path, [f"{number}.png" for number in range(5)])
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "3.png").unlink()
    (tmp_path / "images" / "3.png").symlink_to("/no/such.png")
    text = refused(tmp_path)
    assert "2 images cannot be found: 1.png (instances_train.json), 3.png (instances_train.json)" in text
    assert "data.on_bad=skip" in text
    for words in ([], ["data.on_bad=skip"]):
        assert main(["data", "check", str(tmp_path), "task=detection", *words]) == 2
        shown = capsys.readouterr().out
        assert "2 images cannot be used:" in shown
        assert shown.count("no such file") == 2


def test_the_folder_named_after_the_split_comes_first(tmp_path: Path):
    for split, edge in (("train", 5), ("test", 9)):
        picture(tmp_path / "images" / split / "0.png")
        images, annotations = [{"file_name": "0.png"}], [{"image_id": 1, "bbox": [edge, 6, 20, 15]}]
        write_json(tmp_path / "annotations" / f"instances_{split}.json", coco_tree(images, annotations))
    picture(tmp_path / "images" / "0.png")
    found = load_boxes(DataConfig(path=str(tmp_path), join_val=True))
    assert [record.source.parent.name for record in (*found.train, *found.test)] == ["train", "test"]


def test_a_folder_for_testing_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train = coco(tmp_path / "a", [f"{number}.png" for number in range(6)])
    test = coco(tmp_path / "b", [f"{number}.png" for number in range(6)], split="test")
    data = load_boxes(DataConfig(path=str(train), test=str(test)))
    assert (len(data.train), len(data.val), len(data.test)) == (5, 1, 6)
    alone = load_boxes(DataConfig(path=str(test)))
    assert (len(alone.train), len(alone.val), len(alone.test), alone.classes) == (0, 0, 6, ("cat",))
    assert main(["data", "check", str(test), "task=detection"]) == 0
    assert "0 training, 0 validation and 6 test images" in capsys.readouterr().out
    assert main(["train", f"data={test}", "task=detection", f"out={tmp_path / 'runs'}"]) == 2
    assert "has only test images" in capsys.readouterr().err


def test_two_files_for_one_split_are_refused(tmp_path: Path):
    coco(tmp_path)
    coco(tmp_path, ["3.png"], split="training")
    assert "contains 2 COCO files for train: " in refused(tmp_path)


def test_coco_s_other_files_are_left_aside(tmp_path: Path):
    coco(tmp_path)
    for name in ("captions_train2017", "person_keypoints_train2017", "image_info_test2017", "stuff_train2017"):
        write_json(tmp_path / "annotations" / f"{name}.json", {"images": [], "annotations": [], "categories": []})
    assert list(read(tmp_path)) == ["train"]
    write_json(tmp_path / "results.json", [{"image_id": 1}])
    assert read(tmp_path)["train"] == {f"{number}.png": [BOX] for number in range(3)}


def test_what_is_said_of_a_folder_that_holds_nothing_known(tmp_path: Path):
    write_json(tmp_path / "d" / "notes.json", {"a": 1})
    assert "it contains notes.json, in which no annotations were found" in refused(tmp_path / "d")
    coco(tmp_path / "outer" / "inner")
    assert f"did you mean data={tmp_path / 'outer' / 'inner'}?" in refused(tmp_path / "outer")


def test_the_tree_of_a_hundred_bad_files_is_one_sentence(tmp_path: Path):
    """Values of the wrong kind anywhere end in a sentence, never in a traceback."""
    folder = coco(tmp_path)
    file = folder / "annotations" / "instances_train.json"
    good = json.loads(file.read_text())
    for value in (None, 1, "x", [], {}, [1], [None], True, -1, 1e400, "\0"):
        for table, keys in (
            ("images", ["id", "file_name", "width", "height"]),
            ("annotations", ["id", "image_id", "category_id", "bbox", "iscrowd", "area", "segmentation"]),
            ("categories", ["id", "name"]),
        ):
            for key in keys:
                tree = json.loads(json.dumps(good))
                tree[table][0][key] = value
                file.write_text(json.dumps(tree))
                message = ""
                with contextlib.suppress(UserError):
                    try:
                        load_boxes(DataConfig(path=str(folder)))
                    except UserError as error:
                        message = str(error)
                        raise
                assert not message or file.name in message or "cannot be found" in message, (table, key, value)
