"""Tables of docs/gpu.md, from what benchmarks/gpu_session.py has measured; what it has not is called so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.gpu_measurements import BASE, LARGE, MEASUREMENTS
from benchmarks.results_files import RESULTS, read, rows
from benchmarks.speed.tables import ratio

NONE = "not measured"
Results = dict[str, Any]
Figure = Callable[[Results], str]


def session() -> Results:
    """The session's file; empty if there has been none."""
    file = RESULTS / "gpu" / "session.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def measurements() -> str:
    """What the session consists of, and what of it has been measured."""
    found = session()
    body = []
    for one in MEASUREMENTS:
        entry = found.get("results", {}).get(one.name)
        failure = found.get("failures", {}).get(one.name)
        state = NONE if entry is None else f"{entry['date'][:10]}, commit {entry['commit']}, {entry['seconds']:.0f} s"
        state += f" ({failure['reason']})" if failure and entry is None else ""
        body.append([f"`{one.name}`", one.what, "the rest" if one.takes_the_rest else f"{one.seconds:.0f} s", state])
    table = "\n".join(
        "| " + " | ".join(line) + " |" for line in [["name", "what", "expected", "state"], ["---"] * 4, *body]
    )
    where = f"{found['gpu']}, torch {found['torch']}" if found else f"On a GPU by this command: {NONE}"
    return f"{table}\n\n{where}."


def goals() -> str:
    """Goals, what the single measurements of earlier versions gave, and what the session has measured."""
    results = {name: entry["result"] for name, entry in session().get("results", {}).items()}
    before = earlier()
    body = [[what, goal, _shown(old, before) if old else "", _shown(new, results)] for what, goal, old, new in GOALS]
    machines = {found["machine"]["device"]: found["machine"]["torch"] for found in before.values()}
    places = " and ".join(f"{device}, torch {torch}" for device, torch in machines.items())
    found = session()
    now = f"{found['gpu']}, torch {found['torch']}" if found else NONE
    return f"{rows(['what', 'goal', 'earlier', 'now'], body)}\n\nEarlier: {places}. Now: {now}."


def earlier() -> Results:
    return {"steps": read("speed-cuda"), "vtab": read("vtab-sized-cuda")}


def _shown(figure: Figure, results: Results) -> str:
    """A figure; "not measured" if its measurement, or a variant in it, is missing."""
    try:
        return figure(results)
    except LookupError:
        return NONE


def _variants(found: Results, part: str, **case: Any) -> dict[str, Any]:
    """Variants of the first series of a case.

    Raises:
        LookupError: it was not measured.
    """
    for one in found["cases"]:
        if case.items() <= one.items():
            for series in one["series"]:
                if series[part]:
                    measured: dict[str, Any] = series[part]
                    return measured
    raise LookupError(case)


def _times(measurement: str, part: str, mine: str, other: str, **case: Any) -> Figure:
    """How many times as long `mine` takes as `other`."""

    def figure(results: Results) -> str:
        found = _variants(results[measurement], part, **case)
        return f"{ratio(found[mine], found[other]):.2f}x"

    return figure


def _of_matmul(measurement: str, **case: Any) -> Figure:
    """Operations of a training step per second, relative to a large matrix product."""

    def figure(results: Results) -> str:
        one = _variants(results[measurement], "training", **case)["vpt"]
        return (
            f"{one['operations'] / one['seconds'] / results[measurement]['matmul_per_second'][case['precision']]:.0%}"
        )

    return figure


def _run(what: str) -> Figure:
    def figure(results: Results) -> str:
        found = results["vtab"]
        outside = found["seconds_end_to_end"] - found["seconds_training"]
        return f"{found['seconds_end_to_end'] if what == 'all' else outside:.0f} s"

    return figure


def _bank(batch: str) -> Figure:
    return lambda results: f"{results['bank'][batch]['mixed_over_one_task']:.2f}x"


def _task(name: str) -> Figure:
    return lambda results: f"{ratio(results[name]['training']['deep'], results[name]['training']['head only']):.2f}x"


def _serve(results: Results) -> str:
    found = results["serve"]
    return f"{found['requests_per_second']:.0f} requests/s, p95 {found['latency_ms']['p95']:.0f} ms"


def _tests(results: Results) -> str:
    found = results["cuda-tests"]
    return f"{found['passed']} passed, {found['failed']} failed"


COMPILED = {"tokens": 50, "batch": 128, "precision": "bf16", "mode": "compiled"}
ONE = {"model": BASE, "tokens": 50, "batch": 1, "precision": "bf16", "mode": "graphs"}
MANY = {"model": BASE, "tokens": 200, "precision": "bf16", "mode": "graphs"}
GOALS: list[tuple[str, str, Figure | None, Figure]] = [
    ("CUDA tests", "all pass", None, _tests),
    ("run of the size of a VTAB-1k task, end to end", "30 s", _run("all"), _run("all")),
    ("of it outside training", "5 s", _run("outside"), _run("outside")),
    *(
        (
            f"training step, {name}, fraction of the matmul rate",
            goal,
            _of_matmul("steps", model=model, **COMPILED),
            _of_matmul("steps-compiled", model=model, **COMPILED),
        )
        for name, model, goal in (("ViT-B/16", BASE, "45%"), ("ViT-L/16", LARGE, "55%"))
    ),
    (
        "inference, 200 tokens, relative to the plain backbone",
        "1.03x",
        _times("steps", "inference", "vpt", "plain backbone", batch=128, **MANY),
        _times("steps-base", "inference", "vpt", "plain backbone", batch=64, **MANY),
    ),
    (
        "training step of concatenation, batch 1, relative to vpt",
        "over 1x",
        _times("steps", "training", "concatenation", "vpt", **ONE),
        _times("steps-base", "training", "concatenation", "vpt", **ONE),
    ),
    (
        "training step in KMnP's released form, fp32, batch 64, relative to vpt",
        "3x",
        None,
        _times("released", "training", "released form", "vpt", model=BASE, tokens=50, batch=64, precision="fp32"),
    ),
    (
        "prompts in the last quarter of the layers, the others cached, relative to prompts in all",
        "0.25x",
        None,
        _times("partial-depth", "training", "last quarter, cached", "vpt", model=BASE, tokens=50, batch=64),
    ),
    (
        "the same without a cache",
        "",
        None,
        _times("partial-depth", "training", "last quarter", "vpt", model=BASE, tokens=50, batch=64),
    ),
    ("training step of a detector, relative to its head alone", "", None, _task("detection")),
    ("training step of a segmenter, relative to its head alone", "", None, _task("segmentation")),
    (
        "training step of ViT-L/16 sharded in one process, relative to none",
        "",
        None,
        _times("sharded", "training", "sharded", "vpt", model=LARGE, tokens=50, batch=64),
    ),
    ("bank of 64 tasks, batch of 64, images/s relative to one task", "", None, _bank("64")),
    ("bank of 64 tasks, batch of 512, images/s relative to one task", "", None, _bank("512")),
    ("`vpt serve`, 8 tasks on ViT-B/16, 64 clients", "", None, _serve),
]


def outside() -> str:
    """Where a run spends its time, by sampling."""
    found = session().get("results", {}).get("vtab-outside")
    if found is None:
        return f"On a GPU: {NONE}."
    profile = found["result"]["profile"]
    parts = [("imports", profile["imports"]), *profile["packages"].items(), *profile["functions"].items()]
    names = {name: f"`import {name}`" for name in profile["packages"]}
    body = [[names.get(name, f"`{name}`"), f"{spent:.1f} s"] for name, spent in parts if spent >= 0.2]
    where = f"{session()['gpu']}, torch {session()['torch']}, {found['date'][:10]}"
    return f"{rows(['where', 'seconds, with what it calls'], body)}\n\n{profile['seconds']:.1f} s in all, {where}."
