"""Experiment trackers: callbacks that copy settings, metrics, pictures and the artifact to MLflow or Weights & Biases.

Where they send them is up to the tracker's own variables, such as MLFLOW_TRACKING_URI, WANDB_MODE and WANDB_PROJECT. A
tracker that fails is switched off with a warning; training goes on.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vpt.training.callbacks import Callback
from vpt.training.run_folder import TrainResult
from vpt.utils import strict_json
from vpt.utils.atomic_io import write_json, write_text
from vpt.utils.distributed import is_first
from vpt.utils.errors import UserError

if TYPE_CHECKING:
    from vpt.training.trainer import Trainer

RUN_IDS = "trackers.json"  # in the run folder: a resumed run continues the same tracked run
LONGEST = 500  # characters of a parameter that MLflow accepts in all its stores


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings, with dotted names.

    >>> flat({"train": {"epochs": 3}, "lr": {"head": 0.1}})
    {'train.epochs': 3, 'lr.head': 0.1}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


class ResultsCsv(Callback):
    """Writes `results.csv` in the run folder: a row for every epoch, the same columns as in the log."""

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Write all epochs so far, so that the file of a resumed run is complete too."""
        if not is_first() or trainer.folder is None:
            return
        rows = [flat(each) for each in trainer.progress.history]
        columns = list(dict.fromkeys(name for each in rows for name in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(trainer.folder / "results.csv", text.getvalue())


class Tracker(Callback):
    """Base class of trackers. Subclasses implement `start`, `log`, `finish` and `stop`.

    Raises:
        UserError: the package of the tracker is not installed.
    """

    name: ClassVar[str]
    package: ClassVar[str]

    def __init__(self) -> None:
        self._running = False
        try:
            __import__(self.name)
        except ImportError:
            raise UserError(f"log={self.name} needs {self.package}: pip install {self.package}") from None

    def start(self, run_id: str | None, name: str, settings: Mapping[str, Any], folder: Path) -> str:
        """Start a tracked run, or continue that of `run_id`; returns its id."""
        raise NotImplementedError

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Log numbers of an epoch."""
        raise NotImplementedError

    def finish(self, numbers: Mapping[str, float], files: list[Path]) -> None:
        """Log final numbers, and upload files."""
        raise NotImplementedError

    def stop(self) -> None:
        """Close the connection."""

    def before_training(self, trainer: Trainer) -> None:
        """Start the tracked run, or continue that of the interrupted run."""
        if not is_first() or trainer.folder is None:
            return
        folder, settings = trainer.folder, trainer.context.config.model_dump(mode="json")
        known = _run_ids(folder)
        self._running = True
        found = self._try(trainer, lambda: self.start(known.get(self.name), folder.name, flat(settings), folder))
        if found is not None:
            write_json(folder / RUN_IDS, {**known, self.name: found})

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Log the row of an epoch."""
        numbers = {name: float(value) for name, value in flat(row).items() if isinstance(value, int | float)}
        self._try(trainer, lambda: self.log(numbers, row["epoch"]))

    def at_end(self, trainer: Trainer, result: TrainResult) -> None:
        """Log the final metrics, and upload pictures and the artifact."""
        numbers = {
            f"{split}.{name}": float(value)
            for split in ("val", "test")
            for name, value in result.metrics.get(split, {}).items()
            if isinstance(value, int | float)
        }
        files = [*sorted(result.folder.glob("*.png")), *sorted(result.folder.glob("*.jpg")), result.artifact]
        self._try(trainer, lambda: self.finish(numbers, files))

    def close(self) -> None:
        """Close the connection, also after an error."""
        if self._running:
            self._running = False
            try:
                self.stop()
            except Exception:  # the run is over, and so is what could be reported
                return

    def _try(self, trainer: Trainer, call: Any) -> Any:
        if not self._running:
            return None
        try:
            return call()
        except Exception as error:  # whatever a tracker raises must not end a training
            self._running = False
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            trainer.context.console.warn(f"log={self.name} failed and is switched off for this run: {reason}")
            return None


class Mlflow(Tracker):
    """Tracks runs in MLflow, in the experiment of MLFLOW_EXPERIMENT_NAME (default: vpt)."""

    name, package = "mlflow", "mlflow-skinny"

    def start(self, run_id: str | None, name: str, settings: Mapping[str, Any], folder: Path) -> str:
        """Start a tracked run, or continue one."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self._run = run_id
            return run_id
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", "vpt")
        experiment = self._client.get_experiment_by_name(wanted)
        where = experiment.experiment_id if experiment else self._client.create_experiment(wanted)
        self._run = str(self._client.create_run(where, run_name=name).info.run_id)
        for key, value in settings.items():
            self._client.log_param(self._run, key, str(value)[:LONGEST])
        return self._run

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Log numbers of an epoch."""
        for key, value in numbers.items():
            self._client.log_metric(self._run, key, value, step=epoch)

    def finish(self, numbers: Mapping[str, float], files: list[Path]) -> None:
        """Log final numbers, and upload files."""
        for key, value in numbers.items():
            self._client.log_metric(self._run, key, value)
        for file in files:
            self._client.log_artifact(self._run, str(file))
        self._client.set_terminated(self._run)


class Wandb(Tracker):
    """Tracks runs in Weights & Biases, in the project of WANDB_PROJECT (default: vpt)."""

    name, package = "wandb", "wandb"

    def start(self, run_id: str | None, name: str, settings: Mapping[str, Any], folder: Path) -> str:
        """Start a tracked run, or continue one."""
        import wandb

        project = os.environ.get("WANDB_PROJECT", "vpt")
        self._run = wandb.init(
            project=project, id=run_id, resume="allow", name=name, config=dict(settings), dir=str(folder)
        )
        return str(self._run.id)

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Log numbers of an epoch."""
        self._run.log(dict(numbers), step=epoch)

    def finish(self, numbers: Mapping[str, float], files: list[Path]) -> None:
        """Log final numbers, and upload files."""
        import wandb

        self._run.summary.update(dict(numbers))
        pictures = {file.stem: wandb.Image(str(file)) for file in files if file.suffix in (".png", ".jpg")}
        self._run.log(pictures)
        for file in files:
            if file.suffix == ".safetensors":
                self._run.save(str(file), base_path=str(file.parent), policy="now")

    def stop(self) -> None:
        """Close the connection."""
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {"mlflow": Mlflow, "wandb": Wandb}


def trackers(names: Sequence[str]) -> list[Tracker]:
    """The trackers of `log`; "csv" and "tensorboard" are written in every run and need none.

    Raises:
        UserError: the package of a tracker is not installed.
    """
    return [TRACKERS[name]() for name in names if name in TRACKERS]


def _run_ids(folder: Path) -> dict[str, str]:
    """Ids of the tracked runs that belong to a run folder, by tracker; ids that are none are left out."""
    try:
        found = strict_json.loads((folder / RUN_IDS).read_text(encoding="utf-8"), 10_000)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str) and value.isalnum()}
