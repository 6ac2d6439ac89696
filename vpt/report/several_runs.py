"""The page that compares several runs: their scores, and whether the differences are significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpt.data.dataset import LabelledData
from vpt.metrics.predictions import Answer
from vpt.metrics.significance import Gain, Paired
from vpt.report import compare, compare_detection, cost, learning_curves
from vpt.report.html import Section, note
from vpt.report.page import Options, by_name, data_of, or_note, page_of, settings_section
from vpt.report.run_data import Source
from vpt.report.same_images import refuse_other_pictures
from vpt.utils.errors import UserError

WHERE = {"path", "val", "test", "root"}  # data settings that are locations


def several(sources: Sequence[Source], options: Options) -> str:
    """The page of several runs."""
    if len({source.config.task for source in sources}) > 1:
        raise UserError("runs of classification and of detection cannot be compared; name runs of one task")
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
            sections += _differences(common, sources[0], multilabel, options)
    except UserError as error:
        sections.append(Section("differences", "Differences", note(f"Not shown: {error}")))
    sections.append(or_note("classes", "Classes", lambda: compare.class_section(named)))
    sections.append(cost.section({name: (source.metrics, source.rows) for name, source in named.items()}))
    sections.append(settings_section(named))
    notes = [f"{name}: {text}" for name, source in named.items() for text in source.notes]
    title = f"{len(sources)} runs compared"
    return page_of(title, ", ".join(named), compare.lead(named, pairs), [], [], notes, sections)


def _same_pictures(named: Mapping[str, Source]) -> None:
    """Refuse runs that were evaluated on different images of the same names. Data in the same place is the same."""
    places = {name: source.config.data.model_dump_json(include=WHERE) for name, source in named.items()}
    if len(set(places.values())) == 1:
        return
    measured = {}
    for name in {place: name for name, place in places.items()}.values():
        data = data_of(named[name])
        if isinstance(data, UserError):
            raise UserError(f"{name} uses other data, which cannot be compared: {data}")
        measured[name] = data
    refuse_other_pictures(measured, next(iter(named.values())).split)


def _in_common(answered: Mapping[str, Sequence[Answer]]) -> compare.Common:
    if len(answered) < 2:
        raise UserError("fewer than two of the runs have stored their predictions")
    return compare.in_common(answered)


def _scored(named: Mapping[str, Source]) -> compare_detection.Scored:
    splits = {source.split for source in named.values() if source.boxes}
    if len(splits) > 1:
        raise UserError("the runs were not evaluated on the same split")
    known: dict[str, LabelledData | UserError] = {}  # data that several runs share is read once
    found = {}
    for name, source in named.items():
        if source.boxes:
            key = source.config.data.model_dump_json()
            data = known[key] = known[key] if key in known else data_of(source)
            if isinstance(data, UserError):
                raise data
            found[name] = (source.boxes, data)
    return compare_detection.scored(found, splits.pop() if splits else "test")


def _differences(common: compare.Common, source: Source, multilabel: bool, options: Options) -> list[Section]:
    data = data_of(source)
    records = None if isinstance(data, UserError) else by_name(data, source.split)
    return [
        compare.difference_section(common, multilabel),
        compare.disagreement_section(common, records, options.images, source.config.data.max_pixels),
    ]
