"""Size, latency, accuracy and agreement of every format a model can be exported to."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpt.inference.predictor import load
from vpt.interop.export.export import task_export
from vpt.interop.export.formats import FORMATS, missing, opened, write
from vpt.interop.export.labelled_images import Inputs, accuracies, find_images
from vpt.interop.export.program import Run, latencies
from vpt.interop.export.target import Format, Target
from vpt.interop.export.written import size_of
from vpt.models.trusted_settings import Named
from vpt.utils.console import Console
from vpt.utils.errors import UserError

PYTORCH = "PyTorch"


@dataclass
class Row:
    """A format in the table; what was not measured is None.

    Args:
        format: name and precision.
        bytes: size of the file; of PyTorch, of all weights.
        median_ms: median time of one image, in milliseconds.
        p95_ms: the time that 95 % of calls do not exceed.
        accuracy: the task's metric, from 0 to 1.
        agreement: fraction of classes, boxes or pixels as with PyTorch.
        note: why it was not measured.
    """

    format: str
    bytes: int | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    accuracy: float | None = None
    agreement: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """The table.

    Args:
        metric: what `accuracy` is.
        unit: what agrees: images, boxes or pixels.
        images: number of images.
        split: the split that they are from.
        threads: number of threads.
        rows: one for each format and precision.
    """

    metric: str
    unit: str
    images: int
    split: str
    threads: int
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self)


def benchmark(
    artifact: str | Path,
    data: str | Path | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    formats: Sequence[Format] = (),
    rounds: int = 50,
    weights: str | Path | None = None,
    backbone: str | None = None,
) -> Benchmark:
    """Write a model in every format, run it, and compare it with PyTorch on labelled images. No file is kept.

    Args:
        artifact: artifact file or run folder.
        data: labelled images; default: the test images of the run, or its validation images. At most 500 are used.
        size: height and width of images, as in `vpt.interop.export.export.export`.
        threads: number of threads of every runtime; default: as many as PyTorch uses.
        formats: those to measure; default: all.
        rounds: number of calls that are timed.
        weights: file of the backbone's weights, as in `vpt.load`.
        backbone: name of the backbone, as in `vpt.load`.

    Raises:
        UserError: no labelled images, or an artifact that cannot be exported.
    """
    predictor = load(artifact, device="cpu", weights=weights, dtype="fp32", precision="fp32", backbone=backbone)
    images = find_images(predictor.artifact, data, Named(backbone, weights), Console(quiet=True))
    made = task_export(predictor, size)
    usual = torch.get_num_threads()
    threads = threads or usual
    example = made.input(made.samples[0])
    model_bytes = sum(each.nbytes for each in predictor.model.parameters())
    rows = [Row(PYTORCH, model_bytes)]
    runs: dict[str, Run] = {PYTORCH: lambda _: made.reference(made.samples[0])}
    try:
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            for format in formats or FORMATS:
                for precision in FORMATS[format].precisions:
                    target = Target(format, precision, Inputs(made, images.calibration, images.max_pixels), threads)
                    row = Row(str(target))
                    rows.append(row)
                    if install := missing(format):
                        row.note = f"not installed: {install}"
                        continue
                    path = Path(folder) / f"model-{precision}{FORMATS[format].suffix}"
                    if FORMATS[format].folder:
                        path.mkdir()
                    try:
                        write(made.program, target, path)
                        row.bytes = size_of(path)
                        if not FORMATS[format].runs_here():
                            row.note = f"{row.bytes / 1e6:.1f} MB, does not run on this machine"
                            continue
                        runs[row.format] = opened(path, target)
                    except (UserError, RuntimeError) as error:
                        row.note = str(error).strip().splitlines()[0]
            for row in rows:
                if row.format in runs:
                    times = latencies(runs[row.format], example, rounds)
                    row.median_ms, row.p95_ms = float(np.median(times)), float(np.quantile(times, 0.95))
            del runs[PYTORCH]
            found = accuracies(made, runs, images)
    finally:
        torch.set_num_threads(usual)
    for row in rows:
        if row.format in found:
            row.accuracy, row.agreement = found[row.format].value, found[row.format].agreement
    reference = {each.reference for each in found.values()}
    rows[0].accuracy, rows[0].agreement = (reference.pop() if reference else None), 1.0
    return Benchmark(made.metric, made.unit, len(images.records), images.split, threads, tuple(rows))


def table(found: Benchmark) -> str:
    """The table as text.

    >>> print(table(Benchmark("accuracy", "images", 40, "test", 2, (Row("onnx", 4_000_000, 1.5, 2.0, 0.95, 1.0),))))
    format             MB   median ms   p95 ms   accuracy   agreement
    onnx              4.0        1.50     2.00      0.950     100.0 %
    <BLANKLINE>
    one image at a time on 2 threads; accuracy on 40 test images; agreement: images as with vpt predict
    """
    lines = [f"{'format':<15}{'MB':>6}{'median ms':>12}{'p95 ms':>9}{found.metric:>11}{'agreement':>12}"]
    for row in found.rows:
        cells = [
            (row.bytes and row.bytes / 1e6, "6.1f"),
            (row.median_ms, "12.2f"),
            (row.p95_ms, "9.2f"),
            (row.accuracy, "11.3f"),
            (row.agreement and 100 * row.agreement, "10.1f"),
        ]
        text = "".join(f"{value or 0:{form}}" for value, form in cells)
        lines.append(f"{row.format:<15}{row.note}" if row.note else f"{row.format:<15}{text} %")
    what = f"{found.metric} on {found.images} {found.split} images; agreement: {found.unit} as with vpt predict"
    lines += ["", f"one image at a time on {found.threads} threads; {what}"]
    return "\n".join(lines)
