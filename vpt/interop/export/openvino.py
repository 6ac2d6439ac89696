"""OpenVINO, converted from the ONNX model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from xml.etree import ElementTree

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
    _keep_resizing_exact(path / FILE)


def _keep_resizing_exact(file: Path) -> None:
    """Mark what comes before the first convolution, so that OpenVINO computes it in fp32; the rest may be bf16, its
    default: the weights of a resizing filter are differences of large numbers."""
    tree = ElementTree.parse(file)
    root = tree.getroot()
    layers = {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")}
    edges = [(edge.get("from-layer", ""), edge.get("to-layer", "")) for edge in root.iterfind("edges/edge")]
    first = next((name for name, layer in layers.items() if layer.get("type") == "Convolution"), None)
    before = {first}
    while more := {start for start, end in edges if end in before} - before:
        before |= more
    for name in before - {first, None}:
        layer = layers[str(name)]
        if layer.get("type") not in ("Const", "Parameter", "Result"):
            info = layer.find("rt_info")
            info = ElementTree.SubElement(layer, "rt_info") if info is None else info
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    tree.write(file)


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
