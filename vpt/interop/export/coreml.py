"""Core ML, converted from the torch.export program by coremltools. It runs on macOS only."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpt.interop.export.program import Program, Run, quiet
from vpt.interop.export.target import Target, needed
from vpt.utils.errors import UserError

FILE = "model.mlpackage"


def write_coreml(program: Program, target: Target, path: Path) -> None:
    """Convert a program.

    Raises:
        UserError: the package is missing, images of any size, or operators that coremltools does not know.
    """
    coremltools = needed("coremltools")
    if program.dynamic is None or len(program.dynamic) > 1:
        raise UserError("Core ML needs a classifier or segmenter for images of one size: --size HxW")
    precision = {"fp32": coremltools.precision.FLOAT32, "fp16": coremltools.precision.FLOAT16}[target.precision]
    try:
        with quiet():
            model = coremltools.convert(
                program.traced().run_decompositions({}),
                compute_precision=precision,
                minimum_deployment_target=coremltools.target.iOS17,
            )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"coremltools cannot convert the model: {str(error).strip().splitlines()[-1]}") from None
    model.save(str(path / FILE))


def open_coreml(path: Path, target: Target) -> Run:
    """Open a folder on macOS.

    Raises:
        UserError: another system.
    """
    if sys.platform != "darwin":
        raise UserError("Core ML runs on macOS only, so the file cannot be compared here")
    model = needed("coremltools").models.MLModel(str(path / FILE))
    (name,) = (each.name for each in model.get_spec().description.input)
    outputs = [each.name for each in model.get_spec().description.output]

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = model.predict({name: images.numpy().astype(np.float32)})
        return tuple(torch.from_numpy(found[each]) for each in outputs)

    return run
