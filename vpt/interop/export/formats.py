"""The formats that `vpt export` writes. To add one, add an entry to `FORMATS`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from vpt.interop.export.coreml import open_coreml, runs_here, write_coreml
from vpt.interop.export.onnx import open_onnx, write_onnx
from vpt.interop.export.openvino import open_openvino, write_openvino
from vpt.interop.export.program import Program, Run, quiet
from vpt.interop.export.target import INSTALL, Format, Precision, Target
from vpt.interop.export.tensorrt import open_tensorrt, write_tensorrt


@dataclass(frozen=True)
class FormatEntry:
    """A format.

    Args:
        suffix: appended to the name of the artifact.
        write: writes a program to a file, or into an empty folder.
        open: opens what was written for running it here.
        precisions: those it can be written in.
        packages: imported by it.
        folder: a folder is written, with the metadata in `vpt.json`.
        runs_here: whether this machine can run it; if not, files are written, but not compared.
    """

    suffix: str
    write: Callable[[Program, Target, Path], None]
    open: Callable[[Path, Target], Run]
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    packages: tuple[str, ...] = ("onnx", "onnxruntime", "onnxscript")
    folder: bool = False
    runs_here: Callable[[], bool] = lambda: True


def missing(format: Format) -> str:
    """How to install the packages that a format needs; "" if they are installed.

    >>> missing("torch")
    ''
    """
    absent = [name for name in FORMATS[format].packages if find_spec(name) is None]
    return " and ".join(dict.fromkeys(INSTALL[name] for name in absent))


def write(program: Program, target: Target, path: Path) -> None:
    """Write a program to a file, or into an empty folder.

    Raises:
        UserError: missing packages, or a model that the format cannot express.
    """
    entry = FORMATS[target.format]
    entry.write(program, target, path)
    if entry.folder:
        described = json.dumps({**program.metadata, "precision": target.precision}, indent=2)
        (path / "vpt.json").write_text(described, encoding="utf-8")


def opened(path: Path, target: Target) -> Run:
    """Open a written file for running on this machine.

    Raises:
        UserError: missing packages.
    """
    return FORMATS[target.format].open(path, target)


def _write_torch(program: Program, target: Target, path: Path) -> None:
    # In memory first: on a full disk torch's writer terminates the process.
    content = io.BytesIO()
    with quiet():
        torch.export.save(program.traced(), content, extra_files={"vpt.json": json.dumps(program.metadata)})
    path.write_bytes(content.getbuffer())


def _open_torch(path: Path, target: Target) -> Run:
    # From bytes: torch warns about names that do not end in .pt2, such as those of temporary files.
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = module(images)
        return found if isinstance(found, tuple) else (found,)

    return run


FORMATS: dict[Format, FormatEntry] = {
    "onnx": FormatEntry(".onnx", write_onnx, open_onnx),
    "torch": FormatEntry(".pt2", _write_torch, _open_torch, ("fp32",), ()),
    "openvino": FormatEntry(
        "_openvino", write_openvino, open_openvino, packages=("onnx", "onnxscript", "openvino"), folder=True
    ),
    "tensorrt": FormatEntry(
        "_tensorrt", write_tensorrt, open_tensorrt, ("fp32", "fp16"), ("onnx", "onnxscript", "tensorrt"), folder=True
    ),
    "coreml": FormatEntry("_coreml", write_coreml, open_coreml, ("fp32", "fp16"), ("coremltools",), True, runs_here),
}
