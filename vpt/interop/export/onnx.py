"""Writing and running exported programs: ONNX and torch.export."""

from __future__ import annotations

import io
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from vpt.utils.errors import UserError
from vpt.utils.version import install

Format = Literal["onnx", "torch"]
Run = Callable[[Tensor], tuple[Tensor, ...]]
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}

HELD = (InputKind.PARAMETER, InputKind.BUFFER)


@dataclass(frozen=True)
class Program:
    """A program to write.

    Args:
        module: takes one tensor, returns one or several.
        example: example input.
        input: name of the input.
        outputs: names of the outputs.
        dynamic: axes of the input with variable length.
        metadata: description for users of the file.
    """

    module: nn.Module
    example: Tensor
    input: str
    outputs: tuple[str, ...]
    dynamic: dict[int, Any] | None
    metadata: dict[str, Any]

    def traced(self) -> Any:
        """The torch.export program, without unused weights such as those of a text tower."""
        made = torch.export.export(self.module, (self.example,), dynamic_shapes={self.input: self.dynamic})
        specs = {spec.arg.name: spec for spec in made.graph_signature.input_specs}
        for node in list(made.graph.nodes):
            if node.op == "placeholder" and not node.users and specs[node.name].kind in HELD:
                spec = specs[node.name]
                made.graph_signature.input_specs.remove(spec)
                made.graph.erase_node(node)
                made.state_dict.pop(spec.target, None)
        made.graph_module.recompile()
        return made


def write(program: Program, format: Format, path: Path) -> None:
    """Write a program to a file.

    Raises:
        UserError: missing packages.
    """
    with _quiet():
        {"onnx": _write_onnx, "torch": _write_torch}[format](program, path)


def opened(path: Path, format: Format) -> Run:
    """Open a written file for running on this CPU.

    Raises:
        UserError: missing packages.
    """
    return {"onnx": _open_onnx, "torch": _open_torch}[format](path)


def latency(run: Run, example: Tensor, rounds: int = 9) -> float:
    """Median time of one call, in milliseconds.

    >>> latency(lambda images: (images,), torch.zeros(1)) < 1000
    True
    """
    run(example)
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run(example)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def _write_torch(program: Program, path: Path) -> None:
    # In memory first: on a full disk torch's writer terminates the process.
    content = io.BytesIO()
    torch.export.save(program.traced(), content, extra_files={"vpt.json": json.dumps(program.metadata)})
    path.write_bytes(content.getbuffer())


def _write_onnx(program: Program, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  (needed by torch.onnx)
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: {install('export')}") from None
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
    for key, value in program.metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.save(model, str(path))


def _open_onnx(path: Path) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"checking ONNX needs {error.name}: {install('export')}") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda images: tuple(map(torch.from_numpy, session.run(None, {name: images.numpy()})))


def _open_torch(path: Path) -> Run:
    # From bytes: torch warns about names that do not end in .pt2, such as those of temporary files.
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = module(images)
        return found if isinstance(found, tuple) else (found,)

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's own output."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
