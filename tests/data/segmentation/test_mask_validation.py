"""Masks that cannot be used are named in one sentence, before anything else happens."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.boxes import SIZE, picture
from tests.helpers.mask_folders import blocks, coco, load, pairs, save_mask
from vpt.data.decode import BadImage
from vpt.data.segmentation.shapes import Shape, Shapes
from vpt.data.validation import apply, check
from vpt.utils.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs(tmp_path, ["train/a", "train/b", "train/c", "val/d"])
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    return tmp_path


def refused(folder: Path, said: str) -> None:
    """The data set is refused in a sentence with a remedy; with on_bad=skip the image is left out by the check."""
    with pytest.raises(UserError, match=said) as caught:
        load(folder)
    assert "data.on_bad=skip" in str(caught.value)
    assert "\n" not in str(caught.value)
    data = load(folder, on_bad="skip")
    left = apply(data, check(data), "skip")
    assert sorted(Path(record.name).stem for record in left.train) == ["b", "c"]


def test_another_size(folder: Path):
    save_mask(folder / "masks" / "train" / "a.png", blocks([0, 1], (32, 48)))
    refused(folder, r"1 image with a mask.*images/train/a.jpg \(its mask is for 32x48 pixels and it has 64x48\)")


def test_unknown_values(folder: Path):
    save_mask(folder / "masks" / "train" / "a.png", blocks([0, 1, 7, 9]))
    refused(folder, r"images/train/a.jpg \(1536 pixels of its mask are 7, 9, which is no class\)")


def test_all_ignored(folder: Path):
    save_mask(folder / "masks" / "train" / "a.png", blocks([255]))
    refused(folder, r"images/train/a.jpg \(all of its mask is ignored\)")


def test_no_mask(folder: Path):
    (folder / "masks" / "train" / "a.png").rename(folder / "masks" / "train" / "other.png")
    refused(folder, r"1 image without a mask: images/train/a.jpg; add masks of the same names")
    assert any("1 mask without an image" in note and "other.png" in note for note in load(folder, on_bad="skip").notes)


def test_two_masks(folder: Path):
    save_mask(folder / "masks" / "train" / "a_mask.png", blocks([0, 1]))
    with pytest.raises(UserError, match=r"1 image with more than one mask in .*a.jpg \(a.png, a_mask.png\)"):
        load(folder)


def test_a_lossy_mask_is_none(folder: Path):
    (folder / "masks" / "train" / "a.png").unlink()
    Image.fromarray(blocks([0, 1])).save(folder / "masks" / "train" / "a.jpg")
    refused(folder, "1 image without a mask")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_damaged(folder: Path, content: bytes):
    (folder / "masks" / "train" / "a.png").write_bytes(content)
    refused(folder, r"a.jpg \(.*masks/train/a.png: the mask cannot be read: it is damaged")


def test_cut_off(folder: Path):
    file = folder / "masks" / "train" / "a.png"
    noise = np.random.default_rng(0).integers(0, 2, (SIZE[1], SIZE[0]), dtype=np.uint8)
    save_mask(file, noise)
    file.write_bytes(file.read_bytes()[:-80])
    refused(folder, "the mask cannot be read: it is damaged")


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_is_not_decoded(folder: Path):
    (folder / "masks" / "train" / "a.png").write_bytes(_png(100_000, 100_000, zlib.compress(b"\0" * 1000)))
    refused(folder, "the mask (has more than data.max_pixels|cannot be read)")


def test_many_chunks_are_not_read(folder: Path):
    file = folder / "masks" / "train" / "a.png"
    content = file.read_bytes()
    chunk = b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    file.write_bytes(content[:33] + chunk * 5000 + content[33:])
    refused(folder, "PNG file of more than .* chunks")


def test_float_masks(folder: Path):
    file = folder / "masks" / "train" / "a.tif"
    (folder / "masks" / "train" / "a.png").unlink()
    Image.fromarray(np.full((SIZE[1], SIZE[0]), 0.5, np.float32)).save(file)
    refused(folder, "values of float32 that are no class indices")


def test_a_rotated_photo(folder: Path):
    picture(folder / "images" / "train" / "a.jpg", orientation=6)
    refused(folder, r"64x48 pixels and it has 48x64 after the rotation that its EXIF data ask for")


def test_the_stated_size_of_coco(tmp_path: Path):
    file = coco(tmp_path, [{"segmentation": [[0, 0, 9, 0, 9, 9]]}], images=3)
    picture(tmp_path / "train" / "1.jpg", size=(20, 20))
    with pytest.raises(UserError, match=r"its mask is for 64x48 pixels and it has 20x20"):
        load(file, val_fraction=0.5)


def test_an_image_in_two_splits(folder: Path):
    (folder / "images" / "val" / "a.jpg").symlink_to(folder / "images" / "train" / "a.jpg")
    save_mask(folder / "masks" / "val" / "a.png", blocks([0, 1]))
    with pytest.raises(UserError, match=r"images/train/a.jpg is in train and in val; keep each image in one"):
        load(folder)


def test_many_faults_make_one_short_sentence(tmp_path: Path):
    pairs(tmp_path, [f"train/{number}" for number in range(30)], [3])
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(UserError, match=r"30 images with a mask that cannot be used.*and 25 more") as caught:
        load(tmp_path)
    assert len(str(caught.value)) < 1500


def test_a_changed_mask_changes_the_fingerprint(folder: Path):
    before = load(folder).fingerprint()
    save_mask(folder / "masks" / "train" / "a.png", blocks([1, 0]))
    assert load(folder).fingerprint() != before


def test_absent_classes_are_named(folder: Path):
    (folder / "classes.txt").write_text("sky\nroad\ncar\n")
    notes = load(folder).notes
    assert "1 class in no training mask: car" in notes
    assert "1 class in no validation mask: car" in notes


def test_thousands_of_large_objects_are_refused_before_they_are_drawn(tmp_path: Path):
    whole = [0, 0, *SIZE[:1], 0, *SIZE, 0, SIZE[1]]
    shape = Shape(1, polygons=(tuple(map(float, whole)),) * 100)
    with pytest.raises(BadImage, match="its 20000 objects cover the image far too often"):
        Shapes(tmp_path / "a.json", (shape,) * 20_000, 0).read(SIZE)
