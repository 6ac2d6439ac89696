"""The page that compares several runs: their scores, and whether the differences are significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpt.report import compare, cost, learning_curves
from vpt.report.html import Section, note
from vpt.report.page import Options, data_of, or_note, page_of, settings_section
from vpt.report.run_data import Source
from vpt.report.same_images import refuse_other_pictures
from vpt.report.tasks import Pairs, report_of
from vpt.utils.errors import UserError

WHERE = {"path", "val", "test", "root"}  # data settings that are locations


def several(sources: Sequence[Source], options: Options) -> str:
    """The page of several runs."""
    if len(tasks := {source.config.task for source in sources}) > 1:
        raise UserError(f"runs of {' and of '.join(sorted(tasks))} cannot be compared; name runs of one task")
    report = report_of(sources[0].config)
    named = dict(zip(compare.unique_names(sources), sources, strict=True))
    charts = learning_curves.over_each_other({name: (source.rows, source.metric) for name, source in named.items()})
    sections = [compare.table_section(named), compare.chart_section([*charts, *report.charts(named)])]
    pairs: Pairs = ()
    try:
        _same_pictures(named)
        pairs, found = report.differences(named, options)
        sections += found
    except UserError as error:
        sections.append(Section("differences", "Differences", note(f"Not shown: {error}")))
    sections.append(or_note("classes", "Classes", lambda: compare.class_section(named, *report.class_metric)))
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
