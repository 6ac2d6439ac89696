"""Cost of a run: parameters, disk, time, memory, energy."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vpt.report.html import Column, Section, Table, count, duration, percent, render, size

NOT_MEASURED = "not measured"


def energy(joules: float | None) -> str:
    """Joules as watt-hours.

    >>> energy(7200.0), energy(None)
    ('2.00 Wh', 'not measured')
    """
    return NOT_MEASURED if joules is None else f"{joules / 3600:.2f} Wh"


def seconds_per_epoch(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Median training time of an epoch, without validation; None if no epoch has ended.

    >>> seconds_per_epoch([{"kind": "epoch", "seconds": 2.0}, {"kind": "epoch", "seconds": 4.0}])
    3.0
    """
    found = _seconds(rows)
    return statistics.median(found) if found else None


def _seconds(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["seconds"] for row in rows if row["kind"] == "epoch" and "seconds" in row]


def facts(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Names and values, in the order of the table; values that were not measured say so."""
    parameters = metrics.get("parameters")
    learning = NOT_MEASURED
    if parameters:
        share = percent(parameters["learning"] / max(1, parameters["total"]), 3)
        learning = f"{count(parameters['learning'])} of {count(parameters['total'])} ({share})"
    taken = metrics.get("seconds")
    if taken is None:
        spans = _seconds(rows)
        taken = sum(spans) if spans else None
    epoch = seconds_per_epoch(rows)
    peak = metrics.get("peak_bytes")
    return [
        ("trainable parameters", learning),
        ("artifact", size(metrics["artifact_bytes"]) if "artifact_bytes" in metrics else NOT_MEASURED),
        ("training and validation", duration(taken) if taken is not None else NOT_MEASURED),
        ("training time per epoch (median)", duration(epoch) if epoch is not None else NOT_MEASURED),
        ("peak memory during training", size(peak) if peak else NOT_MEASURED),
        ("GPU energy", energy(metrics.get("joules"))),
        ("device", metrics.get("device", "not recorded")),
        ("precision", metrics.get("precision", "not recorded")),
    ]


def section(named: Mapping[str, tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> Section:
    """Costs of one run, or of several side by side: name -> metrics and rows of the log."""
    columns = {name: facts(*found) for name, found in named.items()}
    labels = [label for label, _ in next(iter(columns.values()))]
    rows = [[label, *(found[at][1] for found in columns.values())] for at, label in enumerate(labels)]
    heads = [Column("", "text"), Column("", "text")]
    if len(named) > 1:
        heads[1:] = [Column(name, "text phrase") for name in named]
    cpu = not any(metrics.get("joules") for metrics, _ in named.values())
    text = "On a CPU, memory is that of the whole process including Python; on a GPU, the memory allocated by PyTorch."
    if cpu:
        text += " Energy is measured on GPUs only (NVML, package nvidia-ml-py)."
    return Section("cost", "Cost", render("cost.html", table=Table("training cost", heads, rows), text=text))
