"""No text of a file's header is in anything that is written or printed, whatever is done with the file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import STR_VR

from tests.helpers.medical_files import dataset, dicom, nifti, write_dicom
from tests.helpers.runs import NET
from vpt.cli.main import main
from vpt.data.medical.dicom import _TAGS, _VALUES, _WINDOW

MARK = "1391826450"  # digits alone, so that it is valid in names, numbers, identifiers and texts alike
_READ = {*_TAGS, *_VALUES, *_WINDOW, "SpecificCharacterSet", "TransferSyntaxUID"}


def marked(values: np.ndarray, **elements: object) -> Dataset:
    """A file with the mark in every text element of the standard, in private ones, and in those of a sequence."""
    data = dataset(values, bits=12, **elements)
    for target in (data, Dataset()):
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
            group = tag >> 16
            if vr in STR_VR and keyword and not retired and keyword not in _READ and group not in (0, 2, 0x0004):
                target.add_new(tag, vr, MARK)
        block = target.private_block(0x0099, MARK, create=True)
        for number, vr in enumerate(("LO", "UT", "OB", "UN")):
            block.add_new(number, vr, MARK.encode() if vr in ("OB", "UN") else f"Doe^{MARK}")
        if target is not data:
            data.OtherPatientIDsSequence = Sequence([target])
            data.SharedFunctionalGroupsSequence = Sequence([target])
    return data


def damaged(folder: Path, values: np.ndarray) -> Iterator[tuple[str, Path]]:
    """Files that are refused, each for another reason, by name."""
    whole = write_dicom(folder / "whole.dcm", marked(values)).read_bytes()
    where = whole.index(b"MONOCHROME2")
    syntax = whole.index(b"1.2.840.10008.1.2.1\0")
    contents = {
        "truncated": whole[:-500],
        "headless": whole[132:],
        "half": whole[: len(whole) // 2],
        "colour": whole[:where] + MARK.encode() + whole[where + 10 :],
        "syntax": whole[:syntax] + MARK.encode() + whole[syntax + 10 :],
    }
    for name, content in contents.items():
        (folder / f"{name}.dcm").write_bytes(content)
        yield name, folder / f"{name}.dcm"
    for name, value in (("Rows", 9000), ("BitsStored", 99), ("SamplesPerPixel", 3), ("RescaleSlope", 1e300)):
        data = marked(values)
        setattr(data, name, value)
        yield name, write_dicom(folder / f"{name}.dcm", data)
    for name in ("WindowCenter", "RescaleSlope", "NumberOfFrames"):  # numbers that are texts
        data = marked(values, **{"WindowCenter": 50, "WindowWidth": 100, name: 77777777})
        content = write_dicom(folder / f"{name}-text.dcm", data).read_bytes()
        (folder / f"{name}-text.dcm").write_bytes(content.replace(b"77777777", f"Do{MARK}"[:8].encode()))
        yield f"{name}-text", folder / f"{name}-text.dcm"


@pytest.mark.usefixtures("small_net")
def test_no_text_of_a_header_is_written_or_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "out" / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "out" / "home"))
    chance = np.random.default_rng(0)
    patients = [f"{MARK}{number}" for number in range(6)]
    with disable_value_validation():  # to write them; they are read as usual
        for shade, name in ((200, "ill"), (2600, "well")):
            for number in range(6):
                values = chance.integers(shade, shade + 900, (2, 32, 32)).astype(np.uint16)
                window = {"WindowCenter": 2000, "WindowWidth": 3500, "RescaleSlope": 1, "RescaleIntercept": -9}
                data = marked(values, **window)
                data.PatientID = patients[number // 2 + (name == "ill") * 3]
                write_dicom(Path("scans", name, f"{number}.dcm"), data)
                write_dicom(Path("patients", name, f"{number}.dcm"), data)
            nifti(
                Path("scans", name, "6.nii.gz"),
                values.astype(np.int16),
                descrip=MARK.encode(),
                intent_name=MARK.encode(),
            )
        bad = dict(damaged(tmp_path / "broken", values[0]))
        for name in ("ill", "well"):  # without a group
            without = marked(values, **window)
            del without.PatientID
            write_dicom(Path("without", name, "0.dcm"), without)
    assert MARK.encode() in Path("scans/ill/0.dcm").read_bytes()
    Path("broken.csv").write_text("path,label\n" + "".join(f"{path},{name[0]}\n" for name, path in bad.items()))
    written = []
    with caplog.at_level(logging.INFO), caplog.at_level(logging.DEBUG, "pydicom"):

        def vpt(*words: str, code: int = 0) -> None:
            assert main(list(words)) == code, capfd.readouterr()
            out, err = capfd.readouterr()
            written.extend([out, err])

        run = "out/runs/run"
        settings = [f"data={tmp_path / 'scans'}", "data.slices=all", "data.test_fraction=0.2", "data.val_fraction=0.3"]
        vpt("data", "check", *settings, "--preview", "out/preview.png")
        train = [*settings, *NET, "out=out/runs", "name=run", "train.epochs=1", "data.workers=0", "data.window=header"]
        vpt("train", *train)
        vpt("eval", run, "split=test")
        for form in ("table", "json", "csv"):
            vpt("predict", run, "scans/ill", "--format", form, "--draw", f"out/drawn-{form}")
        vpt("report", run, "--output", "out/report.html")
        # The group of an image is its patient.
        settings[0] = f"data={tmp_path / 'patients'}"
        grouped = [*train[len(settings) :], *settings, "data.group=dicom:PatientID"]
        vpt("data", "check", *settings, "data.group=dicom:PatientID")
        vpt("train", *grouped, "name=grouped")
        vpt("eval", "out/runs/grouped", "split=test", "data.group=dicom:PatientID")
        vpt("train", *grouped, "data.folds=2", "name=folds")
        vpt("report", "out/runs/grouped", "--output", "out/grouped.html")
        vpt("data", "check", "data=without", "data.group=dicom:PatientID", code=2)
        vpt("data", "check", *settings, "data.group=dicom:PatientNumber", code=2)
        vpt("data", "check", "data=broken.csv", "data.group=dicom:PatientID", code=2)
        vpt(
            "export",
            run,
            "--format",
            "torch",
            "--output",
            "out/file.pt2",
            "--check",
            "scans/ill/0.dcm",
            "scans/well/1.dcm#2",
        )
        for path in bad.values():
            vpt("predict", run, str(path), code=2)
        vpt("data", "check", "data=broken.csv", "--preview", "out/broken.png", code=2)
    written += [one.getMessage() for one in caplog.records]
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert {"artifact.safetensors", "report.html", "preview.png", "predictions-test.csv"} <= {one.name for one in files}
    digests = [hashlib.sha256(patient.encode()).hexdigest() for patient in patients]
    forms = [form.encode(encoding) for encoding in ("ascii", "utf-16-le") for form in (MARK, *digests)]
    assert not [str(path) for path in files if any(form in path.read_bytes() for form in forms)]
    assert not [text for text in written if any(digest in text for digest in digests)]
    assert not [text for text in written if MARK in text or f"Do{MARK[:6]}" in text or "Doe" in text]
    assert "scans/ill/0.dcm#2" in "".join(written)  # names of files are the user's
    assert "cannot be used" in "".join(written)
    assert "without the DICOM tag PatientID: " in "".join(written)
    groups = Path("out/runs/folds/predictions.csv").read_text().splitlines()
    assert "group" in groups[0]
    assert len({line.split(",")[groups[0].split(",").index("group")] for line in groups[1:]}) == 6


def test_the_mark_is_found_where_it_is(tmp_path: Path) -> None:
    """Of the text elements of the standard the mark is in hundreds, of all types."""
    with disable_value_validation():
        data = marked(np.zeros((4, 4), np.uint16))
    kinds = {element.VR for element in data if MARK in str(element.value)}
    assert len([element for element in data if MARK in str(element.value)]) > 1000
    assert kinds >= {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "CS", "UI", "DA", "TM", "DT", "AE"}
    assert dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16)).stat().st_size > 100
