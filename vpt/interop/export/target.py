"""What a file is written for: a format, a precision, and the images that calibrate it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from vpt.utils.errors import UserError
from vpt.utils.version import install

Format = Literal["onnx", "torch", "openvino", "tensorrt", "coreml"]
Precision = Literal["fp32", "fp16", "int8"]

# How to install what a format needs, by the name under which it is imported.
INSTALL = {
    "onnx": install("export"),
    "onnxruntime": install("export"),
    "onnxscript": install("export"),
    "openvino": install("openvino"),
    "tensorrt": "pip install tensorrt",
    "coremltools": "pip install coremltools",
}


@dataclass(frozen=True)
class Target:
    """What a file is written for.

    Args:
        format: format of the file.
        precision: of its weights and computation.
        calibration: inputs of the file, from which int8 takes the ranges of activations.
        threads: number of threads that runtimes use; None: their own default.
    """

    format: Format
    precision: Precision = "fp32"
    calibration: Sequence[Tensor] = ()
    threads: int | None = None

    def __str__(self) -> str:
        return self.format if self.precision == "fp32" else f"{self.format} {self.precision}"


def needed(name: str) -> Any:
    """Import a package that a format needs.

    Raises:
        UserError: it is not installed; the message says how to install it.

    >>> needed("json").__name__
    'json'
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = error.name or name
        raise UserError(f"this format needs {package}: {INSTALL.get(package, f'pip install {package}')}") from None
