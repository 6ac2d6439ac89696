"""Reduced precision of ONNX models: fp16, and int8 with the ranges of activations on calibration images.

Only the network is reduced: the layers with weights, and for fp16 what lies between them. Resizing before the first
layer and what becomes of the last one's outputs (softmax, boxes) stay in full precision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vpt.interop.export.target import needed
from vpt.utils.errors import UserError

LAYERS = ("Conv", "Gemm", "MatMul")
RESIZING = ("square", "resize")  # modules of the exported program that multiply images by weights of a resizing filter
ANY_SIZE = 1 << 40
FLOAT, FLOAT16 = 1, 10  # of onnx.TensorProto
SCOPES = "pkg.torch.onnx.name_scopes"  # metadata of a node: the modules that it belongs to


def to_fp16(model: Any, name: str, calibration: Sequence[Tensor]) -> Any:
    """The model with the network in half precision; inputs and outputs keep their types."""
    float16, model = needed("onnxruntime.transformers.float16"), folded(model)
    layers = layers_of(model)
    inside = _reached(model, layers, forward=True) & _reached(model, layers, forward=False)
    own = {node.name for node in model.graph.node}
    half = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(own - inside))
    return without_detours(half, own)


def without_detours(model: Any, own: set[str]) -> Any:
    """The model without casts to half precision and back, which the converter puts between any two nodes: what is kept
    in full precision may be larger than 65504, the largest half, and an index must be exact.

    Args:
        model: a converted ONNX model.
        own: names of the nodes that it had before.
    """
    casts = {each.output[0]: each for each in model.graph.node if each.op_type == "Cast" and each.name not in own}
    down = {name: cast for name, cast in casts.items() if cast.attribute[0].i == FLOAT16}
    back = {name: cast for name, cast in casts.items() if cast.attribute[0].i == FLOAT and cast.input[0] in down}
    source = {name: down[cast.input[0]].input[0] for name, cast in back.items()}
    results = {each.name for each in model.graph.output}
    for node in model.graph.node:
        if node.output[0] in back and node.output[0] in results:  # a result keeps its name
            node.op_type = "Identity"
            del node.attribute[:]
            node.input[0] = source[node.output[0]]
        for place, name in enumerate(node.input):
            node.input[place] = source.get(name, name)
    read = results.union(*(node.input for node in model.graph.node))
    while unread := [node for node in model.graph.node if not read.intersection(node.output)]:
        for node in unread:
            model.graph.node.remove(node)
        read = results.union(*(node.input for node in model.graph.node))
    return model


def to_int8(model: Any, name: str, calibration: Sequence[Tensor]) -> Any:
    """The model with the layers in int8 (QDQ), each channel of weights with its own scale.

    Args:
        model: the ONNX model.
        name: of its input.
        calibration: inputs, from which the ranges of activations are taken.

    Raises:
        UserError: no calibration images.
    """
    if not calibration:
        raise UserError("int8 needs images for calibration; name a data set with --data")
    onnx, quantization, model = needed("onnx"), needed("onnxruntime.quantization"), folded(model)
    left = iter(calibration)

    def get_next(_: Any) -> dict[str, Any] | None:
        found = next(left, None)
        return None if found is None else {name: found.numpy()}

    reader = type("Images", (quantization.CalibrationDataReader,), {"get_next": get_next})()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            file,
            reader,
            nodes_to_quantize=sorted(layers_of(model) - _embedding(model)),
            op_types_to_quantize=list(LAYERS),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(file)


def _embedding(model: Any) -> set[str]:
    """Name of the first convolution, which embeds patches: OpenVINO computes it wrongly in int8 where images have one
    size, and it is a small part of the arithmetic."""
    return set([node.name for node in model.graph.node if node.op_type == "Conv"][:1])


def folded(model: Any) -> Any:
    """The model with everything computed that depends on weights alone, such as slices of them."""
    return needed("onnxscript.optimizer").optimize(model, input_size_limit=ANY_SIZE, output_size_limit=ANY_SIZE)


def layers_of(model: Any) -> set[str]:
    """Names of the nodes that multiply by weights, other than those that resize images."""
    constant = {each.name for each in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if all(name in constant for name in inputs):  # computed from weights alone
            constant.update(node.output)
        elif node.op_type in LAYERS and any(name in constant for name in inputs) and not _resizes(node):
            found.add(node.name)
    return found


def _resizes(node: Any) -> bool:
    scopes = next((each.value for each in node.metadata_props if each.key == SCOPES), "")
    return any(f"'{name}'" in scopes for name in RESIZING)


def _reached(model: Any, starts: set[str], forward: bool) -> set[str]:
    """Names of these nodes, and of all after them, or before them."""
    nodes = model.graph.node if forward else reversed(model.graph.node)
    values: set[str] = set()
    found = set()
    for node in nodes:
        ends = (node.input, node.output) if forward else (node.output, node.input)
        if node.name in starts or values.intersection(ends[0]):
            found.add(node.name)
            values.update(ends[1])
    return found
