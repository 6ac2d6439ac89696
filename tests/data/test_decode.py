"""Decoding: every kind of image comes out right, everything else as BadImage."""

from __future__ import annotations

import io
import pickle
import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.image_files import bomb, broken_files, encoded, photo, save
from vpt.data.color import scale_grey
from vpt.data.dataset import Item, Record
from vpt.data.decode import BadImage, decode, examine, header_pixels, read

RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
RAMP8 = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = photo()
    path = save(tmp_path / "a.png", pixels)
    content = path.read_bytes()
    with path.open("rb") as file, Image.open(path) as image:
        sources = [path, str(path), content, io.BytesIO(content), file, image, pixels]
        for source in sources:
            np.testing.assert_array_equal(decode(source), pixels)


def test_the_array_is_new_and_writable() -> None:
    pixels = photo()
    for source in (pixels, Image.fromarray(pixels)):
        result = decode(source)
        result[:] = 0
        assert result.flags.c_contiguous
    np.testing.assert_array_equal(pixels, photo())


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_grey_arrays(shape: tuple[int, ...]) -> None:
    result = decode(np.full(shape, 9, np.uint8))
    assert result.shape == (4, 5, 3)
    assert result.flags.c_contiguous
    assert (result == 9).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(BadImage):
        decode(array)


@pytest.mark.parametrize("source", [None, 3, io.StringIO("text"), ["a.png"]])
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(BadImage):
        decode(source)  # type: ignore[arg-type]


def test_cmyk(tmp_path: Path) -> None:
    image = Image.fromarray(photo()).convert("CMYK")
    result = examine(save(tmp_path / "a.tif", image))
    assert result.mode == "CMYK"
    assert result.notes == ("CMYK",)
    np.testing.assert_array_equal(result.pixels, np.array(image.convert("RGB")))


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".tif", ">u2"), (".pgm", np.uint16)]
)
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str, dtype: object) -> None:
    if dtype == ">u2":
        image = Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes())
    else:
        image = Image.fromarray(RAMP)
    result = examine(save(tmp_path / f"a{suffix}", image))
    assert set(result.notes) <= {"16-bit", "32-bit integer"}
    assert result.notes
    np.testing.assert_array_equal(result.pixels, RAMP8)


def test_integer_and_float_tiffs(tmp_path: Path) -> None:
    whole = save(tmp_path / "i.tif", Image.fromarray(RAMP.astype(np.int32)))
    np.testing.assert_array_equal(decode(whole), RAMP8)
    share = save(tmp_path / "f.tif", Image.fromarray((RAMP / 65535).astype(np.float32)))
    np.testing.assert_allclose(decode(share).astype(int), RAMP8, atol=1)
    assert examine(share).notes == ("floating point",)
    nan = save(tmp_path / "n.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    with pytest.raises(BadImage, match="NaN"):
        decode(nan)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 100.0, 255.0]]), [[0, 100, 255]]),
        (np.array([[-1.0, 1.0]]), [[0, 255]]),
        (np.array([[-(2**31), 2**31 - 1]], np.int32), [[0, 255]]),
        (np.array([[-5, -5]], np.int32), [[128, 128]]),
        (np.array([[3e38, -3e38]], np.float32), [[255, 0]]),
    ],
)
def test_scales_of_grey(values: np.ndarray, expected: list[list[int]]) -> None:
    assert scale_grey(values).tolist() == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    layer = np.zeros((4, 6, 4), np.uint8)
    layer[:, 3:] = (0, 0, 0, 255)
    image = Image.fromarray(layer)
    if mode == "P":
        image = Image.fromarray(np.repeat([[0] * 3 + [1] * 3], 4, axis=0).astype(np.uint8))
        image.putpalette([10, 20, 30, 0, 0, 0])
        path = save(tmp_path / "a.png", image, transparency=0)
    else:
        path = save(tmp_path / "a.png", image.convert(mode))
    result = examine(path)
    assert "alpha" in result.notes
    assert (result.pixels[:, :3] == 255).all()
    assert (result.pixels[:, 3:] == 0).all()


def test_half_transparent_rgba_array() -> None:
    layer = np.zeros((2, 2, 4), np.uint8)
    layer[..., 3] = 128
    assert decode(layer)[0, 0].tolist() == [127, 127, 127]


def test_palette_without_transparency_and_one_bit(tmp_path: Path) -> None:
    image = Image.fromarray(photo()).quantize(8)
    result = examine(save(tmp_path / "p.png", image))
    assert result.notes == ("palette",)
    np.testing.assert_array_equal(result.pixels, np.array(image.convert("RGB")))
    dots = examine(save(tmp_path / "1.png", Image.fromarray(np.eye(8, dtype=bool))))
    assert dots.notes == ("1-bit",)
    np.testing.assert_array_equal(dots.pixels[..., 0], np.eye(8) * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # one white corner tells all eight apart
    # The inverse of each turn: 6 and 8 undo each other, the rest undo themselves.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if suffix == ".jpg" else {}
    path = save(tmp_path / f"a{suffix}", np.ascontiguousarray(stored), exif=exif, **options)
    np.testing.assert_allclose(decode(path).astype(int), upright, atol=12)


def test_broken_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photo(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish")
    assert decode(path).shape == (40, 60, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    path = tmp_path / f"a.{kind.lower()}"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    result = examine(path)
    assert "first of several frames" in result.notes
    np.testing.assert_allclose(result.pixels[0, 0].astype(int), [255, 0, 0], atol=3)


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "no_header", "bomb", "eps"])
def test_broken_files_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = broken_files(tmp_path)[kind]
    before = path.read_bytes()
    with pytest.raises(BadImage) as caught:
        decode(path)
    assert caught.value.name == str(path)
    assert str(path) in str(caught.value)
    assert caught.value.reason
    assert path.read_bytes() == before


def test_other_failures(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="no such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(BadImage, match="directory"):
        decode(tmp_path)
    with pytest.raises(BadImage, match="<bytes>: the file is empty"):
        decode(b"")
    with pytest.raises(BadImage, match="my picture"):
        decode(b"", name="my picture")


def test_pixel_limit_comes_before_decoding(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photo(40, 60))
    assert decode(path, max_pixels=2400).shape == (40, 60, 3)
    for source in (path, path.read_bytes(), photo(40, 60), Image.fromarray(photo(40, 60))):
        with pytest.raises(BadImage, match=r"60x40 pixels are more than data.max_pixels=2399"):
            decode(source, max_pixels=2399)
    with pytest.raises(BadImage, match="far more pixels than"):
        decode(bomb())


def test_our_limit_may_exceed_pillows_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "a.png", photo())
    assert decode(path).shape == (40, 60, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_global_state_survives_threads(tmp_path: Path) -> None:
    good = save(tmp_path / "a.png", photo())
    bad = broken_files(tmp_path / "bad")["truncated"]
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    seen = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(20):
            try:
                decode(bad if (number + turn) % 2 else good, max_pixels=10**6 + number)
            except BadImage:
                seen.append(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(seen) == 40
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


def test_memory_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", photo())

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImage, match="memory"):
        decode(path)


def test_bad_image_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadImage("a.png", "it is empty")))
    assert (error.name, error.reason) == ("a.png", "it is empty")


def test_records_of_a_data_set() -> None:
    dataset = [(Image.fromarray(photo()), 0)]
    record = Record("set/0", Item(dataset, 0), (0,))
    np.testing.assert_array_equal(read(record).pixels, photo())
    assert header_pixels(record) == 2400
    with pytest.raises(BadImage, match="set/1"):
        read(Record("set/1", Item(dataset, 1), (0,)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_damaged_bytes_never_raise_anything_else(kind: str) -> None:
    content = encoded(kind)
    rng = random.Random(kind)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            # Half of the flips hit the first bytes, where the structure is.
            reach = 64 if rng.random() < 0.5 else len(damaged)
            for _ in range(rng.choice((1, 1, 4))):
                damaged[rng.randrange(min(reach, len(damaged)))] ^= 1 << rng.randrange(8)
        try:
            pixels = decode(bytes(damaged), max_pixels=1_000_000)
        except BadImage:
            refused += 1
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
    assert refused > 20
