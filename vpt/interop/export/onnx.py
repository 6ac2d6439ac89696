"""Writing and running ONNX files, in full and in reduced precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vpt.interop.export.program import Program, Run, quiet
from vpt.interop.export.target import Target, needed


def model_of(program: Program, target: Target) -> Any:
    """The ONNX model of a program in the target's precision.

    Raises:
        UserError: missing packages.
    """
    needed("onnx")
    needed("onnxscript")  # by torch.onnx
    with quiet():
        made = torch.onnx.export(
            program.traced(),
            input_names=[program.input],
            output_names=list(program.outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    if target.precision != "fp32":
        from vpt.interop.export import quantise

        with quiet():
            reduce = {"fp16": quantise.to_fp16, "int8": quantise.to_int8}[target.precision]
            model = reduce(model, program.input, target.calibration)
    for key, value in program.metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    return model


def write_onnx(program: Program, target: Target, path: Path) -> None:
    """Write a program as ONNX."""
    model = model_of(program, target)
    needed("onnx").save(model, str(path))


def open_onnx(path: Path, target: Target) -> Run:
    """Open an ONNX file in onnxruntime on the CPU.

    Raises:
        UserError: missing packages.
    """
    onnxruntime = needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # not warnings about its own optimisations
    options.intra_op_num_threads = target.threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda images: tuple(map(torch.from_numpy, session.run(None, {name: images.numpy()})))
