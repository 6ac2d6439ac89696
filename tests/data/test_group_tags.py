"""`data.group=dicom:KEYWORD`: images of one patient are known by the header of their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from tests.helpers.image_files import photo, save
from tests.helpers.medical_files import dicom, nifti
from vpt.config import load_config
from vpt.config.data import DataConfig
from vpt.data.dataset import SPLITS, Record
from vpt.data.datasets.registry import load_data
from vpt.data.detection.dataset import BoxEntry, BoxFound, RawBox
from vpt.data.detection.registry import numbered
from vpt.data.groups import with_groups
from vpt.utils.errors import UserError

GREY = np.arange(64, dtype=np.uint16).reshape(8, 8)
BY_PATIENT = DataConfig(group="dicom:PatientID")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients with one to three files each, whose names say nothing; two transfer syntaxes."""
    root = tmp_path_factory.mktemp("clinic")
    number = 0
    for patient in range(10):
        for _ in range(1 + patient % 3):
            syntax = [ImplicitVRLittleEndian, "1.2.840.10008.1.2.1"][number % 2]
            name = f"{(number * 37) % 100:03d}"
            dicom(root / ("ill" if patient % 2 else "well") / name, GREY, syntax, PatientID=f"S-{patient}")
            number += 1
    return root


def owner(record: Record) -> str:
    from pydicom import dcmread

    return str(dcmread(str(record.source)).PatientID)


@pytest.mark.parametrize("more", [{}, {"shots": 2}, {"folds": 3, "fold": 1}])
def test_a_patient_is_on_one_side(clinic: Path, more: dict[str, int]) -> None:
    config = DataConfig(path=str(clinic), group="dicom:PatientID", test_fraction=0.2, val_fraction=0.3, **more)
    data = load_data(config)
    sides = [{owner(record) for record in data.split(name)} for name in SPLITS]
    assert all(sides)
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert load_data(config).fingerprint() == data.fingerprint()
    assert not [record for name in SPLITS for record in data.split(name) if owner(record) in record.group]
    if "shots" in more:
        assert len(sides[0]) == 4


def test_boxes_and_single_slices_have_groups_too(clinic: Path) -> None:
    files = sorted(path for path in clinic.rglob("*") if path.is_file())
    boxes = [BoxEntry(path.name, path, (RawBox("cat", (0.0, 0.0, 4.0, 4.0)),), (8, 8), None) for path in files]
    data = numbered(BoxFound({"train": boxes}), BY_PATIENT.model_copy(update={"test_fraction": 0.3}))
    sides = [{owner(record) for record in data.split(name)} for name in SPLITS]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 10
    records = [Record(f"{path.name}#{at}", Path(f"{path}#{at}"), (0,)) for path in files[:2] for at in (1, 2)]
    groups = [record.group for record in with_groups(records, BY_PATIENT)]
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_one_value_has_one_group_however_it_is_written(tmp_path: Path) -> None:
    """Other padding, byte order, character set or decomposition of a letter, as the machines of a hospital have."""
    files = [
        dicom(tmp_path / "a.dcm", GREY, PatientName="Müller^A", SpecificCharacterSet="ISO_IR 100"),
        dicom(
            tmp_path / "b.dcm", GREY, ImplicitVRLittleEndian, PatientName="Müller^A ", SpecificCharacterSet="ISO_IR 192"
        ),
        dicom(
            tmp_path / "c.dcm",
            GREY.astype(">u2"),
            ExplicitVRBigEndian,
            PatientName="Mu\u0308ller^A^",
            SpecificCharacterSet="ISO_IR 192",
        ),
        dicom(tmp_path / "d.dcm", GREY, PatientName="Miller^A"),
    ]
    records = [Record(file.name, file, (0,)) for file in files]
    groups = [record.group for record in with_groups(records, DataConfig(group="dicom:PatientName"))]
    assert groups[0] == groups[1] == groups[2] != groups[3]
    numbers = [dicom(tmp_path / f"{at}.dcm", GREY, SeriesNumber=str(at // 2)) for at in range(4)]
    records = [Record(file.name, file, (0,)) for file in numbers]
    assert len({one.group for one in with_groups(records, DataConfig(group="dicom:SeriesNumber"))}) == 2


def test_mistakes_name_the_file_and_the_tag(tmp_path: Path) -> None:
    good = dicom(tmp_path / "good.dcm", GREY, PatientID="Q17")
    empty = dicom(tmp_path / "empty.dcm", GREY, PatientID="")
    without = dicom(tmp_path / "without.dcm", GREY, StudyID="Q17")
    other, volume = save(tmp_path / "other.png", photo()), nifti(tmp_path / "v.nii", np.zeros((4, 4, 4), np.int16))
    for bad in (empty, without):
        records = [Record(path.name, path, (0,)) for path in (good, bad)]
        with pytest.raises(UserError, match=f"1 image without the DICOM tag PatientID: {bad.name}") as caught:
            with_groups(records, BY_PATIENT)
        assert "Q17" not in str(caught.value)
    for bad in (other, volume):
        with pytest.raises(UserError, match=f"1 image not from a DICOM file: {bad.name}"):
            with_groups([Record(path.name, path, (0,)) for path in (good, bad)], BY_PATIENT)
    for tag in ("PatientIdentity", "PixelData", "OtherPatientIDsSequence", "TransferSyntaxUID", "00100020"):
        with pytest.raises(UserError, match=f"no tag of text or numbers called {tag}"):
            with_groups([Record("good.dcm", good, (0,))], DataConfig(group=f"dicom:{tag}"))
    with pytest.raises(UserError, match="did you mean 'PatientID'"):
        with_groups([], DataConfig(group="dicom:PatientId"))
    with pytest.raises(UserError, match="keyword of a DICOM tag"):
        load_config(overrides=["data.group='dicom:(0010,0020)'"])


def test_files_that_cannot_be_read_are_reported_by_decoding(tmp_path: Path) -> None:
    """As without groups, so that `data.on_bad=skip` leaves them out."""
    good = dicom(tmp_path / "good.dcm", GREY, PatientID="Q17")
    half, gone = tmp_path / "half.dcm", tmp_path / "gone.dcm"
    half.write_bytes(good.read_bytes()[:200])
    found = with_groups([Record(path.name, path, (0,)) for path in (good, half, gone)], BY_PATIENT)
    assert len({record.group for record in found}) == 3
