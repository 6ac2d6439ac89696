"""Sections of a classification run: classes, errors, calibration, attention and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from vpt.data.dataset import LabelledData
from vpt.metrics.predictions import Answer, answers_of, read_answers
from vpt.metrics.probabilities import probabilities
from vpt.metrics.significance import wilson
from vpt.report import attention, calibration, compare, confusion_matrix, embedding_map
from vpt.report import errors as mistakes
from vpt.report.html import Section, note, percent
from vpt.report.model_outputs import Observed, Observer, sample
from vpt.report.page import Options, by_name, data_of, labels_of, or_note, with_note
from vpt.report.run_data import Source
from vpt.report.summary import interval_text
from vpt.report.svg_charts import Chart
from vpt.report.tasks import SPLITS, Pairs, TaskReport
from vpt.utils.console import Console
from vpt.utils.errors import UserError


class ClassificationReport(TaskReport):
    """Sections of classification runs."""

    titles: ClassVar[Mapping[str, str]] = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "top5": "top-5 accuracy",
        "map": "mean average precision",
        "micro_f1": "micro F1",
        "exact_match": "all labels correct",
        "auroc": "AUROC",
        "average_precision": "average precision",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "sensitivity_at_specificity": "sensitivity at the required specificity",
        "specificity_at_sensitivity": "specificity at the required sensitivity",
        "unknown_rate": "answered: none of these",
        "quadratic_kappa": "quadratic kappa",
        "rank_error": "mean absolute error of ranks",
    }
    class_metric = ("f1", "F1")

    def read_predictions(self, folder: Path, split: str, notes: list[str]) -> Sequence[Answer]:
        """See TaskReport.read_predictions."""
        file = folder / f"predictions-{split}.csv"
        try:
            return read_answers(file) if file.is_file() else ()
        except UserError as error:
            notes.append(str(error))
            return ()

    def number(self, key: str, value: float) -> str:
        """See TaskReport.number."""
        return f"{value:.3f}" if key in ("quadratic_kappa", "rank_error") else super().number(key, value)

    def class_names(self, predictions: Sequence[Answer]) -> Sequence[str]:
        """See TaskReport.class_names."""
        return sorted({name for answer in predictions for name in (answer.true, answer.predicted)})

    def page(self, source: Source, options: Options, console: Console) -> tuple[str, list[Section]]:
        """See TaskReport.page."""
        data = data_of(source)
        records = None if isinstance(data, UserError) else by_name(data, source.split)
        observer, observed = _observed(source, options, data, console)
        answers = source.predictions
        if not answers and isinstance(observed, Observed):
            labels = labels_of(observed.records, len(source.classes), source.multilabel)
            names = [record.name for record in observed.records]
            answers = answers_of(names, observed.logits, labels, source.classes)
        sections = []
        if source.measured or answers:
            given = (source.measured, answers, source.classes, source.multilabel)
            sections.append(or_note("classes", "Classes", lambda: confusion_matrix.section(*given)))
        if answers:
            most = source.config.data.max_pixels
            sections.append(mistakes.section(answers, records, options.images, most, source.multilabel))
            if isinstance(data, UserError):
                sections[-1] = with_note(sections[-1], f"The images are not shown: {data}")
            sections.append(or_note("calibration", "Calibration", lambda: _calibration(source, answers, observed)))
        if isinstance(observer, Observer) and isinstance(observed, Observed):
            seen, looked = observer, observed
            sections.append(or_note("attention", "Attention", lambda: _attention(source, seen, looked, answers)))
            sections.append(or_note("features", "Features", lambda: _features(source, looked, options)))
        elif isinstance(observed, UserError):
            text = note(f"Attention and features are not shown: {observed}")
            sections.append(Section("model", "Attention and features", text))
        return self.sentence(source) if source.measured else "", sections

    def sentence(self, source: Source) -> str:
        """See TaskReport.sentence."""
        found, split, images = source.measured, SPLITS[source.split], source.measured["images"]
        if source.metric == "accuracy":
            right = round(found["accuracy"] * images)
            low, high = wilson(right, images)
            share = percent(found["accuracy"])
            return f"{right:,} of {images:,} {split} images are correct: {share}. {interval_text(low, high)}."
        return (
            f"Mean average precision is {percent(found['map'])} on {images:,} {split} images; all labels are correct "
            f"on {percent(found.get('exact_match'))} of them."
        )

    def charts(self, named: Mapping[str, Source]) -> list[Chart]:
        """See TaskReport.charts."""
        answered = {name: source.predictions for name, source in named.items() if source.predictions}
        several = any(source.multilabel for source in named.values())
        return [compare.calibration_chart(answered)] if answered and not several else []

    def differences(self, named: Mapping[str, Source], options: Options) -> tuple[Pairs, list[Section]]:
        """See TaskReport.differences."""
        answered = {name: source.predictions for name, source in named.items() if source.predictions}
        if len(answered) < 2:
            raise UserError("fewer than two of the runs have stored their predictions")
        common, source = compare.in_common(answered), next(iter(named.values()))
        data = data_of(source)
        records = None if isinstance(data, UserError) else by_name(data, source.split)
        return common.pairs, [
            compare.difference_section(common, any(each.multilabel for each in named.values())),
            compare.disagreement_section(common, records, options.images, source.config.data.max_pixels),
        ]


def _observed(
    source: Source, options: Options, data: LabelledData | UserError, console: Console
) -> tuple[Observer | None, Observed | UserError | None]:
    if not options.model:
        return None, None
    try:
        if isinstance(data, UserError):
            raise data
        if source.artifact is None:
            raise UserError("the run has no artifact yet")
        observer = Observer(source, options.device, options.named)
        known = {name: number for number, name in enumerate(source.classes)}
        if any(name not in known for name in data.classes):
            raise UserError(f"the classes of {source.config.data.path} differ from those of the run")
        return observer, observer.look(sample(data.split(source.split), embedding_map.MOST), console)
    except UserError as error:
        return None, error


def _calibration(source: Source, answers: Sequence[Answer], observed: Observed | UserError | None) -> Section:
    logits = observed.logits if isinstance(observed, Observed) else None
    nll = source.measured.get("loss")
    if source.multilabel:
        if logits is None or not isinstance(observed, Observed):
            raise UserError("runs do not store the scores of all labels, so calibration needs the model")
        truth = labels_of(observed.records, len(source.classes), True) > 0.5
        chance = probabilities(logits.astype(np.float64), multilabel=True)
        said = chance > 0.5
        return calibration.section(np.where(said, chance, 1 - chance).ravel(), (said == truth).ravel(), "labels", nll)
    confidence = np.array([answer.score for answer in answers])
    right = np.array([answer.right for answer in answers])
    if logits is None or not isinstance(observed, Observed):
        return calibration.section(confidence, right, "answers", nll)
    labels = labels_of(observed.records, len(source.classes), False)
    of = "" if len(labels) == len(answers) else f" (of {len(labels):,} images)"
    return calibration.section(confidence, right, "answers", nll, logits.astype(np.float64), labels, of)


def _attention(source: Source, observer: Observer, observed: Observed, answers: Sequence[Answer]) -> Section:
    by_name = {record.name: record for record in observed.records}
    here = [answer for answer in answers if answer.image in by_name]
    chosen = attention.examples(here, multilabel=source.multilabel)
    found = observer.attention([by_name[answer.image] for answer in chosen])
    if not found:
        raise UserError("no image could be read")
    return attention.section(found, answers)


def _features(source: Source, observed: Observed, options: Options) -> Section:
    labels = labels_of(observed.records, len(source.classes), source.multilabel)
    if source.multilabel:
        wrong = ((observed.logits > 0) != (labels > 0.5)).any(1)
    else:
        wrong = observed.logits.argmax(1) != labels
    return embedding_map.section(observed.before, observed.after, labels, wrong, source.classes, options.map)
