"""OpenVINO, converted from the ONNX model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from vpt.interop.export.onnx import write_onnx
from vpt.interop.export.program import Program, Run
from vpt.interop.export.target import Target, needed

FILE = "model.xml"  # beside model.bin, which contains the weights


def write_openvino(program: Program, target: Target, path: Path) -> None:
    """Write a program into a folder. fp16 stores weights in half; int8 keeps the calibration of the ONNX model."""
    openvino = needed("openvino")
    half = target.precision == "fp16"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(program, Target("onnx", "fp32" if half else target.precision, target.calibration), file)
        model = openvino.Core().read_model(file)
        for key, value in {**program.metadata, "precision": target.precision}.items():
            model.set_rt_info(value if isinstance(value, str) else json.dumps(value), ["model_info", key])
        openvino.save_model(model, path / FILE, compress_to_fp16=half)


def open_openvino(path: Path, target: Target) -> Run:
    """Open a folder on the CPU. fp32 is computed in fp32, where OpenVINO's default may be bf16."""
    openvino = needed("openvino")
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32"} if target.precision == "fp32" else {}
    if target.threads:
        settings["INFERENCE_NUM_THREADS"] = target.threads
    model = openvino.Core().compile_model(path / FILE, "CPU", settings)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = model([images.numpy()])
        return tuple(torch.from_numpy(found[output]) for output in model.outputs)

    return run
