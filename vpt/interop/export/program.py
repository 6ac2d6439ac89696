"""A program to export, and how long a written one takes."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

Run = Callable[[Tensor], tuple[Tensor, ...]]
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
        made: ONNX models by precision, from which other formats are converted.
    """

    module: nn.Module
    example: Tensor
    input: str
    outputs: tuple[str, ...]
    dynamic: dict[int, Any] | None
    metadata: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict)

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


def latencies(run: Run, example: Tensor, rounds: int = 9) -> np.ndarray:
    """Times of single calls after a first one, in milliseconds.

    >>> latencies(lambda images: (images,), torch.zeros(1), rounds=3).shape
    (3,)
    """
    run(example)
    times = [time.perf_counter()]
    for _ in range(rounds):
        run(example)
        times.append(time.perf_counter())
    return 1000 * np.diff(times)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress what exporters print and log."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
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
