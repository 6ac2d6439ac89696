"""Content of a run folder, read without its data and backbone; missing parts are empty, with a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpt.config import RunConfig, load_config, read_yaml
from vpt.config.tasks import task_entry
from vpt.metrics.comparison import method_name
from vpt.metrics.metrics_file import read_metrics
from vpt.models.artifact import Artifact, read_artifact
from vpt.report.tasks import report_of
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows

LARGEST = 1e30  # of numbers shown in charts


@dataclass(frozen=True)
class Source:
    """The content of a run folder."""

    folder: Path
    config: RunConfig
    rows: Sequence[dict[str, Any]]  # of log.jsonl
    metrics: dict[str, Any]  # of metrics.json; empty until the run is finished
    split: str  # the split shown on the page
    predictions: Sequence[Any]  # of the split, as read by the task's report
    artifact: Artifact | None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.resolve().name

    @property
    def method(self) -> str:
        """Description of the trained method."""
        config = self.config
        return method_name({"prompt": config.prompt.kind, "tuning": config.tuning.kind, "head": config.head.kind})

    @property
    def measured(self) -> dict[str, Any]:
        """The metrics of the split; empty if there are none."""
        return self.metrics.get(self.split) or {}

    @property
    def metric(self) -> str:
        """The main metric of the split, such as accuracy or map."""
        metrics = task_entry(self.config.task).metrics
        if self.measured:
            return next((name for name in metrics if name in self.measured), metrics[0])
        named = [name for row in self.rows for name in metrics if f"val_{name}" in row]
        return named[-1] if named else metrics[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices; empty if they are not stored."""
        if self.artifact is not None:
            return self.artifact.classes
        if self.measured:
            return tuple(row["class"] for row in self.measured.get("per_class", ()))
        return tuple(report_of(self.config).class_names(self.predictions))

    @property
    def multilabel(self) -> bool:
        """Whether images have several labels."""
        return self.artifact.multilabel if self.artifact is not None else "exact_match" in self.measured


def read_source(folder: str | Path, split: str | None = None, data: str | None = None) -> Source:
    """Read a run folder.

    Args:
        folder: of the run, finished or not.
        split: test or val; default: test if it was evaluated.
        data: current location of the data, if it was moved.

    Raises:
        UserError: not a run folder, a split that was not evaluated, or settings that cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder; it has no config.yaml")
    config = load_config(base=read_yaml(folder / "config.yaml"))
    if data is not None:
        config = config.with_({"data.path": str(data)})
    notes: list[str] = []
    metrics = _metrics(folder / "metrics.json", notes)
    if not metrics:
        notes.append("this run is not finished or was interrupted: the page shows what is available")
    elif split is not None and not metrics.get(split):
        there = [name for name in ("test", "val") if metrics.get(name)]
        raise UserError(f"{folder} was not evaluated on {split}; choose --split {' or '.join(there) or 'val'}")
    split = split or ("test" if metrics.get("test") or not metrics.get("val") else "val")
    predictions = report_of(config).read_predictions(folder, split, notes)
    rows = [row for row in read_rows(folder) if row["kind"] in ("step", "epoch") and _fits_a_chart(row)]
    artifact = _artifact(folder, (metrics.get(split) or {}).get("per_class"), notes)
    return Source(folder, config, rows, metrics, split, predictions, artifact, tuple(notes))


def _fits_a_chart(row: Mapping[str, Any]) -> bool:
    """Whether the finite numbers of a row are small enough for the axes of a chart."""
    numbers = [value for key, value in row.items() if key not in ("kind", "lr")]
    return all(abs(value) < LARGEST for value in (*numbers, *row.get("lr", {}).values()))


def _artifact(folder: Path, measured: Any, notes: list[str]) -> Artifact | None:
    """The artifact of a run, unless it belongs to another run with other classes."""
    if not (folder / "artifact.safetensors").is_file():
        return None
    try:
        found = read_artifact(folder)
    except UserError as error:
        notes.append(str(error))
        return None
    if measured and {row["class"] for row in measured} != set(found.classes):
        notes.append(f"{found.path} has other classes than the metrics of this run; it is ignored")
        return None
    return found


def _metrics(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_metrics(path)
    except UserError as error:
        notes.append(str(error))
        return {}
