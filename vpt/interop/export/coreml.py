"""Core ML, converted from the torch.export program by coremltools. It runs on macOS only. Images are float32."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vpt.interop.export.program import Program, Run, quiet
from vpt.interop.export.target import Target, needed
from vpt.utils.errors import UserError

FILE = "model.mlpackage"


class FromFloat(nn.Module):
    """A module for float32 images, from 0 to 255; Core ML has no uint8 inputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the module, of which masks are int32."""
        found = self.module(images.to(torch.uint8))
        parts = found if isinstance(found, tuple) else (found,)
        return tuple(part.int() if part.dtype == torch.uint8 else part for part in parts)


def write_coreml(program: Program, target: Target, path: Path) -> None:
    """Convert a program for one image.

    Raises:
        UserError: the package is missing, or operators that coremltools does not know.
    """
    coremltools = needed("coremltools")
    if program.dynamic is None or len(program.dynamic) > 1:
        raise UserError("Core ML needs a classifier or segmenter for images of one size: --size HxW")
    module, example = FromFloat(program.module).eval(), program.example[:1].float()
    alone = replace(program, module=module, example=example, dynamic=None)
    try:
        with quiet():
            model = coremltools.convert(
                alone.traced().run_decompositions({}),
                outputs=[coremltools.TensorType(name=name) for name in program.outputs],
                compute_precision=getattr(coremltools.precision, {"fp32": "FLOAT32"}.get(target.precision, "FLOAT16")),
                minimum_deployment_target=coremltools.target.iOS17,
                skip_model_load=not runs_here(),
            )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        why = str(error).strip().splitlines()[-1]
        raise UserError(
            f"coremltools cannot convert the model ({why}); try a classifier's own size, --size SxS"
        ) from None
    model.short_description = ", ".join(map(str, program.metadata["classes"]))
    model.save(str(path / FILE))


def runs_here() -> bool:
    """Whether Core ML runs on this machine.

    >>> runs_here() == (sys.platform == "darwin")
    True
    """
    return sys.platform == "darwin"


def open_coreml(path: Path, target: Target) -> Run:
    """Open a folder on macOS."""
    model = needed("coremltools").models.MLModel(str(path / FILE))
    (name,) = (each.name for each in model.get_spec().description.input)
    outputs = [each.name for each in model.get_spec().description.output]

    def run(images: Tensor) -> tuple[Tensor, ...]:
        # One image at a time, for which it was converted.
        found = [model.predict({name: image[None].float().numpy()}) for image in images]
        return tuple(torch.cat([torch.from_numpy(one[each]) for one in found]) for each in outputs)

    return run
