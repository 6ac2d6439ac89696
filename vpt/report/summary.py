"""The head of the page: settings of the run, and its main results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpt.config import RunConfig
from vpt.config.tasks import ranking
from vpt.metrics.significance import wilson
from vpt.report.html import count, main_score, percent
from vpt.report.learning_curves import label_of, roles_of
from vpt.report.run_data import Source
from vpt.report.tasks import report_of

SIZES = ("tokens", "layers", "size", "shape", "depth", "text_tokens", "kv_tokens", "rank")  # defaults are shown too


def settings_in_words(section: Any) -> str:
    """A prompt, head or tuning: its kind, its sizes, and settings that differ from the defaults.

    >>> from vpt.config import DeepPrompt
    >>> settings_in_words(DeepPrompt(tokens=5, dropout=0.1))
    'deep (tokens 5, layers all, dropout 0.1)'
    """
    plain = {name: info.get_default(call_default_factory=True) for name, info in type(section).model_fields.items()}
    shown = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in section.model_dump(mode="json").items()
        if name != "kind" and (name in SIZES or value != plain[name]) and value is not None
    ]
    order = sorted(shown, key=lambda text: not text.startswith(tuple(name.replace("_", " ") for name in SIZES)))
    order.sort(key=lambda text: not text.startswith("tokens"))
    return section.kind + (f" ({', '.join(order)})" if order else "")


def facts(source: Source) -> list[tuple[str, str]]:
    """Settings of the run: names and values."""
    config: RunConfig = source.config
    backbone = config.backbone.name
    if config.backbone.weights is not None:
        backbone += f", weights {config.backbone.weights}"
    elif not config.backbone.pretrained:
        backbone += f", random weights (seed {config.backbone.seed})"
    if config.backbone.image_size is not None:
        backbone += f", at {config.backbone.image_size} px"
    data = config.data.path + (f": {source.metrics['data']}" if "data" in source.metrics else "")
    if config.data.shots is not None:
        data += f" ({config.data.shots} shots)"
    optimizer = config.train.optimizer
    rates = {role: rate for role, rate in optimizer.lr.model_dump().items() if role in roles_of(source.rows)}
    learning_rates = ", ".join(f"{role} {rate:g}" for role, rate in rates.items())
    batch = f"{config.train.batch_size} images, {optimizer.kind}"
    epochs = count(source.metrics.get("epochs", _epochs_logged(source.rows)))
    epochs += f" of {config.train.epochs}" if config.train.epochs else ""
    if source.metrics.get("best_epoch") == 0 and config.train.keep == "best" and config.train.average is None:
        epochs += "; kept: the linear probe, as no epoch was better on validation"
    elif source.metrics.get("best_epoch") is not None:
        best, average = source.metrics["best_epoch"], config.train.average is not None
        if config.train.keep == "best" and not average:
            epochs += f"; kept: {best}, the best on validation"
        else:
            kept = "a mean over epochs" if average else "the last"
            epochs += f"; kept: {kept} (the best on validation was {best})"
    return [
        ("backbone", backbone),
        ("prompt", settings_in_words(config.prompt)),
        ("tuning", settings_in_words(config.tuning)),
        ("head", settings_in_words(config.head)),
        ("data", data),
        ("epochs", epochs),
        ("batch and learning rate", batch + (f" ({learning_rates})" if learning_rates else "")),
        ("augmentation", config.data.augment),
        ("seed", f"{config.train.seed} (data split: {config.data.split_seed})"),
    ]


def unfinished(source: Source) -> str:
    """The progress of a run that is not finished."""
    done = _epochs_logged(source.rows)
    of = f" of {source.config.train.epochs}" if source.config.train.epochs else ""
    last = next((row for row in reversed(source.rows) if f"val_{source.metric}" in row), None)
    so_far = (
        f" Validation {label_of(source.metric)} is {main_score(source.metric, last[f'val_{source.metric}'])} so far."
        if last
        else ""
    )
    return f"Not finished: {done}{of} epochs completed.{so_far}"


def interval_text(low: float, high: float) -> str:
    """A confidence interval in words.

    >>> interval_text(0.25, 0.5)
    '95% confidence interval: 25.0–50.0%'
    """
    return f"95% confidence interval: {percent(low).removesuffix('%')}\u2013{percent(high)}"


def numbers(source: Source) -> list[tuple[str, str]]:
    """The metrics under the headline, with bootstrap intervals where they were measured."""
    found, report = source.measured, report_of(source.config)
    limits = found.get("intervals", {})
    between = {
        key: f" ({report.number(key, low)} to {report.number(key, high)})"
        for key, (low, high) in limits.items()
        if key in report.titles
    }
    return [
        (name, report.number(key, found[key]) + between.get(key, ""))
        for key, name in report.titles.items()
        if key in found
    ]


def score_with_interval(found: Mapping[str, Any]) -> str:
    """Accuracy with its 95% interval, or another main metric, for a table.

    >>> score_with_interval({"accuracy": 0.5, "images": 10})
    '50.0% (23.7% to 76.3%)'
    """
    if "accuracy" in found:
        low, high = wilson(round(found["accuracy"] * found["images"]), found["images"])
        return f"{percent(found['accuracy'])} ({percent(low)} to {percent(high)})"
    return main_score(ranking(found), found.get(ranking(found)))


def _epochs_logged(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row["kind"] == "epoch" for row in rows)
