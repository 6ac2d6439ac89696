"""Masks of every layout, as other tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.boxes import SIZE, picture
from tests.helpers.mask_folders import VOC_PALETTE, blocks, coco, load, masks_of, pairs, save_mask
from vpt.config import DataConfig
from vpt.data.segmentation.dataset import IGNORE
from vpt.data.segmentation.registry import layout_of, read_masks
from vpt.utils.errors import UserError

STRIPES = blocks([0, 1])


def test_folders_of_splits(tmp_path: Path):
    pairs(tmp_path, ["train/a", "train/b", "val/c", "test/d"], [0, 1, 2, 255])
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    data = load(tmp_path)
    assert data.classes == ("sky", "road", "car")
    assert [len(data.train), len(data.val), len(data.test)] == [2, 1, 1]
    assert data.train[0].labels == (0, 1, 2)
    assert (masks_of(data)["a"] == blocks([0, 1, 2, 255])).all()


def test_splits_outside_and_ends_of_names(tmp_path: Path):
    for split in ("train", "valid"):
        picture(tmp_path / split / "images" / "x" / "a.jpg")
        save_mask(tmp_path / split / "masks" / "x" / "a_mask.png", blocks([0, 1]))
    data = load(tmp_path)
    assert [len(data.train), len(data.val)] == [1, 1]
    assert data.classes == ("class_0", "class_1")
    assert any("classes.txt" in note for note in data.notes)


def test_flat_folders_are_split_by_fraction(tmp_path: Path):
    pairs(tmp_path, [f"{number}" for number in range(10)])
    data = load(tmp_path, val_fraction=0.2, test_fraction=0.2)
    assert [len(data.train), len(data.val), len(data.test)] == [6, 2, 2]


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1", "RGB", "RGBA"])
def test_every_form_of_indices(tmp_path: Path, mode: str):
    picture(tmp_path / "images" / "train" / "a.jpg")
    picture(tmp_path / "images" / "val" / "b.jpg")
    for split, name in (("train", "a"), ("val", "b")):
        folder = tmp_path / "masks" / split
        folder.mkdir(parents=True)
        image = Image.fromarray(STRIPES)
        if mode == "P":
            image = Image.fromarray(STRIPES, "P")
            image.putpalette([9, 9, 9, 200, 0, 0])  # colours that are not the indices
        elif mode == "I;16":
            image = Image.fromarray(STRIPES.astype(np.uint16))
        elif mode == "1":
            image = Image.fromarray(STRIPES > 0)
        elif mode in ("RGB", "RGBA"):
            image = image.convert(mode)
        image.save(folder / f"{name}.png")
    assert (masks_of(load(tmp_path))["a"] == STRIPES).all()


def test_black_and_white_masks_are_background_and_foreground(tmp_path: Path):
    pairs(tmp_path, ["train/a", "val/b"], [0, 255])
    data = load(tmp_path)
    assert data.classes == ("background", "foreground")
    assert (masks_of(data)["a"] == STRIPES).all()
    (tmp_path / "classes.txt").write_text("fine\ncrack\n")
    data = load(tmp_path)
    assert data.classes == ("fine", "crack")
    assert (masks_of(data)["a"] == STRIPES).all()
    (tmp_path / "classes.txt").unlink()
    assert load(tmp_path, ignore_index=255).classes == ("class_0",)


def test_ignored_value_is_no_class(tmp_path: Path):
    pairs(tmp_path, ["train/a", "val/b"], [0, 1, 2])
    data = load(tmp_path, ignore_index=0)
    assert data.classes == ("class_1", "class_2")
    assert (masks_of(data)["a"] == blocks([255, 0, 1])).all()


def test_colours_of_a_yaml_file(tmp_path: Path):
    for split, name in (("train", "a"), ("val", "b")):
        picture(tmp_path / "images" / split / f"{name}.jpg")
        colours = np.array([[128, 64, 128], [0, 0, 142], [255, 255, 255]], np.uint8)[blocks([0, 1, 2])]
        save_mask(tmp_path / "masks" / split / f"{name}.png", colours)
    with pytest.raises(UserError, match=r"a\.png.*is in colour; give its classes and colours with data.mask_classes"):
        load(tmp_path)
    file = tmp_path / "colours.yaml"
    file.write_text("classes: {road: [128, 64, 128], car: [0, 0, 142]}\nignore: [255, 255, 255]\n")
    data = load(tmp_path, mask_classes=str(file))
    assert data.classes == ("road", "car")
    assert (masks_of(data)["a"] == blocks([0, 1, 255])).all()
    file.write_text("classes: {road: [128, 64, 128]}\n")
    with pytest.raises(UserError, match=r"\(0, 0, 142\), \(255, 255, 255\), which is no class"):
        load(tmp_path, mask_classes=str(file))


def test_values_of_a_yaml_file(tmp_path: Path):
    pairs(tmp_path, ["train/a", "val/b"], [7, 26, 3])
    (tmp_path / "classes.yaml").write_text("classes: {26: car, 7: road}\nignore: 3\n")
    data = load(tmp_path)
    assert data.classes == ("road", "car")
    assert (masks_of(data)["a"] == blocks([0, 1, 255])).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: {road: [300, 0, 0]}", r"the colour of 'road'"),
        ("classes: {a: [1, 2, 3], b: [1, 2, 3]}", "is given twice"),
        ("classes: [a, a]", "a class name occurs twice: 'a'"),
        ("classes: [yes, a]", "a class is named 'True'"),
        ("classes: {70000: a}", "values are 0 to 65535"),
        ("colours: {}", "unknown key 'colours'"),
        ("ignore: 3", "must name the classes"),
        ("a: &a [*a]", "not valid YAML"),
    ],
)
def test_faults_of_a_yaml_file_are_named(tmp_path: Path, text: str, said: str):
    pairs(tmp_path, ["train/a", "val/b"])
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load(tmp_path)
    assert "classes.yaml" in str(caught.value)


def test_pascal_voc(tmp_path: Path):
    """VOC2012: palette PNGs, borders of 255, lists in ImageSets/Segmentation; images without masks besides."""
    for name in ("2007_000032", "2007_000033", "2007_000039"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        save_mask(tmp_path / "SegmentationClass" / f"{name}.png", blocks([0, 1, 255]), VOC_PALETTE)
    picture(tmp_path / "JPEGImages" / "2008_000001.jpg")
    for split, names in (("train", "2007_000032\n2007_000033\n"), ("val", "2007_000039\n"), ("trainval", "")):
        file = tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(names)
    data = load(tmp_path)
    assert len(data.classes) == 21
    assert data.classes[1] == "aeroplane"
    assert [len(data.train), len(data.val)] == [2, 1]
    assert (masks_of(data)["2007_000032"] == blocks([0, 1, 255])).all()
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("nothing\n")
    with pytest.raises(UserError, match=r"val.txt names 1 image not in .*: nothing"):
        load(tmp_path)


def test_cvat_masks_with_a_labelmap(tmp_path: Path):
    for name in ("a", "b"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        colours = np.array([[0, 0, 0], [250, 50, 83]], np.uint8)[STRIPES]
        save_mask(tmp_path / "SegmentationClass" / f"{name}.png", colours)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\nb\n")
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
    (tmp_path / "labelmap.txt").write_text(text)
    data = load(tmp_path, val_fraction=0.5)
    assert data.classes == ("background", "cat")
    assert (masks_of(data)["a"] == STRIPES).all()


def test_cityscapes(tmp_path: Path):
    for split, city, number in (("train", "aachen", 0), ("val", "munster", 1), ("test", "berlin", 2)):
        stem = f"{city}_000000_00000{number}"
        picture(tmp_path / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        value = 0 if split == "test" else 26
        save_mask(tmp_path / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", blocks([7, value, 4]))
        save_mask(tmp_path / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png", blocks([1, 2]))
    data = load(tmp_path)
    assert len(data.classes) == 19
    assert [len(data.train), len(data.val), len(data.test)] == [1, 1, 0]
    assert (masks_of(data)["aachen_000000_000000_leftImg8bit"] == blocks([0, 13, 255])).all()
    assert any("1 test image" in note for note in data.notes)
    next((tmp_path / "gtFine" / "val").rglob("*labelIds.png")).unlink()
    with pytest.raises(UserError, match=r"1 image without a mask: .*munster.*unpack gtFine_trainvaltest.zip"):
        load(tmp_path)


def test_ade20k(tmp_path: Path):
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        picture(tmp_path / "images" / split / f"{name}.jpg")
        save_mask(tmp_path / "annotations" / split / f"{name}.png", blocks([0, 1, 2]))
    assert len(load(tmp_path).classes) == 150
    rows = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.1\t1\t1\twall", "2\t0.1\t1\t1\tbuilding, edifice"]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    data = load(tmp_path)
    assert data.classes == ("wall", "building")
    assert (masks_of(data)["ADE_train_00000001"] == blocks([255, 0, 1])).all()


def test_coco_polygons_runs_and_crowds(tmp_path: Path):
    mask_tools = pytest.importorskip("pycocotools.mask")
    ring = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    ring[20:40, 30:60] = 1
    ring[25:35, 40:50] = 0
    packed = mask_tools.encode(np.asfortranarray(ring))
    crowd = np.zeros_like(ring)
    crowd[:, 50:] = 1
    counts = [len(run) for run in _runs(crowd.T.reshape(-1))]
    coco(
        tmp_path,
        [
            {"segmentation": [[2, 2, 12, 2, 12, 10, 2, 10], [20, 2, 24, 2, 24, 6, 20, 6]]},
            {"segmentation": {"size": [SIZE[1], SIZE[0]], "counts": packed["counts"].decode()}, "category_id": 2},
            {"segmentation": {"size": [SIZE[1], SIZE[0]], "counts": counts}, "iscrowd": 1},
            {"segmentation": [[0, 0, 5, 0, 5, 5]], "image_id": 2},
        ],
    )
    data = load(tmp_path, val_fraction=0.5)
    assert data.classes == ("background", "cat", "dog")
    wanted = np.zeros_like(ring)
    wanted[:, 50:] = IGNORE
    wanted[2:10, 2:12] = wanted[2:6, 20:24] = 1
    wanted[ring > 0] = 2
    assert (masks_of(data)["1"] == wanted).all()


def _runs(flat: np.ndarray) -> list[np.ndarray]:
    found = np.split(flat, np.flatnonzero(np.diff(flat)) + 1)
    return found if flat[0] == 0 else [flat[:0], *found]


def test_small_objects_stay_visible(tmp_path: Path):
    coco(
        tmp_path,
        [
            {"segmentation": [[4, 4, 8, 4, 8, 8, 4, 8]], "category_id": 2},
            {"segmentation": [[0, 0, 30, 0, 30, 30, 0, 30]]},
        ],
    )
    mask = masks_of(load(tmp_path, val_fraction=0.5))["1"]
    assert (mask[4:8, 4:8] == 2).all()
    assert mask[0, 0] == 1


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (None, "1 object without a segmentation: annotation 1"),
        ([[1, 1, 1e300, 1, 5, 5]], "points far outside the image"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "another size than the image"),
        ({"size": [SIZE[1], SIZE[0]], "counts": [5, 5]}, "another number of pixels"),
        ({"size": [SIZE[1], SIZE[0]], "counts": [-5, SIZE[0] * SIZE[1] + 5]}, "cannot be read"),
        ({"size": [SIZE[1], SIZE[0]], "counts": "\x7f" * 9}, "cannot be read"),
    ],
)
def test_hostile_segmentations_are_refused(tmp_path: Path, segmentation: object, said: str):
    coco(tmp_path, [{"segmentation": segmentation}])
    with pytest.raises(UserError, match=said):
        load(tmp_path, val_fraction=0.5)


def test_yolo_polygons(tmp_path: Path):
    for split, name in (("train", "a"), ("val", "b")):
        picture(tmp_path / "images" / split / f"{name}.jpg")
        label = tmp_path / "labels" / split / f"{name}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    data = load(tmp_path)
    assert data.classes == ("background", "cat", "dog")
    wanted = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    wanted[12:36, 16:32] = 2
    assert (masks_of(data)["a"] == wanted).all()
    (tmp_path / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"1 line without a polygon: .*a.txt, line 1.*task=detection"):
        load(tmp_path)


@pytest.mark.usefixtures("whole_data")
def test_embedded_scenes():
    data = load("scenes")
    assert (len(data.classes), data.classes[0]) == (11, "background")
    assert [len(data.train), len(data.val), len(data.test)] == [400, 80, 120]
    assert {label for record in data.train for label in record.labels} == set(range(11))
    assert data.fingerprint() == load("scenes").fingerprint()


def test_layouts_are_recognised(tmp_path: Path):
    assert layout_of(tmp_path) is None
    pairs(tmp_path / "inner", ["train/a", "val/b"])
    with pytest.raises(UserError, match=r"no masks in a known layout.*did you mean data=.*inner"):
        load(tmp_path)


def test_separate_validation_data_is_matched_by_names(tmp_path: Path):
    first = coco(tmp_path / "one", [{"segmentation": [[0, 0, 9, 0, 9, 9]]},
                                    {"segmentation": [[20, 20, 30, 20, 30, 30]], "category_id": 2}])  # fmt: skip
    second = coco(tmp_path / "two", [{"segmentation": [[0, 0, 9, 0, 9, 9]], "category_id": 2}])
    data = load(first, val=str(second))
    assert data.classes == ("background", "cat", "dog")
    assert data.val[0].labels == (0, 2)
    third = coco(tmp_path / "three", [{"segmentation": [[0, 0, 9, 0, 9, 9]]}], names=("fox",))
    with pytest.raises(UserError, match=r"1 class that data.path=.* lacks: fox"):
        load(first, val=str(third))


def test_renumbering_ignores_unknown_classes(tmp_path: Path):
    pairs(tmp_path, ["train/a", "val/b"])
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    found = read_masks(str(tmp_path), DataConfig()).with_classes(["sky", "car"])
    mask = found.splits["train"][0].mask
    assert mask is not None
    assert (mask.read(SIZE) == blocks([255, 1])).all()
