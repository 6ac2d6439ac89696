"""`write_report`: reads the runs, collects the sections, writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vpt.data.dataset import LabelledData
from vpt.metrics import bootstrap
from vpt.metrics.best_score import shown_score
from vpt.models.trusted_settings import Named
from vpt.report import cost, detection, learning_curves, summary
from vpt.report.classification import class_sections
from vpt.report.embedding_map import Map, require_map
from vpt.report.html import Section
from vpt.report.page import Options, by_name, data_of, or_note, page_of, prompt_section, settings_section
from vpt.report.run_data import Source, read_source
from vpt.report.several_runs import several
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
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
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
    interval = None
    if source.config.task == "detection":
        data = _data_of_boxes(source)
        interval = _interval(source, data)
        sections += _boxes(source, data, options)
    else:
        sections += class_sections(source, options, console)
    if (source.folder / "prompt.png").is_file():
        sections.append(or_note("prompt", "Pixel prompt", lambda: prompt_section(source)))
    sections.append(cost.section({source.name: (source.metrics, source.rows)}))
    sections.append(settings_section({source.name: source}))
    title = f"{source.method} on {data_name(source.config.data.path)}"
    return page_of(
        title,
        source.name,
        summary.headline(source, interval),
        summary.numbers(source),
        summary.facts(source),
        source.notes,
        sections,
    )


def _data_of_boxes(source: Source) -> LabelledData | UserError:
    """The data set of a detection run, read only if there are predictions to compare with it."""
    if not source.boxes:
        return UserError(f"{source.folder} has no predictions-{source.split}.json; older runs did not write it")
    return data_of(source)


def _interval(source: Source, data: LabelledData | UserError) -> tuple[float, float] | None:
    """Bootstrap interval of a detection run's mAP, if boxes and ground truth are available."""
    if isinstance(data, UserError) or not source.measured:
        return None
    try:
        return bootstrap.interval(source.boxes, data, source.split)
    except UserError:
        return None  # the section with the images says what is missing


def _boxes(source: Source, data: LabelledData | UserError, options: Options) -> list[Section]:
    """Sections of a detection run."""
    sections = [detection.numbers_section(source.measured)] if source.measured else []

    def pictures() -> Section:
        if isinstance(data, UserError):
            raise data
        records, most = by_name(data, source.split), source.config.data.max_pixels
        return detection.pictures_section(
            source.boxes, records, source.classes, options.images, most, shown_score(source.metrics)
        )

    if source.boxes or source.measured:
        sections.append(or_note("pictures", "Predictions and ground truth", pictures))
    return sections
