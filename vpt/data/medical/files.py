"""Names of DICOM, NIfTI and NumPy files, and of their slices: `scan.nii.gz#3` is the third slice of `scan.nii.gz`."""

from __future__ import annotations

import os
import re
from pathlib import Path

KINDS = {".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM", ".nii": "NIfTI", ".nii.gz": "NIfTI", ".npy": "NumPy"}
_SLICE = re.compile(r"(.+)#([1-9]\d{0,5})", re.DOTALL)


def extension(name: str) -> str:
    """The extension of a file name in lower case, without the number of a slice.

    >>> extension("scan.NII.gz#3"), extension("a.b.jpg"), extension("IM0001")
    ('.nii.gz', '.jpg', '')
    """
    name = name.lower()
    if (found := _SLICE.fullmatch(name)) and os.path.splitext(found[1])[1] in (*KINDS, ".gz", ""):
        name = found[1]
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def without_slice(path: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """The file of a path and the slice that the path names, from 1; None if it names none.

    >>> without_slice("scan.nii#3"), without_slice("photo#3.png")
    ((PosixPath('scan.nii'), 3), (PosixPath('photo#3.png'), None))
    """
    text = os.fspath(path)
    found = _SLICE.fullmatch(text) if isinstance(text, str) else None
    if found is None or os.path.lexists(text) or (extension(found[1]) not in KINDS and not has_magic(found[1])):
        return Path(path), None
    return Path(found[1]), int(found[2])


def kind_of(path: str | os.PathLike[str]) -> str:
    """ "DICOM", "NIfTI" or "NumPy", or "" for other files: by extension, or for a name without one, as archives of
    hospitals write them, by the first bytes.

    >>> kind_of("a.nii.gz"), kind_of("a.png")
    ('NIfTI', '')
    """
    file = os.fspath(path)
    if not isinstance(file, str):
        return ""
    return KINDS.get(extension(file)) or ("DICOM" if has_magic(without_slice(file)[0]) else "")


def has_magic(path: str | os.PathLike[str]) -> bool:
    """Whether a file without an extension, or named by a UID, begins as DICOM does. An index of files is no image.

    >>> has_magic(__file__)
    False
    """
    name = os.path.basename(path)
    ending = os.path.splitext(name)[1]
    if (ending and not ending[1:].isdigit()) or name.startswith(".") or name.upper() == "DICOMDIR":
        return False
    try:
        if not os.path.isfile(path):  # a pipe would block
            return False
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False
