"""`write_report`: reads the runs, gathers the sections, writes the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from vpt.data.dataset import LabelledData, Record
from vpt.metrics import bootstrap
from vpt.metrics.predictions import Answer, answers_of
from vpt.metrics.probabilities import probabilities
from vpt.metrics.significance import Gain, Paired
from vpt.models.trusted_settings import NOTHING, Named
from vpt.report import (
    attention,
    calibration,
    compare,
    compare_detection,
    confusion_matrix,
    cost,
    detection,
    embedding_map,
    learning_curves,
    summary,
)
from vpt.report import errors as mistakes
from vpt.report.embedding_map import Map, require_map
from vpt.report.html import Section, note, render
from vpt.report.image_encoding import png_uri
from vpt.report.model_outputs import Observed, Observer, sample
from vpt.report.run_data import Source, read_source
from vpt.report.same_images import refuse_other_pictures
from vpt.training.tasks import task_of
from vpt.utils.atomic_io import write_text
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.version import own_version

WHERE = {"path", "val", "test", "root"}  # settings of data that say where they lie


@dataclass(frozen=True)
class Wishes:
    """What a page should show, and where what it needs lies now."""

    images: int = 24
    split: str | None = None
    data: str | None = None
    named: Named = NOTHING
    device: str = "auto"
    model: bool = True
    map: Map = "tsne"


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
    """Write one HTML page, without anything outside of it, about a run or about several side by side.

    Args:
        runs: run folders, finished or not.
        output: the page; default: report.html in the folder of the run, or here for several.
        images: pictures of mistakes, of disagreements, or of boxes at most.
        split: test or val; default: test where it was measured.
        data: where the data lies now, if it moved.
        weights: the file of the backbone's weights, as of `vpt.load`.
        device: auto, cpu, cuda, cuda:1, mps; computes features and attention.
        model: False leaves out what needs the backbone: attention and features.
        map: tsne or umap, which lays features out in the plane.
        console: where is said what is being done.
        backbone: name of the backbone, as of `vpt.load`.

    Returns:
        Where the page is.

    Raises:
        UserError: no run there, or wishes that cannot be met. What only a part of the page lacks is said in that part.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if not folders:
        raise UserError("name a run folder, or several")
    if images < 0:
        raise UserError(f"images={images} must not be negative")
    if split not in (None, "test", "val"):
        raise UserError(f"split={split} does not exist; known: test, val")
    require_map(map)
    wishes = Wishes(images, split, data, Named(backbone, weights), device, model, map)
    sources = [read_source(folder, split, data) for folder in folders]
    console = console or Console()
    page = single(sources[0], wishes, console) if len(sources) == 1 else several(sources, wishes, console)
    target = Path(output) if output is not None else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    return write_text(target, page + "\n")


def single(source: Source, wishes: Wishes, console: Console) -> str:
    """The page of one run."""
    sections = [learning_curves.section(source.rows, source.metric, source.metrics.get("best_epoch"))]
    interval = None
    if source.config.task == "detection":
        data = _data_of_boxes(source)
        interval = _interval(source, data)
        sections += _boxes(source, data, wishes)
    else:
        sections += _classes(source, wishes, console)
    if (source.folder / "prompt.png").is_file():
        sections.append(_or_note("prompt", "Pixel prompt", lambda: _prompt(source)))
    sections.append(cost.section({source.name: (source.metrics, source.rows)}))
    sections.append(_settings({source.name: source}))
    title = f"{source.method} on {Path(source.config.data.path).name}"
    return _page(
        title,
        source.name,
        summary.headline(source, interval),
        summary.numbers(source),
        summary.facts(source),
        source.notes,
        sections,
    )


def several(sources: Sequence[Source], wishes: Wishes, console: Console) -> str:
    """The page of several runs."""
    if len({source.config.task for source in sources}) > 1:
        raise UserError("runs of classification and of detection do not compare; name those of one task")
    named = dict(zip(compare.unique_names(sources), sources, strict=True))
    charts = learning_curves.over_each_other({name: (source.rows, source.metric) for name, source in named.items()})
    answered = {name: source.answers for name, source in named.items() if source.answers}
    multilabel = any(source.multilabel for source in sources)
    if answered and not multilabel:
        charts.append(compare.calibration_chart(answered))
    sections = [compare.table_section(named), compare.chart_section(named, charts)]
    pairs: Sequence[tuple[str, str, Paired | Gain]] = ()
    try:
        _same_pictures(named)
        if sources[0].config.task == "detection":
            scored = _scored(named)
            pairs = scored.pairs
            sections.append(compare_detection.difference_section(scored))
        else:
            common = _in_common(answered)
            pairs = common.pairs
            sections += _differences(common, sources[0], multilabel, wishes)
    except UserError as error:
        sections.append(Section("differences", "Differences", note(f"Not shown: {error}")))
    sections.append(_or_note("classes", "Classes", lambda: compare.class_section(named)))
    sections.append(cost.section({name: (source.metrics, source.rows) for name, source in named.items()}))
    sections.append(_settings(named))
    notes = [f"{name}: {text}" for name, source in named.items() for text in source.notes]
    title = f"{len(sources)} runs compared"
    return _page(title, ", ".join(named), compare.lead(named, pairs), [], [], notes, sections)


def _same_pictures(named: Mapping[str, Source]) -> None:
    """Refuse runs that saw other pictures under the same names. Data that lie in one place are the same."""
    places = {name: source.config.data.model_dump_json(include=WHERE) for name, source in named.items()}
    if len(set(places.values())) == 1:
        return
    measured = {}
    for name in {place: name for name, place in places.items()}.values():
        data = _data(named[name])
        if isinstance(data, UserError):
            raise UserError(f"{name} names data of its own, which cannot be looked at: {data}")
        measured[name] = data
    refuse_other_pictures(measured, next(iter(named.values())).split)


def _in_common(answered: Mapping[str, Sequence[Answer]]) -> compare.Common:
    if len(answered) < 2:
        raise UserError("fewer than two of the runs have written their predictions")
    return compare.in_common(answered)


def _scored(named: Mapping[str, Source]) -> compare_detection.Scored:
    splits = {source.split for source in named.values() if source.boxes}
    if len(splits) > 1:
        raise UserError("the runs were not measured on the same split")
    known: dict[str, LabelledData | UserError] = {}  # runs that have the same data read it once
    found = {}
    for name, source in named.items():
        if source.boxes:
            key = source.config.data.model_dump_json()
            data = known[key] = known[key] if key in known else _data(source)
            if isinstance(data, UserError):
                raise data
            found[name] = (source.boxes, data)
    return compare_detection.scored(found, splits.pop() if splits else "test")


def _differences(common: compare.Common, source: Source, multilabel: bool, wishes: Wishes) -> list[Section]:
    data = _data(source)
    records = None if isinstance(data, UserError) else _by_name(data, source.split)
    return [
        compare.difference_section(common, multilabel),
        compare.disagreement_section(common, records, wishes.images, source.config.data.max_pixels),
    ]


def _classes(source: Source, wishes: Wishes, console: Console) -> list[Section]:
    """Sections of a classification run, as far as they can be had."""
    data = _data(source)
    records = None if isinstance(data, UserError) else _by_name(data, source.split)
    observer, observed = _observed(source, wishes, data, console)
    answers = source.answers
    if not answers and isinstance(observed, Observed):
        labels = _labels(observed.records, len(source.classes), source.multilabel)
        names = [record.name for record in observed.records]
        answers = answers_of(names, observed.logits, labels, source.classes)
    sections = []
    if source.measured or answers:
        given = (source.measured, answers, source.classes, source.multilabel)
        sections.append(_or_note("classes", "Classes", lambda: confusion_matrix.section(*given)))
    if answers:
        most = source.config.data.max_pixels
        sections.append(mistakes.section(answers, records, wishes.images, most, source.multilabel))
        if isinstance(data, UserError):
            sections[-1] = _with_note(sections[-1], f"The images are not shown: {data}")
        sections.append(_or_note("calibration", "Calibration", lambda: _calibration(source, answers, observed)))
    if isinstance(observer, Observer) and isinstance(observed, Observed):
        seen, looked = observer, observed
        sections.append(_or_note("attention", "Attention", lambda: _attention(source, seen, looked, answers)))
        sections.append(_or_note("features", "Features", lambda: _features(source, looked, wishes)))
    elif isinstance(observed, UserError):
        text = note(f"Attention and features are not shown: {observed}")
        sections.append(Section("model", "Attention and features", text))
    return sections


def _observed(
    source: Source, wishes: Wishes, data: LabelledData | UserError, console: Console
) -> tuple[Observer | None, Observed | UserError | None]:
    if not wishes.model:
        return None, None
    try:
        if isinstance(data, UserError):
            raise data
        if source.artifact is None:
            raise UserError("there is no artifact yet")
        observer = Observer(source, wishes.device, wishes.named)
        known = {name: number for number, name in enumerate(source.classes)}
        if any(name not in known for name in data.classes):
            raise UserError(f"the classes of {source.config.data.path} are not those of the run")
        return observer, observer.look(sample(data.split(source.split), embedding_map.MOST), console)
    except UserError as error:
        return None, error


def _calibration(source: Source, answers: Sequence[Answer], observed: Observed | UserError | None) -> Section:
    logits = observed.logits if isinstance(observed, Observed) else None
    nll = source.measured.get("loss")
    if source.multilabel:
        if logits is None or not isinstance(observed, Observed):
            raise UserError("scores of all labels are not written by runs; the model would tell them")
        truth = _labels(observed.records, len(source.classes), True) > 0.5
        chance = probabilities(logits.astype(np.float64), multilabel=True)
        said = chance > 0.5
        return calibration.section(np.where(said, chance, 1 - chance).ravel(), (said == truth).ravel(), "labels", nll)
    confidence = np.array([answer.score for answer in answers])
    right = np.array([answer.right for answer in answers])
    if logits is None or not isinstance(observed, Observed):
        return calibration.section(confidence, right, "answers", nll)
    labels = _labels(observed.records, len(source.classes), False)
    of = "" if len(labels) == len(answers) else f" (of {len(labels):,} images)"
    return calibration.section(confidence, right, "answers", nll, logits.astype(np.float64), labels, of)


def _attention(source: Source, observer: Observer, observed: Observed, answers: Sequence[Answer]) -> Section:
    by_name = {record.name: record for record in observed.records}
    here = [answer for answer in answers if answer.image in by_name]
    chosen = attention.examples(here, multilabel=source.multilabel)
    found = observer.attention([by_name[answer.image] for answer in chosen])
    if not found:
        raise UserError("no image to look at")
    return attention.section(found, answers)


def _features(source: Source, observed: Observed, wishes: Wishes) -> Section:
    labels = _labels(observed.records, len(source.classes), source.multilabel)
    if source.multilabel:
        wrong = ((observed.logits > 0) != (labels > 0.5)).any(1)
    else:
        wrong = observed.logits.argmax(1) != labels
    return embedding_map.section(observed.before, observed.after, labels, wrong, source.classes, wishes.map)


def _data_of_boxes(source: Source) -> LabelledData | UserError:
    """The data set of a detection run, which is read only if there are predictions to hold it against."""
    if not source.boxes:
        return UserError(f"{source.folder} holds no predictions-{source.split}.json; older runs did not write it")
    return _data(source)


def _interval(source: Source, data: LabelledData | UserError) -> tuple[float, float] | None:
    """Where the mAP of a detection run would lie on other images, if boxes and truth are there."""
    if isinstance(data, UserError) or not source.measured:
        return None
    try:
        return bootstrap.interval(source.boxes, data, source.split)
    except UserError:
        return None  # the pictures tell what is missing


def _boxes(source: Source, data: LabelledData | UserError, wishes: Wishes) -> list[Section]:
    """Sections of a detection run."""
    sections = [detection.numbers_section(source.measured)] if source.measured else []

    def pictures() -> Section:
        if isinstance(data, UserError):
            raise data
        records, most = _by_name(data, source.split), source.config.data.max_pixels
        return detection.pictures_section(source.boxes, records, source.classes, wishes.images, most)

    if source.boxes or source.measured:
        sections.append(_or_note("pictures", "Predictions beside truth", pictures))
    return sections


def _data(source: Source) -> LabelledData | UserError:
    """The data set of the run, or why it cannot be had."""
    try:
        return task_of(source.config).load(source.config)
    except UserError as error:
        return error


def _by_name(data: LabelledData, split: str) -> dict[str, Record]:
    return {record.name: record for record in data.split(split)}


def _labels(records: Sequence[Record], classes: int, multilabel: bool) -> np.ndarray:
    if not multilabel:
        return np.array([record.labels[0] for record in records])
    labels = np.zeros((len(records), classes))
    for row, record in enumerate(records):
        labels[row, list(record.labels)] = 1
    return labels


def _prompt(source: Source) -> Section:
    path = source.folder / "prompt.png"
    try:
        with Image.open(path, formats=["PNG"]) as file:
            pixels = np.asarray(file.convert("RGBA"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    sigmoid = getattr(source.config.prompt, "squash", None) == "sigmoid"
    body = render("prompt.html", uri=png_uri(pixels), side=pixels.shape[0], sigmoid=sigmoid)
    return Section("prompt", "Pixel prompt", body)


def _settings(named: Mapping[str, Source]) -> Section:
    texts = {
        name: (source.folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
        for name, source in named.items()
    }
    return Section("settings", "Settings", render("settings.html", texts=texts))


def _or_note(anchor: str, title: str, make: Callable[[], Section]) -> Section:
    """A section, or the line that says why it is not shown."""
    try:
        return make()
    except UserError as error:
        return Section(anchor, title, note(f"Not shown: {error}"))


def _with_note(section: Section, text: str) -> Section:
    return Section(section.anchor, section.title, section.body + note(text))


def _page(
    title: str,
    runs: str,
    headline: str,
    numbers: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    sections: Sequence[Section],
) -> str:
    # Ours alone: nothing of a user's gets into these two without being escaped.
    style, script = (
        Markup((files("vpt.report") / "templates" / n).read_text("utf-8")) for n in ("style.css", "sort.js")
    )
    return str(
        render(
            "page.html",
            title=title,
            runs=runs,
            headline=headline,
            numbers=numbers,
            facts=facts,
            notes=notes,
            sections=sections,
            style=style,
            script=script,
            version=own_version(),
        )
    )
