"""Tables of our results next to published ones, from benchmark folders, as JSON and Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpt.config import RunConfig, load_config, read_yaml
from vpt.experiments.benchmarks.averages import GROUPS, Mean, means
from vpt.experiments.benchmarks.published import PIXELS, Published, backbone_of, depth_of, published
from vpt.experiments.benchmarks.suites import Suite, Task, suite_of
from vpt.experiments.protocols import harmonic
from vpt.metrics.metrics_file import read_metrics, read_protocol, read_split
from vpt.utils.atomic_io import read_json, write_json, write_text
from vpt.utils.errors import UserError

PLAIN, HARMONIC = "accuracy", "harmonic mean"


@dataclass(frozen=True)
class Score:
    """Percent over seeds: mean, spread (standard deviation; None for one seed), and number of seeds."""

    mean: float
    spread: float | None
    seeds: int

    @staticmethod
    def of(accuracies: Sequence[float]) -> Score:
        """From accuracies between 0 and 1.

        >>> Score.of([0.5, 0.7]).text()
        '60.0 ± 14.1'
        """
        percent = [100 * value for value in accuracies]
        spread = statistics.stdev(percent) if len(percent) > 1 else None
        return Score(statistics.mean(percent), spread, len(percent))

    def text(self) -> str:
        """Text of a table cell."""
        return f"{self.mean:.1f}" + (f" ± {self.spread:.1f}" if self.spread is not None else "")


@dataclass(frozen=True)
class Ours:
    """Content of a benchmark folder: scores by measure, then by task."""

    folder: Path
    suite: Suite
    config: RunConfig
    scores: dict[str, dict[str, Score]]

    def settings(self) -> list[RunConfig]:
        """Those of the tasks that have a score, each with what its cases and its search say."""
        names = {task for scores in self.scores.values() for task in scores}
        trained = [self.suite.source] if self.suite.source else sorted(names)
        return [self._settings(self.suite.tasks[name]) for name in trained] or [self.config]

    def _settings(self, task: Task) -> RunConfig:
        file = self.folder / task.name / "chosen.json"
        words = [*task.settings(Path("data")), *(_json(file) if file.is_file() else [])]
        if self.suite.protocol == "base-to-new":
            words.append("data.half=base")
        return load_config(base=self.config.model_dump(mode="json"), overrides=words)

    @property
    def method(self) -> str:
        """Its name at the head of a column: the folder's."""
        return self.folder.name


def collect(folder: Path) -> Ours:
    """Read a benchmark folder; unfinished results are missing.

    Raises:
        UserError: the folder is not a benchmark folder.

    >>> collect(Path("no/such/folder"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: no/such/folder is not a folder of vpt bench run; it has no bench.json
    """
    if not (folder / "bench.json").is_file():
        raise UserError(f"{folder} is not a folder of vpt bench run; it has no bench.json")
    bench = read_json(folder / "bench.json", "run the bench")
    if not isinstance(bench, dict) or not isinstance(bench.get("suite"), str):
        raise UserError(f"{folder / 'bench.json'} is damaged; give the command of the bench again")
    suite = suite_of(bench["suite"])
    config = load_config(base=read_yaml(folder / "settings.yaml"))
    scores: dict[str, dict[str, Score]] = {}
    for task, measure, score in _scores(suite, folder):
        scores.setdefault(measure, {})[task] = score
    return Ours(folder, suite, config, scores)


def _scores(suite: Suite, folder: Path) -> Iterator[tuple[str, str, Score]]:
    """Task, measure and score of all existing results."""
    if suite.source is not None:
        yield from _transferred(suite, folder / suite.source / "transfer.json")
        return
    for task in suite.tasks:
        for measure, score in _measured(suite, folder / task):
            yield task, measure, score


def _measured(suite: Suite, folder: Path) -> Iterator[tuple[str, Score]]:
    if suite.protocol == "chosen":
        runs = [read_metrics(file).get("test") for file in sorted(folder.glob("seed*/metrics.json"))]
        runs += [read_split(file) for file in sorted(folder.glob("seed*.json"))]  # results without training
        if scores := [run["accuracy"] for run in runs if run is not None and "accuracy" in run]:
            yield PLAIN, Score.of(scores)
        return
    file = folder / f"{suite.protocol}.json"
    if not file.is_file():
        return
    found = read_protocol(file)
    if suite.protocol == "few-shot":
        for row in found["rows"]:
            yield f"{row['shots']} shot{'s' if row['shots'] > 1 else ''}", Score.of(row["seeds"])
    else:
        yield "base", Score.of(found["base"]["seeds"])
        yield "new", Score.of(found["new"]["seeds"])
        yield HARMONIC, Score(100 * found["harmonic_mean"], None, len(found["base"]["seeds"]))


def _transferred(suite: Suite, file: Path) -> Iterator[tuple[str, str, Score]]:
    """Result of one training tested on all tasks, in one file."""
    if not file.is_file():
        return
    found = read_protocol(file)
    rows = {found["data"]: found["source"], **{row["data"]: row for row in found["rows"]}}
    for task in suite.tasks.values():
        if task.data in rows:
            yield task.name, PLAIN, Score.of(rows[task.data]["seeds"])


def _json(file: Path) -> Any:
    return read_json(file, "run the bench")


def build(folders: Sequence[Path], everything: bool = False) -> dict[str, Any]:
    """Table of benchmark folders of one suite, as plain data.

    Args:
        folders: folders, one per column.
        everything: show all published results of the suite; default: only those with the method of one of the folders,
            its backbone, pixels, pooling, depth and tokens. Results that differ in these are listed separately.

    Raises:
        UserError: a folder is not a benchmark folder, or the folders are of different suites.
    """
    runs = [collect(folder) for folder in folders]
    suite = runs[0].suite
    for run in runs:
        if run.suite.name != suite.name:
            raise UserError(
                f"{runs[0].folder} is of {suite.name}, {run.folder} of {run.suite.name}; use one suite per table"
            )
    known = published(suite.name)
    different = {} if everything else _different(known, runs)
    others = [entry for at, entry in enumerate(known) if everything or different.get(at) == []]
    measures = list(dict.fromkeys(measure for run in runs for measure in run.scores))
    rows = [row for measure in measures for row in _rows(suite, measure, runs, others)]
    return {
        "suite": suite.name,
        "title": suite.title,
        "runs": [_run(run) for run in runs],
        "published": [_entry(entry) for entry in others],
        "not_beside": [
            {"method": known[at].method, "backbone": known[at].backbone, "here": reasons}
            for at, reasons in different.items()
            if reasons
        ],
        "rows": rows,
    }


def _different(known: Sequence[Published], runs: Sequence[Ours]) -> dict[int, list[str]]:
    """Differences between each entry of a run's method, by index, and that run; of several runs, the closest."""
    found: dict[int, list[str]] = {}
    for run in runs:
        settings = run.settings()
        for at, entry in enumerate(known):
            if all(entry.is_method_of(config) for config in settings):
                reasons = list(dict.fromkeys(text for config in settings for text in entry.other_than(config)))
                found[at] = min(found.get(at, reasons), reasons, key=len)
    return found


def _run(run: Ours) -> dict[str, Any]:
    config = run.config
    return {
        "folder": str(run.folder),
        "method": run.method,
        "backbone": backbone_of(config),
        "pixels": config.backbone.normalise,
        "prompt": config.prompt.kind,
        "depth": None if config.prompt.kind in ("none", "pixel") else depth_of(config.prompt),
        "tokens": sorted({tokens for one in run.settings() if (tokens := getattr(one.prompt, "tokens", None))}),
        "pool": getattr(config.head, "pool", None),
        "tuning": config.tuning.kind,
        "head": config.head.kind,
        "seeds": sorted({score.seeds for scores in run.scores.values() for score in scores.values()}),
    }


def _entry(entry: Published) -> dict[str, Any]:
    return {
        "method": entry.method,
        "backbone": entry.backbone,
        "pixels": entry.pixels,
        "pool": entry.pool,
        "depth": entry.depth,
        "tokens": None if entry.tokens is None else list(entry.tokens),
        "source": entry.source.text(),
        "table": entry.table,
        "checked": list(entry.checked),
        "note": entry.note,
    }


def _rows(suite: Suite, measure: str, runs: Sequence[Ours], others: Sequence[Published]) -> Iterator[dict[str, Any]]:
    for task in suite.tasks:
        ours = [run.scores.get(measure, {}).get(task) for run in runs]
        if any(ours):
            cells = [None if score is None else vars(score) for score in ours]
            yield _row(task, measure, cells, [entry.number(task, measure) for entry in others], mean=False)
    found = [_means(run, measure) for run in runs]
    seen = {(mean.title, mean.tasks): mean for each in found for mean in each}
    for mean in seen.values():
        cells = [next(({"mean": one.value} for one in each if one == mean or _same(one, mean)), None) for each in found]
        yield _row(mean.title, measure, cells, [_published_mean(entry, mean, measure, suite) for entry in others], True)


def _row(name: str, measure: str, ours: list[Any], theirs: list[float | None], mean: bool) -> dict[str, Any]:
    return {"name": name, "measure": measure, "mean": mean, "ours": ours, "published": theirs}


def _same(one: Mean, other: Mean) -> bool:
    return (one.title, one.tasks) == (other.title, other.tasks)


def _means(run: Ours, measure: str) -> list[Mean]:
    """Means of one measure; the harmonic mean is computed from mean accuracies, as in the papers."""
    if measure == HARMONIC:
        pairs = zip(_means(run, "base"), _means(run, "new"), strict=True)
        return [base._replace(value=harmonic(base.value, new.value)) for base, new in pairs]
    return means(run.suite, {task: score.mean for task, score in run.scores.get(measure, {}).items()})


def _published_mean(entry: Published, mean: Mean, measure: str, suite: Suite) -> float | None:
    """Published mean for the same tasks: the stated mean, or the mean of the results of these tasks."""
    if mean.complete:
        stated = entry.number(mean.key, measure, mean=True)
        if stated is not None:
            return stated
    if mean.key == GROUPS:
        groups = [_published_mean(entry, _whole(suite, group), measure, suite) for group in suite.groups]
        return None if None in groups else statistics.mean(value for value in groups if value is not None)
    if measure == HARMONIC:
        base, new = (_published_mean(entry, mean, part, suite) for part in ("base", "new"))
        return None if base is None or new is None else harmonic(base, new)
    numbers = [entry.number(task, measure) for task in mean.tasks]
    return None if None in numbers else statistics.mean(value for value in numbers if value is not None)


def _whole(suite: Suite, group: str) -> Mean:
    """A complete group, without its value."""
    return Mean(group, group, 0.0, tuple(task.name for task in suite.tasks.values() if task.group == group), True)


def as_markdown(table: dict[str, Any]) -> str:
    """The table as Markdown, with a line for each source."""
    measured = any(row["measure"] != PLAIN for row in table["rows"])
    heads = ["task", *(["measure"] if measured else []), *(run["method"] for run in table["runs"])]
    heads += [f"{entry['method']} [{number}]" for number, entry in enumerate(table["published"], 1)]
    texts = 2 if measured else 1
    lines = [f"# {table['title']}", "", _line(heads), _line(["---"] * texts + ["---:"] * (len(heads) - texts))]
    for row in table["rows"]:
        name = f"**{row['name']}**" if row["mean"] else row["name"]
        ours = [_cell(cell, row["mean"]) for cell in row["ours"]]
        theirs = ["" if value is None else f"{value:.{2 if row['mean'] else 1}f}" for value in row["published"]]
        lines.append(_line([name, *([row["measure"]] if measured else []), *ours, *theirs]))
    lines += ["", "Test accuracy in percent, top-1; ± is the standard deviation over seeds.", ""]
    for run in table["runs"]:
        seeds = _counts(run["seeds"]) or "0"
        lines.append(
            f"- {run['method']}: ours; prompt {run['prompt']}, tuning {run['tuning']}, head {run['head']}, on "
            f"{run['backbone']}; {PIXELS[run['pixels']]}{_inside(run)}; seeds: {seeds}"
        )
    for number, entry in enumerate(table["published"], 1):
        note = f" ({entry['note']})" if entry["note"] else ""
        lines.append(
            f"- [{number}] {entry['method']}: {entry['source']}, {entry['table']}; {entry['backbone']}; "
            f"{PIXELS[entry['pixels']]}{_inside(entry)}{note}"
        )
    if not table["published"]:
        lines.append("- no published number is of one of these methods in its settings; --all shows those there are")
    for entry in table["not_beside"]:
        lines.append(f"- not compared: {entry['method']} on {entry['backbone']}; here: {', '.join(entry['here'])}")
    return "\n".join(lines) + "\n"


def _inside(one: dict[str, Any]) -> str:
    """Depth, tokens and pooling, as far as known."""
    tokens = f"{_counts(one['tokens'])} tokens" if one["tokens"] else ""
    prompts = ", ".join(part for part in (one["depth"], tokens) if part)
    pool = f"pooling {one['pool']}" if one["pool"] else ""
    return "".join(f"; {part}" for part in (prompts, pool) if part)


def _counts(numbers: Sequence[int]) -> str:
    return " or ".join(str(number) for number in numbers)


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _cell(cell: dict[str, Any] | None, mean: bool) -> str:
    if cell is None:
        return ""
    return f"{cell['mean']:.2f}" if mean else Score(**cell).text()


def write(folders: Sequence[Path], everything: bool = False) -> dict[str, Any]:
    """Build the table and write it as `table.md` and `table.json` into the first folder."""
    table = build(folders, everything)
    write_json(folders[0] / "table.json", table)
    write_text(folders[0] / "table.md", as_markdown(table))
    return table
