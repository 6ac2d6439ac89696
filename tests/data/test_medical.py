"""DICOM, NIfTI and .npy files as pydicom, nibabel and NumPy write them; damaged and hostile ones get one sentence."""

from __future__ import annotations

import gzip
import logging
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from tests.helpers.image_files import encoded, photo
from tests.helpers.medical_files import dataset, dicom, nifti, npy, write_dicom
from vpt.config import DataConfig, load_config
from vpt.data.data_module import resolved
from vpt.data.dataset import LabelledData, Record
from vpt.data.datasets.registry import load_data
from vpt.data.decode import BadImage, decode, examine, header_pixels, read_header
from vpt.data.medical import dicom as reader
from vpt.data.medical.read import slices_of
from vpt.data.validation import check

RAMP = np.linspace(0, 4095, 64 * 48).astype(np.uint16).reshape(48, 64)
HALF = RAMP // 16


def grey(path: Path, window: object = (0.0, 4095.0)) -> np.ndarray:
    found = decode(path, window=window)  # type: ignore[arg-type]
    assert found.dtype == np.uint8
    assert (found == found[..., :1]).all()  # one channel, repeated
    return found[..., 0]


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) * 255 / (high - low), 0, 255)).astype(np.uint8)


# DICOM


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, "1.2.840.10008.1.2.1", ExplicitVRBigEndian])
def test_12_bits_in_every_plain_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    values = RAMP.astype(">u2") if syntax == ExplicitVRBigEndian else RAMP
    path = dicom(tmp_path / "a.dcm", values, syntax, bits=12)
    np.testing.assert_array_equal(grey(path), expected(RAMP, 0, 4095))
    assert header_pixels(Record("a", path, (0,))) == RAMP.size


def test_run_length_encoding(tmp_path: Path) -> None:
    data = dataset(RAMP, bits=12)
    write_dicom(tmp_path / "plain.dcm", data)
    data = dcmread(tmp_path / "plain.dcm")
    data.compress(RLELossless)
    np.testing.assert_array_equal(grey(write_dicom(tmp_path / "a.dcm", data)), expected(RAMP, 0, 4095))


def test_jpeg(tmp_path: Path) -> None:
    data = dataset(photo(48, 64), photometric="YBR_FULL_422")
    data.PixelData = encapsulate([encoded("JPEG", photo(48, 64))])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    found = decode(write_dicom(tmp_path / "a.dcm", data, JPEGBaseline8Bit)).astype(int)
    assert np.abs(found - photo(48, 64).astype(int)).mean() < 8


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, 0), (0.5, -10.25)])
@pytest.mark.parametrize("signed", [False, True])
def test_rescale(tmp_path: Path, slope: float, intercept: float, signed: bool) -> None:
    values = RAMP.astype(np.int16) - 2000 if signed else RAMP
    path = dicom(tmp_path / "a.dcm", values, bits=16, RescaleSlope=slope, RescaleIntercept=intercept)
    units = values.astype(np.float64) * slope + intercept
    np.testing.assert_array_equal(grey(path, (-1000, 400)), expected(units, -1000, 400))
    depth = examine(path, measure=True).depth
    assert depth is not None
    assert depth[:3] == (units.min(), units.max(), slope != 0.5)


def test_padding_does_not_count(tmp_path: Path) -> None:
    values = RAMP.astype(np.int16) % 1000
    values[0] = -2000
    path = dicom(tmp_path / "a.dcm", values, PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=-5)
    depth = examine(path, measure=True).depth
    assert depth is not None
    assert (depth.low, depth.high) == (-5, values.max() - 5)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("several", [False, True])
def test_the_window_of_the_header_is_that_of_pydicom(tmp_path: Path, function: str | None, several: bool) -> None:
    more = {} if function is None else {"VOILUTFunction": function}
    centre, width = ([700, 40], [900, 80]) if several else (700, 900)
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12, WindowCenter=centre, WindowWidth=width, **more)
    data = dcmread(path)
    shown = apply_voi_lut(data.pixel_array, data) / 4095 * 255
    assert np.abs(grey(path, "header") - shown).max() <= 0.51
    assert (grey(path, "header") == grey(path, "auto")).all()
    assert measured(path) == "header"


def test_a_lookup_table_of_the_header(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], list(range(255, -1, -1)) * 16
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12, VOILUTSequence=Sequence([table]))
    data = dcmread(path)
    np.testing.assert_array_equal(grey(path, "header"), apply_voi_lut(data.pixel_array, data))


def test_white_is_zero(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12, photometric="MONOCHROME1")
    np.testing.assert_array_equal(grey(path), 255 - expected(RAMP, 0, 4095))
    eight = dicom(tmp_path / "b.dcm", HALF.astype(np.uint8), photometric="MONOCHROME1")
    np.testing.assert_array_equal(grey(eight), 255 - HALF)
    assert not examine(eight).deep


def test_colours(tmp_path: Path) -> None:
    pixels = photo(48, 64)
    np.testing.assert_array_equal(decode(dicom(tmp_path / "a.dcm", pixels, photometric="RGB")), pixels)
    from pydicom.pixels import convert_color_space

    ybr = convert_color_space(pixels, "RGB", "YBR_FULL")
    found = decode(dicom(tmp_path / "b.dcm", ybr, photometric="YBR_FULL"))
    assert np.abs(found.astype(int) - pixels).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(tmp_path: Path, bits: int) -> None:
    chance = np.random.default_rng(0)
    tables = chance.integers(0, 2**bits, (3, 256)).astype(np.uint8 if bits == 8 else np.uint16)
    more: dict[str, object] = {}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        more[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        more[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    path = dicom(tmp_path / "a.dcm", HALF.astype(np.uint8), photometric="PALETTE COLOR", **more)
    wanted = np.rint(tables[:, HALF].transpose(1, 2, 0) / (2**bits - 1) * 255)
    np.testing.assert_array_equal(decode(path), wanted)


def test_frames(tmp_path: Path) -> None:
    frames = np.stack([np.full_like(RAMP, 7), RAMP, RAMP[::-1], RAMP[:, ::-1], RAMP.T.reshape(48, 64)])
    path = dicom(tmp_path / "a.dcm", frames, bits=12)
    np.testing.assert_array_equal(grey(path), expected(frames[2], 0, 4095))
    for number in range(1, 6):
        found = grey(tmp_path / f"a.dcm#{number}")
        np.testing.assert_array_equal(found, expected(frames[number - 1], 0, 4095))
    with pytest.raises(BadImage, match="it has 5 slices, no slice 6"):
        decode(tmp_path / "a.dcm#6")
    assert [one.name for one in slices_of(path, 10**6)] == ["a.dcm#2", "a.dcm#3", "a.dcm#4", "a.dcm#5"]


def test_frames_with_windows_of_their_own(tmp_path: Path) -> None:
    """As enhanced CT and MR have them."""

    def group(**elements: object) -> Dataset:
        values, window, item = Dataset(), Dataset(), Dataset()
        for name, value in elements.items():
            setattr(values if name.startswith("Rescale") else window, name, value)
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = Sequence([values]), Sequence([window])
        return item

    dicom(
        tmp_path / "a.dcm",
        np.stack([RAMP, RAMP]),
        bits=12,
        SharedFunctionalGroupsSequence=Sequence([group(RescaleSlope=2, RescaleIntercept=-100)]),
        PerFrameFunctionalGroupsSequence=Sequence(
            [group(WindowCenter=c, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT") for c in (1000, 3000)]
        ),
    )
    for number, centre in ((1, 1000), (2, 3000)):
        wanted = expected(RAMP.astype(int) * 2 - 100, centre - 500, centre + 500)
        assert np.abs(grey(tmp_path / f"a.dcm#{number}", "header").astype(int) - wanted).max() <= 1  # rounding


def test_names_as_archives_write_them(tmp_path: Path) -> None:
    for at, name in enumerate(("IM000001", "1.2.840.113.5", "B.DCM")):
        dicom(tmp_path / "ct" / "ill" / name, RAMP + np.uint16(at), bits=12)
        dicom(tmp_path / "ct" / "well" / name, RAMP[::-1] + np.uint16(at), bits=12)
    (tmp_path / "ct" / "ill" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "ct" / "ill" / "README").write_text("no image")
    data = load_data(DataConfig(path=str(tmp_path / "ct")))
    assert sorted(one.name for one in (*data.train, *data.val) if one.name.startswith("ill")) == [
        "ill/1.2.840.113.5",
        "ill/B.DCM",
        "ill/IM000001",
    ]
    assert not check(data).bad


def measured(*paths: Path) -> object:
    records = tuple(Record(path.name, path, (0,)) for path in paths)
    return resolved("auto", check(LabelledData(("a", "b"), False, records, ())))


def test_without_a_window_in_every_header_the_values_decide(tmp_path: Path) -> None:
    one = dicom(tmp_path / "a.dcm", RAMP, bits=12, WindowCenter=700, WindowWidth=900)
    other = dicom(tmp_path / "b.dcm", RAMP, bits=12)
    assert measured(one, other) == (0.0, 4095.0)
    assert measured(one) == "header"
    assert load_config(overrides=["data.window=header"]).data.window == "header"


# NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SRA", "ALI"])
def test_axial_slices_of_any_orientation(tmp_path: Path, suffix: str, axes: str) -> None:
    import nibabel

    chance = np.random.default_rng(0)
    upright = nibabel.Nifti1Image(chance.integers(-900, 900, (7, 6, 5)).astype(np.int16), np.eye(4))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    path = tmp_path / f"a{suffix}"
    nibabel.save(upright.as_reoriented(turn), path)
    values = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    for number in range(1, 6):
        wanted = values[::-1, ::-1, number - 1].T  # right at the left, front at the top
        np.testing.assert_array_equal(grey(tmp_path / f"a{suffix}#{number}", (-900, 900)), expected(wanted, -900, 900))
    assert (grey(path, (-900, 900)) == grey(tmp_path / f"a{suffix}#3", (-900, 900))).all()
    assert header_pixels(Record("a", path, (0,))) == 42


def test_rescaled_volumes_and_empty_slices(tmp_path: Path) -> None:
    values = np.zeros((6, 5, 4), np.int16)
    values[..., 1:3] = np.arange(60).reshape(6, 5, 2)
    path = nifti(tmp_path / "a.nii.gz", values)
    assert [one.name for one in slices_of(path, 10**6)] == ["a.nii.gz#2", "a.nii.gz#3"]
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<2f", content, 112, 2.0, -10.0)  # slope and intercept, which nibabel chooses itself
    path.write_bytes(gzip.compress(bytes(content)))
    wanted = values[::-1, ::-1, 1].T * 2.0 - 10
    np.testing.assert_array_equal(grey(tmp_path / "a.nii.gz#2", (-10, 110)), expected(wanted, -10, 110))


def test_slices_of_a_file_stay_in_one_split(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for name in ("ill", "well"):
        for number in range(6):
            nifti(tmp_path / "mr" / name / f"{number}.nii.gz", chance.integers(0, 900, (6, 5, 4)).astype(np.int16))
    plain = load_data(DataConfig(path=str(tmp_path / "mr"), val_fraction=0.3))
    assert len(plain.train) + len(plain.val) == 12
    data = load_data(DataConfig(path=str(tmp_path / "mr"), val_fraction=0.3, slices="all"))
    files = [{record.name.partition("#")[0] for record in split} for split in (data.train, data.val)]
    assert not files[0] & files[1]
    assert len(data.train) + len(data.val) == 48
    report = check(data)
    assert not report.bad
    assert not report.leaks
    assert check(data).remembered == 48
    table = tmp_path / "slices.csv"
    table.write_text(
        "path,label\nmr/ill/0.nii.gz#2,ill\nmr/ill/0.nii.gz#3,ill\nmr/well/0.nii.gz#1,well\nmr/well/1.nii.gz,well\n"
    )
    listed = load_data(DataConfig(path=str(table)))
    assert len(listed.train) + len(listed.val) == 4
    assert not check(listed).bad


# .npy


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "<i2", ">u2", "i8"])
def test_arrays(tmp_path: Path, dtype: str) -> None:
    values = (RAMP // 8).astype(dtype)
    for shape in ((48, 64), (48, 64, 1)):
        path = npy(tmp_path / "a.npy", values.reshape(shape))
        np.testing.assert_array_equal(grey(path, (0, 500)), expected(values, 0, 500))
    colours = np.stack([values, values[::-1], values[:, ::-1]], axis=-1)
    np.testing.assert_array_equal(decode(npy(tmp_path / "b.npy", colours), window=(0, 500)), expected(colours, 0, 500))


def test_arrays_of_8_bits(tmp_path: Path) -> None:
    pixels = photo(20, 30)
    np.testing.assert_array_equal(decode(npy(tmp_path / "a.npy", pixels), window=(0, 4095)), pixels)
    np.testing.assert_array_equal(decode(npy(tmp_path / "b.npy", pixels[..., 0] > 99))[..., 0] > 0, pixels[..., 0] > 99)


# Damage and attacks


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4), np.nan), "NaN or infinite"),
        (np.full((4, 4), 1e300), "above 1e"),
        (np.zeros((4, 4, 7)), "it has 7 channels; set data.channels=7"),
        (np.zeros((4, 4, 65)), "one image is"),
        (np.zeros(4), "one image is"),
        (np.zeros((0, 4)), "empty"),
        (np.zeros((4, 4), complex), "not of booleans"),
        (np.array([[{}, {}]]), "not of booleans"),
        (np.zeros((4, 4), [("a", "u1")]), "not of booleans"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(npy(tmp_path / "a.npy", array))


def test_sizes_are_bounded_before_memory_is_allocated(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12)
    data = dcmread(path)
    for elements, reason in (
        ({"Rows": 65535, "Columns": 65535}, "more than data.max_pixels"),
        ({"Rows": 60}, "truncated"),
        ({"NumberOfFrames": 9}, "truncated"),
        ({"NumberOfFrames": 2_000_000_000}, "at most 10000"),
        ({"Columns": 0}, "empty"),
    ):
        data = dcmread(path)
        for name, value in elements.items():
            setattr(data, name, value)
        with pytest.raises(BadImage, match=reason):
            decode(write_dicom(tmp_path / "b.dcm", data))
    volume = bytearray(nifti(tmp_path / "a.nii", np.zeros((4, 5, 6), np.int16)).read_bytes())
    for sides, reason in (((30_000, 30_000, 2), "2 GiB"), ((4, 5, -6), "empty"), ((20_000, 20_000, 1), "max_pixels")):
        struct.pack_into("<4h", volume, 40, 3, *sides)
        (tmp_path / "b.nii").write_bytes(volume)
        with pytest.raises(BadImage, match=reason):
            decode(tmp_path / "b.nii")
    array = bytearray(npy(tmp_path / "a.npy", np.zeros((100, 100))).read_bytes())
    (tmp_path / "b.npy").write_bytes(array.replace(b"(100, 100)", b"(9999,999)"))
    with pytest.raises(BadImage, match="truncated"):
        decode(tmp_path / "b.npy")


def test_deflated_files_are_refused_unopened(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", RAMP, DeflatedExplicitVRLittleEndian, bits=12)
    with pytest.raises(BadImage, match="deflated"):
        decode(path)
    bomb = zlib.compress(b"\0" * 50_000_000)
    path.write_bytes(path.read_bytes()[:600] + bomb)
    with pytest.raises(BadImage, match="deflated"):
        decode(path)


def test_long_and_deep_headers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_ITEMS", 5000)
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12)
    content = path.read_bytes()
    pixels = content.index(b"\xe0\x7f\x10\x00O")

    def with_sequence(start: bytes, items: bytes) -> Path:
        path.write_bytes(content[:pixels] + start + items + content[pixels:])
        return path

    for tag in (b"\x28\x00\x10\x30SQ\0\0", b"\x09\x00\x10\x10SQ\0\0"):  # a look-up table, and a private one
        endless = tag + b"\xff\xff\xff\xff"
        nested = (b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + endless) * 4000
        with pytest.raises(BadImage, match="damaged DICOM file"):
            decode(with_sequence(endless, nested))
        empty = b"\xfe\xff\x00\xe0\0\0\0\0" * 5001
        with pytest.raises(BadImage, match=r"5000 items|damaged"):
            decode(with_sequence(endless, empty))
    with pytest.raises(BadImage, match="5000 items"):
        decode(with_sequence(b"\x28\x00\x10\x30SQ\0\0" + struct.pack("<L", len(empty)), empty))
    with pytest.raises(BadImage, match="more than 8 MB"):
        decode(with_sequence(b"\x28\x00\x10\x30SQ\0\0" + struct.pack("<L", 9_000_000), b"\0" * 9_000_000))


def test_a_compressed_frame_that_is_larger_than_the_header_says(tmp_path: Path) -> None:
    for kind, syntax in (("JPEG", JPEGBaseline8Bit), ("JPEG2000", "1.2.840.10008.1.2.4.90")):
        data = dataset(photo(8, 8), photometric="RGB")
        data.PixelData = encapsulate([encoded(kind, photo(480, 640))])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        with pytest.raises(BadImage, match="another size"):
            decode(write_dicom(tmp_path / f"{kind}.dcm", data, syntax))


def test_what_needs_a_decoder_says_so(tmp_path: Path) -> None:
    data = dataset(RAMP, bits=12)
    data.PixelData = encapsulate([b"\xff\xd8" + b"\0" * 100])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    with pytest.raises(BadImage, match="pip install pylibjpeg"):
        decode(write_dicom(tmp_path / "a.dcm", data, JPEGLosslessSV1))


def test_what_is_no_image(tmp_path: Path) -> None:
    report = dataset(RAMP)
    for name in ("PixelData", "Rows"):
        del report[name]
    with pytest.raises(BadImage, match="without an image"):
        decode(write_dicom(tmp_path / "a.dcm", report))
    (tmp_path / "b.dcm").write_bytes(b"no DICOM" * 100)
    (tmp_path / "c.nii").write_bytes(b"no NIfTI" * 100)
    (tmp_path / "d.npy").write_bytes(b"PK\x03\x04" * 100)
    (tmp_path / "e.dcm").write_bytes(b"")
    for name, reason in (
        ("b.dcm", "not a DICOM"),
        ("c.nii", "not a NIfTI"),
        ("d.npy", "not a .npy"),
        ("e.dcm", "empty"),
    ):
        with pytest.raises(BadImage, match=reason):
            decode(tmp_path / name)
    with pytest.raises(BadImage, match="no such file"):
        decode(tmp_path / "none.dcm")
    time = nifti(tmp_path / "f.nii", np.zeros((4, 4, 4, 3), np.int16))
    with pytest.raises(BadImage, match="4 dimensions"):
        decode(time)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pydicom.filereader", None)
    with pytest.raises(BadImage, match=r"pip install 'visual-prompt-tuning\[medical\]'"):
        decode(dicom(tmp_path / "a.dcm", RAMP))


def test_uploads_stay_refused(tmp_path: Path) -> None:
    content = dicom(tmp_path / "a.dcm", RAMP).read_bytes()
    with pytest.raises(BadImage, match="not an image file of these formats"):
        read_header(content, formats=("JPEG", "PNG"))
    with pytest.raises(BadImage, match="it is a DICOM file"):
        decode(content)


def test_the_server_has_no_such_format() -> None:
    from pydantic import ValidationError

    from vpt.inference.server.settings import ServeSettings

    for name in ("DICOM", "NIfTI", "NumPy"):
        with pytest.raises(ValidationError, match="known formats are"):
            ServeSettings(formats=(name,))


def test_sizes_for_boxes_and_masks(tmp_path: Path) -> None:
    from vpt.data.detection.image_sizes import read_header as box_header

    header = box_header(dicom(tmp_path / "a.dcm", RAMP, bits=12), 10**6)
    assert header is not None
    assert header.upright == (64, 48)


def test_mutated_files_are_read_or_refused_in_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    volume = np.random.default_rng(0).integers(0, 99, (6, 5, 4)).astype(np.int16)
    files = [
        dicom(tmp_path / "a.dcm", RAMP[:8, :8], bits=12, WindowCenter=700, WindowWidth=900),
        dicom(tmp_path / "b.dcm", photo(8, 8), ImplicitVRLittleEndian, photometric="YBR_FULL"),
        nifti(tmp_path / "c.nii", volume),
        nifti(tmp_path / "d.nii.gz", volume),
        npy(tmp_path / "e.npy", RAMP[:8, :8]),
    ]
    chance = random.Random(0)
    read, sentences = 0, []
    with caplog.at_level(logging.DEBUG):
        for original in files:
            content = original.read_bytes()
            path = tmp_path / f"mutated{''.join(original.suffixes)}"
            for turn in range(120):
                mutated = bytearray(content)
                if turn % 4 == 0:
                    del mutated[chance.randrange(len(mutated)) :]
                for _ in range(chance.randrange(1, 6) if mutated else 0):
                    mutated[chance.randrange(len(mutated))] = chance.choice([0, 255, chance.randrange(256)])
                path.write_bytes(mutated)
                try:
                    pixels = decode(path, max_pixels=10_000)
                except BadImage as error:
                    sentences.append(error.reason)
                    continue
                assert pixels.dtype == np.uint8
                read += 1
    assert read > 50
    assert len(sentences) > 50
    assert not [one for one in sentences if "\n" in one or "Test" in one]
    assert capfd.readouterr() == ("", "")
    assert not [one for one in caplog.records if one.name.startswith(("pydicom", "nibabel"))]
