"""Images deeper than 8 bits: a ramp keeps its levels, in training, measuring, predicting, serving and reports alike."""

from __future__ import annotations

import csv
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

import vpt
from tests.helpers.image_files import save
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.config.data import Window
from vpt.data.data_module import resolved
from vpt.data.dataset import LabelledData, Record
from vpt.data.decode import BadImage, decode, examine
from vpt.data.deep_images import Deep, explained
from vpt.data.intensity_window import Depth, window_of
from vpt.data.validation import check
from vpt.inference.bank.bank import Bank
from vpt.inference.evaluate import evaluate
from vpt.models.artifact import read_artifact
from vpt.training.run import resume, train
from vpt.utils.errors import UserError

SIDE = 64  # 4,096 pixels: as many as 12 bits have values
RAMP8 = np.rint(np.arange(SIDE * SIDE) / (SIDE * SIDE - 1) * 255).astype(np.uint8).reshape(SIDE, SIDE)


def ramp(bits: int, dtype: Any = np.uint16) -> np.ndarray:
    """All grey values of so many bits, or 4,096 of them spread evenly, from black to white."""
    return np.rint(np.linspace(0, 2**bits - 1, SIDE * SIDE)).astype(dtype).reshape(SIDE, SIDE)


def write(path: Path, values: np.ndarray) -> Path:
    """A file as OpenCV writes it: PNG, TIFF or PNM of any depth, colours in the order of `values`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.ndim == 3:
        values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    assert cv2.imwrite(str(path), values)
    return path


def measured(*paths: Path) -> Window:
    """The window that is chosen for a data set of these images."""
    records = tuple(Record(path.name, path, (0,)) for path in paths)
    return resolved("auto", check(LabelledData(("a", "b"), False, records, ())))


# Formats


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_a_ramp_of_any_depth_keeps_256_levels(tmp_path: Path, bits: int, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", ramp(bits))
    window = measured(path)
    assert window == (0.0, 2.0**bits - 1)
    found = examine(path, window=window)
    expected = np.rint(ramp(bits).astype(np.float64) * 255 / (2**bits - 1)).astype(np.uint8)
    np.testing.assert_array_equal(found.pixels, np.repeat(expected[..., None], 3, axis=2))
    assert len(np.unique(found.pixels)) == 256
    assert found.notes == ("16-bit",)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "F"])
def test_every_deep_mode_of_pillow(tmp_path: Path, mode: str) -> None:
    types = {"I": np.int32, "I;16": np.uint16, "I;16B": ">u2", "F": np.float32}
    values = ramp(12).astype(types[mode])
    image = Image.frombytes(mode, (SIDE, SIDE), values.tobytes())
    assert image.mode == mode
    window = (0.0, 4095.0)
    for source in (image, save(tmp_path / "a.tif", image)):
        np.testing.assert_array_equal(decode(source, window=window)[..., 0], RAMP8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_12_bits_keep_their_levels(tmp_path: Path, suffix: str, alpha: bool) -> None:
    if alpha and suffix == ".ppm":
        pytest.skip("PPM has no alpha")
    colours = np.stack([ramp(12), ramp(12)[::-1], ramp(12).T], axis=2)
    expected = np.stack([RAMP8, RAMP8[::-1], RAMP8.T], axis=2)
    if alpha:
        cover = np.full((SIDE, SIDE, 1), 65535, np.uint16)
        cover[:8] = 0
        colours = np.concatenate([colours, cover], axis=2)
        expected[:8] = 255  # nothing there: white
    path = write(tmp_path / f"a{suffix}", colours)
    assert measured(path) == (0.0, 4095.0)
    found = examine(path, window=(0.0, 4095.0))
    np.testing.assert_array_equal(found.pixels, expected)
    assert ("alpha" in found.notes) == alpha


def test_grey_with_alpha_of_16_bits(tmp_path: Path) -> None:
    """OpenCV writes no such PNG, so the chunks are laid here: grey and alpha, big-endian, no filter."""
    values = np.stack([ramp(12), np.full((SIDE, SIDE), 65535, np.uint16)], axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 4, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "a.png").write_bytes(content)
    assert measured(tmp_path / "a.png") == (0.0, 4095.0)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", window=(0.0, 4095.0))[..., 0], RAMP8)


def test_signed_and_unsigned_32_bit_and_float_tiffs(tmp_path: Path) -> None:
    signed = write(tmp_path / "s.tif", (ramp(12).astype(np.int32) - 1024).astype(np.int16))
    assert measured(signed) == (-1024.0, 3071.0)
    np.testing.assert_array_equal(decode(signed, window=(-1024.0, 3071.0))[..., 0], RAMP8)
    large = write(tmp_path / "u.tif", np.array([[0, 2**31], [2**32 - 1, 0]], np.uint32))
    assert measured(large) == (0.0, 2.0**32 - 1)
    assert decode(large, window=(0.0, 2.0**32 - 1))[..., 0].tolist() == [[0, 128], [255, 0]]
    share = write(tmp_path / "f.tif", (ramp(12) / 4095).astype(np.float32))
    assert measured(share) == (0.0, 1.0)
    np.testing.assert_allclose(decode(share, window=(0.0, 1.0))[..., 0].astype(int), RAMP8, atol=1)
    hounsfield = write(tmp_path / "h.tif", np.array([[-1000.0, 500.0]], np.float32))
    assert measured(hounsfield) == (-1000.0, 500.0)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_tiffs_whose_zero_is_white_are_not_inverted(tmp_path: Path, dtype: Any) -> None:
    """Pillow inverts them at 8 bits alone."""
    path = tiff(tmp_path / "a.tif", ramp(12).astype(dtype), photometric=0)
    assert measured(path)
    np.testing.assert_array_equal(decode(path, window=(0.0, 4095.0))[..., 0], 255 - RAMP8)
    np.testing.assert_array_equal(decode(path, window="legacy"), 255 - decode(path, window="full"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiffs_of_either_byte_order(tmp_path: Path, order: str, channels: int) -> None:
    values = ramp(12) if channels == 1 else np.stack([ramp(12), ramp(12)[::-1], ramp(12).T], axis=2)
    path = tiff(tmp_path / "a.tif", values, order=order)
    expected = np.rint(values.astype(np.float64) * 255 / 4095).reshape(SIDE, SIDE, -1)
    np.testing.assert_array_equal(decode(path, window=(0.0, 4095.0)), np.broadcast_to(expected, (SIDE, SIDE, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_images_stand_upright(tmp_path: Path, orientation: int, colour: bool, suffix: str) -> None:
    upright = np.zeros((8, 16), np.uint16)
    upright[:4, :4] = 4000
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    values = np.repeat(stored[..., None], 3, axis=2) if colour else stored
    path, values = tmp_path / f"a{suffix}", np.ascontiguousarray(values)
    if suffix == ".tif":
        tiff(path, values, orientation=orientation)
    else:
        turn(write(path, values), orientation)
    found = decode(path, window=(0.0, 4000.0))
    np.testing.assert_array_equal(found[..., 0], (upright // 4000 * 255).astype(np.uint8))


def turn(path: Path, orientation: int) -> None:
    """Write the orientation into a PNG, whose pixels stay as they are."""
    content = path.read_bytes()
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    path.write_bytes(content[:33] + chunk + content[33:])


def tiff(
    path: Path, values: np.ndarray, photometric: int | None = None, orientation: int = 1, order: str = "<"
) -> Path:
    """A plain TIFF of 16-bit integers or 32-bit floats, of either byte order."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    depth = values.dtype.itemsize * 8
    photometric = (1 if samples == 1 else 2) if photometric is None else photometric
    tags = {256: width, 257: height, 259: 1, 262: photometric, 273: 8, 274: orientation, 277: samples, 278: height}
    tags |= {279: len(content), 339: 3 if values.dtype.kind == "f" else 1}
    bits = 8 + len(content)  # where the bits of several samples lie
    directory = bits + 2 * samples
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    one = struct.pack(f"{order}HHIHH", 258, 3, 1, depth, 0)
    entries.append(one if samples == 1 else struct.pack(f"{order}HHII", 258, 3, samples, bits))
    entries.sort(key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    tail = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + struct.pack(f"{order}I", 0)
    path.write_bytes(head + content + struct.pack(f"{order}{samples}H", *[depth] * samples) + tail)
    return path


def test_a_transparent_grey_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(ramp(12))
    path = save(tmp_path / "a.png", image, transparency=0)
    assert decode(path, window=(0.0, 4095.0))[0, 0].tolist() == [255, 255, 255]
    assert decode(path, window=(0.0, 4095.0))[-1, -1].tolist() == [255, 255, 255]
    assert decode(path, window=(0.0, 4095.0))[0, 60, 0] == RAMP8[0, 60]


def test_8_bit_images_are_as_they_were(tmp_path: Path) -> None:
    grey = save(tmp_path / "a.png", RAMP8)
    for window in ("auto", "full", "legacy", (0.0, 4095.0), (100.0, 101.0)):
        np.testing.assert_array_equal(decode(grey, window=window)[..., 0], RAMP8)  # type: ignore[arg-type]
    assert measured(grey) == "full"


def test_what_lies_outside_is_cut_off_and_nan_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.array([[0, 100, 150, 200, 65535]], np.uint16))
    assert decode(path, window=(100.0, 200.0))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    nan = write(tmp_path / "n.tif", np.array([[0, np.nan]], np.float32))
    for window in ("full", (0.0, 1.0)):
        with pytest.raises(BadImage, match="NaN"):
            decode(nan, window=window)  # type: ignore[arg-type]


def test_windows_for_all_images_of_a_set() -> None:
    assert window_of([Depth(0, 4095, True), Depth(5, 60, True)]) == (0.0, 4095.0)
    assert window_of([Depth(0, 4096, True)]) == (0.0, 16383.0)
    assert window_of([Depth(0, 70000, True)]) == (0, 70000)
    assert window_of([Depth(0, 255.0, False), Depth(0, 1, False)]) == (0.0, 255.0)
    assert window_of([Depth(7, 7, False)]) == (0.0, 255.0)
    assert window_of([Depth(-7, -7, True)]) == (-7, -6)


def test_dark_images_that_differ_are_not_the_same(tmp_path: Path) -> None:
    """Divided by 257 both would be black."""
    first = write(tmp_path / "a.png", np.full((8, 8), 3, np.uint16))
    second = write(tmp_path / "b.png", np.full((8, 8), 9, np.uint16))
    same = write(tmp_path / "c.tif", np.full((8, 8), 3, np.uint16))
    train, test = (Record("a", first, (0,)),), (Record("b", second, (0,)), Record("c", same, (0,)))
    report = check(LabelledData(("x", "y"), False, train, (), test))
    assert [leak.other_name for leak in report.leaks] == ["c"]


def test_what_is_told(tmp_path: Path) -> None:
    deep = [Deep("train", "a.png", Depth(0, 3000, True)), Deep("test", "b.png", Depth(0, 5000, True))]
    told = explained((0.0, 4095.0), deep)
    assert told[0] == "2 images deeper than 8 bits, values from 0 to 5000: scaled to 8 bits with data.window=[0, 4095]"
    assert told[1].startswith("warning: 1 (b.png) of them have values outside data.window=[0, 4095], from 0 to 5000")
    told = explained("full", deep[:1])
    assert "at most 12 grey levels of 256; for 12-bit images, for example, set data.window=[0, 4095]" in told[1]
    assert "as in versions without data.window" in explained("legacy", deep)[0]
    assert explained((0.0, 1.0), []) == []


@pytest.mark.parametrize("words", ["[4095, 0]", "[0, .inf]", "[0]", "narrow", "[.nan, 1]"])
def test_windows_that_are_none_are_refused(words: str) -> None:
    with pytest.raises(UserError, match=r"data\.window"):
        load_config(overrides=[f"data.window={words}"])


# Runs


@pytest.fixture(scope="module")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12-bit images in 16-bit PNGs, which differ by 40 of 4,095 greys: nothing of it is left at 13."""
    root = tmp_path_factory.mktemp("xrays")
    chance = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for name, level in (("dark", 1500), ("light", 2300)):
            for number in range(count):
                pixels = chance.integers(level - 60, level + 60, (32, 32))
                pixels[0, 0], pixels[0, 1] = 0, 4000
                write(root / split / name / f"{number}.png", pixels.astype(np.uint16))
    return root


WORDS = [*NET, "train.epochs=2", "train.batch_size=8", "prompt.tokens=2", "data.augment=none", "data.workers=0"]


@pytest.fixture(scope="module")
def run(xrays: Path, small_net: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    config = load_config(overrides=[f"data={xrays}", f"out={out}", "name=xrays", *WORDS])
    return train(config, QUIET).folder


def test_the_run_and_its_artifact_hold_the_window(run: Path) -> None:
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["window"] == [0.0, 4095.0]
    assert read_artifact(run).config.data.window == (0.0, 4095.0)


def test_training_measuring_and_predicting_see_the_same_pixels(
    run: Path, xrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = xrays / "test" / "dark" / "0.png"
    predictor = vpt.load(run, device="cpu")
    classes = list(predictor.classes)
    [found] = predictor.predict(file)
    # The same image, scaled by hand.
    values = np.asarray(Image.open(file)).astype(np.float64)
    [by_hand] = predictor.predict(np.repeat(np.rint(values * 255 / 4095).astype(np.uint8)[..., None], 3, axis=2))
    assert found.scores == pytest.approx(by_hand.scores)
    # What training wrote down of its test images.
    with (run / "predictions-test.csv").open() as opened:
        row = next(row for row in csv.DictReader(opened) if row["image"] == "test/dark/0.png")
    told = dict(zip(found.labels, found.scores, strict=True))
    assert float(row["score"]) == pytest.approx(told[row["predicted"]], abs=1e-4)
    assert set(told) == set(classes)
    # A bank, and a bank's attention.
    bank = Bank(device="cpu")
    bank.add("xrays", run)
    assert bank.read_options("xrays") == ((0.0, 4095.0), None)
    [banked] = bank.predict([file], ["xrays"])
    assert banked.scores == pytest.approx(found.scores, abs=1e-5)  # type: ignore[union-attr]
    # Measured again, from the artifact alone.
    again = evaluate(run, "test", console=QUIET)
    assert again["accuracy"] == json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    assert main(["predict", str(run), str(file), "--format", "json"]) == 0
    assert "1 image deeper than 8 bits, values from 0 to 4000: scaled to 8 bits with data.window=[0, 4095]" in (
        capsys.readouterr().err
    )


def test_an_export_says_its_window(run: Path, tmp_path: Path) -> None:
    import onnx

    assert main(["export", str(run), "--output", str(tmp_path / "x.onnx")]) == 0
    told = {prop.key: prop.value for prop in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert json.loads(told["window"]) == [0.0, 4095.0]


def test_a_stated_window_is_kept_when_measuring(run: Path, xrays: Path) -> None:
    usual = evaluate(run, "test", console=QUIET)["loss"]
    assert evaluate(run, "test", ["data.window=auto"], QUIET)["loss"] == usual
    assert evaluate(run, "test", ["data.window=full"], QUIET)["loss"] != usual


def test_cached_images_are_the_same(xrays: Path, run: Path, tmp_path: Path) -> None:
    words = [f"data={xrays}", f"out={tmp_path}", *WORDS, "data.cache=true"]
    result = train(load_config(overrides=words), QUIET)
    usual = json.loads((run / "metrics.json").read_text())
    assert result.metrics["test"]["loss"] == usual["test"]["loss"]


def test_few_shots_choose_by_validation_images_too(xrays: Path, tmp_path: Path, small_net: None) -> None:
    """And what a test image has beyond that is told."""
    import shutil

    root = tmp_path / "few"
    shutil.copytree(xrays, root)
    for split in ("train", "val"):
        for file in (root / split).rglob("*.png"):
            write(file, np.minimum(np.asarray(Image.open(file)), 1000))
    words = [f"data={root}", *WORDS, f"out={tmp_path}", "data.shots=1"]
    result = train(load_config(overrides=words), QUIET)
    assert read_artifact(result.folder).config.data.window == (0.0, 1023.0)


def test_the_server_reads_an_upload_by_the_window_of_each_task(run: Path, xrays: Path, tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    from tests.helpers.serving import ready
    from vpt.inference.server.app import create_app
    from vpt.inference.server.settings import ServeSettings

    words = [f"data={xrays}", f"out={tmp_path}", "name=whole", *WORDS, "data.window=full"]
    runs = {"windowed": run, "whole": train(load_config(overrides=words), QUIET).folder}
    tasks = tmp_path / "tasks"
    for name, folder in runs.items():
        (tasks / name).mkdir(parents=True)
        (tasks / name / "artifact.safetensors").write_bytes((folder / "artifact.safetensors").read_bytes())
    file = xrays / "test" / "light" / "1.png"
    with TestClient(create_app(ServeSettings(folder=tasks, device="cpu"))) as client:
        ready(client)
        answer = client.post("/v1/predict", data={"tasks": list(runs)}, files={"images": ("1.png", file.read_bytes())})
    told = {row["task"]: row["scores"] for row in answer.json()["results"]}
    for name, folder in runs.items():
        [found] = vpt.load(folder, device="cpu").predict(file)
        assert [told[name][label] for label in found.labels] == pytest.approx(found.scores, abs=1e-5)


def test_vpt_data_check_tells_the_window(xrays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(xrays)]) == 0
    out = capsys.readouterr().out
    assert "32 images deeper than 8 bits, values from 0 to 4000: scaled to 8 bits with data.window=[0, 4095]" in out


# Earlier versions


def test_settings_without_a_window_scale_as_they_did(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", ramp(12))
    expected = np.rint(ramp(12) / 257).astype(np.uint8)
    for window in ("auto", "legacy", "full"):
        np.testing.assert_array_equal(decode(path, window=window)[..., 0], expected)  # type: ignore[arg-type]


def test_a_run_without_a_window_goes_on_as_it_began(xrays: Path, tmp_path: Path, small_net: None) -> None:
    """Its folder is that of a version that had none: it must not choose one in the middle of training."""
    from vpt.training.trainer import Trainer

    class Stop(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Stop

    config = load_config(overrides=[f"data={xrays}", f"out={tmp_path}", "name=old", *WORDS, "data.window=legacy"])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Trainer, "end_epoch", stop)
        train(config, QUIET)
    folder = tmp_path / "old"
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    del tree["data"]["window"]
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    result = resume(folder, console=QUIET)
    assert read_artifact(result.folder).config.data.window == "legacy"
    whole = train(config.model_copy(update={"name": "whole"}), QUIET)
    assert result.metrics["test"]["loss"] == whole.metrics["test"]["loss"]
