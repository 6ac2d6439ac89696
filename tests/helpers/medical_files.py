"""Makes DICOM and NIfTI files as pydicom and nibabel write them, with marks of a patient's identity."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid


def dataset(values: np.ndarray, bits: int | None = None, photometric: str = "MONOCHROME2", **elements: Any) -> Dataset:
    """A secondary capture of an array (H, W), (F, H, W), or (H, W, 3) for colours; `elements` are added as they are."""
    colour = values.ndim == 3 and values.shape[-1] == 3
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    data.PatientName, data.Modality = "Test^Patient", "OT"
    if values.ndim == 3 and not colour:
        data.NumberOfFrames = len(values)
    data.Rows, data.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = (3 if colour else 1), photometric
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * values.dtype.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    for name, value in elements.items():
        setattr(data, name, value)
    content = values.tobytes()
    data.PixelData = content + b"\0" * (len(content) % 2)
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    return data


def write_dicom(path: Path, data: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not getattr(data, "file_meta", None):
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    implicit = data.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    data.save_as(
        path,
        enforce_file_format=True,
        implicit_vr=implicit,
        little_endian=data.file_meta.TransferSyntaxUID.is_little_endian,
    )
    return path


def dicom(path: Path, values: np.ndarray, syntax: str = ExplicitVRLittleEndian, **options: Any) -> Path:
    """Write an array as a DICOM file; options as in `dataset`."""
    return write_dicom(path, dataset(values, **options), syntax)


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> Path:
    """Write a volume as nibabel does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def npy(path: Path, values: np.ndarray) -> Path:
    """Write an array as NumPy does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    path.write_bytes(buffer.getvalue())
    return path
