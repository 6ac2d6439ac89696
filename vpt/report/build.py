"""`write_report`: reads the runs, collects the sections, writes the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vpt.models.trusted_settings import Named
from vpt.report import cost, learning_curves, summary
from vpt.report.embedding_map import Map, require_map
from vpt.report.page import Options, or_note, page_of, prompt_section, settings_section
from vpt.report.run_data import Source, read_source
from vpt.report.several_runs import several
from vpt.report.tasks import report_of
from vpt.training.run_folder import data_name
from vpt.utils.atomic_io import write_text
from vpt.utils.console import Console
from vpt.utils.errors import UserError


def write_report(
    runs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    images: int = 24,
    split: str | None = None,
    data: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    model: bool = True,
    map: Map = "tsne",
    console: Console | None = None,
    backbone: str | None = None,
) -> Path:
    """Write a self-contained HTML page about one run, or a comparison of several.

    Args:
        runs: run folders, finished or not.
        output: the page to write; default: report.html in the run folder, or in the current folder for several runs.
        images: maximum number of images shown for mistakes, disagreements or boxes.
        split: test or val; default: test if it was evaluated.
        data: current location of the data, if it was moved.
        weights: file of the backbone's weights, as in `vpt.load`.
        device: auto, cpu, cuda, cuda:1, mps; computes features and attention.
        model: False leaves out attention and features, which need the backbone.
        map: tsne or umap, the projection of features to two dimensions.
        console: prints progress.
        backbone: name of the backbone, as in `vpt.load`.

    Returns:
        Path of the page.

    Raises:
        UserError: not a run folder, or invalid options. Problems of a single section are reported in that section.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if not folders:
        raise UserError("name one or more run folders")
    if images < 0:
        raise UserError(f"images={images} must not be negative")
    if split not in (None, "test", "val"):
        raise UserError(f"split={split} does not exist; choose test or val")
    require_map(map)
    options = Options(images, split, data, Named(backbone, weights), device, model, map)
    sources = [read_source(folder, split, data) for folder in folders]
    console = console or Console()
    page = single(sources[0], options, console) if len(sources) == 1 else several(sources, options)
    target = Path(output) if output is not None else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    return write_text(target, page + "\n")


def single(source: Source, options: Options, console: Console) -> str:
    """The page of one run."""
    sections = [learning_curves.section(source.rows, source.metric, source.metrics.get("best_epoch"))]
    sentence, found = report_of(source.config).page(source, options, console)
    sections += found
    if (source.folder / "prompt.png").is_file():
        sections.append(or_note("prompt", "Pixel prompt", lambda: prompt_section(source)))
    sections.append(cost.section({source.name: (source.metrics, source.rows)}))
    sections.append(settings_section({source.name: source}))
    title = f"{source.method} on {data_name(source.config.data.path)}"
    return page_of(
        title,
        source.name,
        sentence or summary.unfinished(source),
        summary.numbers(source),
        summary.facts(source),
        source.notes,
        sections,
    )
