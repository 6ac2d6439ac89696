"""Runs a suite: for each task a search on validation if a space is given, then the final runs, all in one folder.

    OUT/NAME/bench.json, settings.yaml       what is run
    OUT/NAME/TASK/search/                    a sweep, which reads no test image
    OUT/NAME/TASK/chosen.json                what it chose
    OUT/NAME/TASK/seed0/ ...                 final runs, ordinary run folders
    OUT/NAME/TASK/few-shot.json ...          results of a protocol of vpt/experiments/protocols.py

Finished results are only read, so the same command continues a benchmark that was stopped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vpt.config import RunConfig, load_config, parse_overrides, word
from vpt.experiments.benchmarks.check_data import check
from vpt.experiments.benchmarks.suites import Suite, Task
from vpt.experiments.protocols import SHOTS, base_to_new, few_shot, measured, transfer
from vpt.metrics.metrics_file import AGAIN, read_protocol
from vpt.training.run_folder import identity, refuse_other
from vpt.utils.atomic_io import read_json, write_json, write_text
from vpt.utils.console import Console
from vpt.utils.errors import UserError, WriteError
from vpt.utils.folder_lock import LOCK_OF_BENCH, lock_folder

if TYPE_CHECKING:
    from vpt.experiments.sweep.search_space import SpaceFile

NEW_SHOTS = 16  # shots of base-to-new and transfer


@dataclass(frozen=True)
class Bench:
    """Plan of a benchmark run.

    Args:
        suite: the suite.
        root: folder of its data.
        config: settings of every run, as `settings_of` makes them.
        tasks: tasks of the suite; missing ones are skipped.
        seeds: seeds of the final runs.
        space: search space on validation, for each task; None for no search.
        shots: numbers of shots of few-shot.
    """

    suite: Suite
    root: Path
    config: RunConfig
    tasks: Sequence[Task]
    seeds: Sequence[int]
    space: SpaceFile | None = None
    shots: Sequence[int] = SHOTS

    @property
    def folder(self) -> Path:
        """Output folder."""
        tuning = "" if self.config.tuning.kind == "frozen" else f"-{self.config.tuning.kind}"
        return self.config.out / (self.config.name or f"{self.suite.name}-{self.config.prompt.kind}{tuning}")


def settings_of(
    suite: Suite, file: str | None = None, words: Sequence[str] = (), space: SpaceFile | None = None
) -> RunConfig:
    """Settings of the runs of a suite: the suite's own, overridden by the config file, the space, and the words.

    Raises:
        UserError: a setting is invalid, or names other data than the suite's.

    >>> from vpt.experiments.benchmarks.suites import SUITES
    >>> settings_of(SUITES["vtab"], words=["prompt=shallow"]).data.resize
    'squash'
    """
    config = load_config(
        file, [*(space.words if space else ()), *words], base=parse_overrides([*suite.words, "data.path=digits"])
    )
    if config.data.path != "digits":
        raise UserError(f"the benchmark defines the data; leave out data.path={config.data.path}")
    return config


def run(bench: Bench, console: Console | None = None) -> Path:
    """Run everything that is not finished yet; returns the folder.

    Raises:
        UserError: no task has data, a list is broken, or the folder belongs to another benchmark, before anything is
            trained; tasks failed, after the others have finished.
    """
    console = console or Console()
    described = _same(bench)
    present = _usable(bench, console)
    failed = []
    trained = [task for task in present if bench.suite.source in (None, task.name)]
    with contextlib.ExitStack() as holding:
        for task in trained:  # so that processes with other tasks can run in the same folder
            holding.enter_context(lock_folder(bench.folder / task.name, LOCK_OF_BENCH))
        _write_down(bench, described)
        for number, task in enumerate(trained, 1):
            console.say(f"{bench.suite.name} {number} of {len(trained)}: {task.name}")
            try:
                _task(bench, task, present, console)
            except WriteError as error:
                raise WriteError(f"{error}; then {AGAIN} to continue") from error
            except UserError as error:
                console.warn(f"{task.name} failed: {error}")
                failed.append(task.name)
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; see the messages above; the other tasks are finished")
    return bench.folder


def _usable(bench: Bench, console: Console) -> list[Task]:
    reports = {report.task: report for report in check(bench.suite, bench.root, bench.tasks)}
    broken = [f"{report.task}: {report.broken}" for report in reports.values() if report.broken]
    if broken:
        raise UserError("\n".join(["these tasks cannot be read; fix them, or exclude them with --tasks:", *broken]))
    missing = [report.task for report in reports.values() if report.missing]
    if missing:
        console.say(f"skipped, not below {bench.root}: {', '.join(missing)}; available from {bench.suite.had}")
    for report in reports.values():
        for line in report.odd:
            console.warn(f"{report.task}: {line}")
    present = [task for task in bench.tasks if not reports[task.name].missing]
    if not present:
        raise UserError(f"none of these tasks was found below {bench.root}; specify --root, and see: vpt bench list")
    source = bench.suite.source
    if source is not None and source not in (task.name for task in present):
        raise UserError(f"{bench.suite.name} trains on {source}, which was not found below {bench.root}")
    if source is not None and len(present) == 1:
        raise UserError(
            f"besides {source} none of these tasks was found below {bench.root}; there is nothing to transfer to"
        )
    return present


def _same(bench: Bench) -> dict[str, Any]:
    """Identity of the benchmark for bench.json; a folder of something else is refused."""
    described = {"suite": bench.suite.name, "settings": _settings(bench.config), "space": _searched(bench)}
    mine: dict[str, Any] = json.loads(json.dumps(described))
    refuse_other(bench.folder / "bench.json", mine)
    return mine


def _write_down(bench: Bench, described: dict[str, Any]) -> None:
    write_json(bench.folder / "bench.json", described)
    if not (bench.folder / "settings.yaml").is_file():
        text = yaml.safe_dump(bench.config.model_dump(mode="json"), sort_keys=False)
        write_text(bench.folder / "settings.yaml", text)


def _settings(config: RunConfig) -> dict[str, Any]:
    """Settings that results depend on, without data and seed, which the benchmark defines."""
    tree = identity(config)
    del tree["data"]["path"], tree["train"]["seed"]
    return tree


def _searched(bench: Bench) -> Any:
    if bench.space is None:
        return None
    return {"axes": {key: repr(axis) for key, axis in bench.space.axes.items()}, "final": bench.space.final}


def _task(bench: Bench, task: Task, present: Sequence[Task], console: Console) -> None:
    words = [*task.settings(bench.root), word("out", bench.folder), word("name", task.name)]
    config = load_config(base=bench.config.model_dump(mode="json"), overrides=words)
    folder = bench.folder / task.name
    if bench.suite.protocol == "few-shot":
        if not _has(folder / "few-shot.json", bench):
            few_shot(config, bench.shots, bench.seeds, console)
    elif bench.suite.protocol == "base-to-new":
        if not _has(folder / "base-to-new.json", bench):
            base_to_new(config, NEW_SHOTS, bench.seeds, console)
    elif bench.suite.protocol == "transfer":
        targets = [other.data for other in present if other is not task]
        if not _has(folder / "transfer.json", bench, targets):
            transfer(config, targets, NEW_SHOTS, bench.seeds, console)
    else:
        chosen = _chosen(bench, task, folder, console)
        final = [*bench.suite.final, *(bench.space.final if bench.space else [])]
        for seed in bench.seeds:
            measured(config, f"seed{seed}", [*chosen, *final, f"train.seed={seed}"], console)


def _has(file: Path, bench: Bench, targets: Sequence[str] = ()) -> bool:
    """Whether the result of a protocol exists for the requested seeds, shots and targets."""
    if not file.is_file():
        return False
    found = read_protocol(file)
    if found["protocol"] == "few-shot" and [row["shots"] for row in found["rows"]] != list(bench.shots):
        return False
    if found["protocol"] == "transfer" and [row["data"] for row in found["rows"]] != list(targets):
        return False
    counts = {len(row["seeds"]) for row in found.get("rows", [found.get("base")])}
    return counts == {len(bench.seeds)}


def _chosen(bench: Bench, task: Task, folder: Path, console: Console) -> list[str]:
    if bench.space is None:
        return []
    file = folder / "chosen.json"
    if not file.is_file():
        from vpt.experiments.sweep.search_space import TRIALS
        from vpt.experiments.sweep.study import Sweep, search

        words = [*task.settings(bench.root), word("out", folder), "name=search", "data.hold_test=true", "compare=[]"]
        space = bench.space
        plan = Sweep(
            words,
            space.axes,
            str(bench.folder / "settings.yaml"),
            trials=space.trials or TRIALS,
            grid=space.grid,
            prune=not space.grid,
        )
        write_json(file, search(plan, console).words)
    found = read_json(file, AGAIN, f"remove it, and {AGAIN}")
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UserError(f"{file} is damaged; remove it, and {AGAIN}")
    return found
