"""TensorRT, built from the ONNX model on the GPU that will run it. Images and masks are float32, from 0 to 255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.interop.export.onnx import model_of
from vpt.interop.export.program import Program, Run
from vpt.interop.export.quantise import folded
from vpt.interop.export.target import Target, needed
from vpt.utils.errors import UserError

FILE = "model.engine"
BATCHES = (1, 1, 32)  # smallest, usual and largest batch


def write_tensorrt(program: Program, target: Target, path: Path) -> None:
    """Build an engine, whose layers have the precisions of the ONNX model.

    Raises:
        UserError: the package is missing, images of any size, a detector, or a model that TensorRT cannot build.
    """
    trt = needed("tensorrt")
    if program.dynamic is None:
        raise UserError("detectors cannot be exported to TensorRT, because their number of boxes differs")
    if len(program.dynamic) > 1:
        raise UserError("TensorRT needs images of one size: --size HxW")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(without_uint8(model_of(program, target)).SerializeToString()):
        raise UserError(f"TensorRT cannot read the model: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape(program.input, *((count, *program.example.shape[1:]) for count in BATCHES))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError("TensorRT cannot build an engine from the model on this GPU")
    (path / FILE).write_bytes(engine)


def open_tensorrt(path: Path, target: Target) -> Run:
    """Open an engine on the current GPU."""
    trt = needed("tensorrt")
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine((path / FILE).read_bytes())
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(at) for at in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]

    def run(images: Tensor) -> tuple[Tensor, ...]:
        context.set_input_shape(inputs[0], tuple(images.shape))
        tensors = {inputs[0]: images.cuda().float()}
        for name in names:
            if name not in tensors:
                tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), device="cuda")
            context.set_tensor_address(name, tensors[name].data_ptr())
        stream = torch.cuda.current_stream()
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return tuple(tensors[name].cpu() for name in names if name not in inputs)

    return run


def without_uint8(model: Any) -> Any:
    """The ONNX model with float32 instead of uint8, in which TensorRT does not compute; the values stay integers."""
    onnx, model = needed("onnx"), folded(model)
    pixels, numbers = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == pixels:
                attribute.i = numbers
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == pixels:
            value.type.tensor_type.elem_type = numbers
    del model.graph.value_info[:]
    return model
