"""Writing and running ONNX files, in full and in reduced precision."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from vpt.interop.export.program import Program, Run, quiet
from vpt.interop.export.quantise import SCOPES, to_fp16, to_int8
from vpt.interop.export.target import Target, needed


def model_of(program: Program, target: Target) -> Any:
    """The ONNX model of a program in the target's precision, made once.

    Raises:
        UserError: missing packages.
    """
    precision = target.precision
    if precision not in program.made:
        with quiet():
            model = _whole(program) if precision == "fp32" else _reduced(program, target)
        del model.metadata_props[:]
        for key, value in {**program.metadata, "precision": precision}.items():
            model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
        program.made[precision] = model
    return program.made[precision]


def _whole(program: Program) -> Any:
    needed("onnx")
    needed("onnxscript")  # by torch.onnx
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
    for (
        node
    ) in model.graph.node:  # without stack traces, which name files of this machine and are larger than the graph
        scopes = [each.value for each in node.metadata_props if each.key == SCOPES]
        del node.metadata_props[:]
        for value in scopes:
            node.metadata_props.add(key=SCOPES, value=value)
    return model


def _reduced(program: Program, target: Target) -> Any:
    reduce = {"fp16": to_fp16, "int8": to_int8}[target.precision]
    return reduce(deepcopy(model_of(program, Target("onnx"))), program.input, target.calibration)


def write_onnx(program: Program, target: Target, path: Path) -> None:
    """Write a program as ONNX."""
    needed("onnx").save(model_of(program, target), str(path))


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
