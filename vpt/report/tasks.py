"""Parts of a report that depend on the task of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vpt.config import RunConfig
from vpt.config.tasks import task_entry
from vpt.metrics.significance import Gain, Paired
from vpt.report.html import Section, percent
from vpt.report.svg_charts import Chart
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.plugins import imported

if TYPE_CHECKING:
    from vpt.report.page import Options
    from vpt.report.run_data import Source

SPLITS = {"test": "test", "val": "validation"}
Pairs = Sequence[tuple[str, str, Paired | Gain]]  # two runs, and the difference of the second from the first


class TaskReport:
    """Base class: a report without sections of a task. The default main result is the main metric."""

    titles: ClassVar[Mapping[str, str]] = {}  # of the metrics under the headline
    class_metric: ClassVar[tuple[str, str]] = ("", "")  # key and title of the metric of each class

    def read_predictions(self, folder: Path, split: str, notes: list[str]) -> Sequence[Any]:
        """The predictions stored in a run folder; problems are added to `notes`."""
        return ()

    def class_names(self, predictions: Sequence[Any]) -> Sequence[str]:
        """Names of classes in predictions, for a run without artifact and metrics."""
        return ()

    def page(self, source: Source, options: Options, console: Console) -> tuple[str, list[Section]]:
        """The main result of a finished run in a sentence or two, and sections, as far as they are available."""
        return self.sentence(source) if source.measured else "", []

    def sentence(self, source: Source) -> str:
        """The main result of a finished run."""
        found, name = source.measured, source.metric
        text = f"{self.titles.get(name, name)} is {percent(found[name])} on {found['images']:,} {SPLITS[source.split]}"
        return f"{text[0].upper()}{text[1:]} images."

    def number(self, key: str, value: float) -> str:
        """A metric of `titles`; default: in percent."""
        return percent(value)

    def charts(self, named: Mapping[str, Source]) -> list[Chart]:
        """Charts of several runs besides their learning curves."""
        return []

    def differences(self, named: Mapping[str, Source], options: Options) -> tuple[Pairs, list[Section]]:
        """Comparison of runs on the same images.

        Raises:
            UserError: they cannot be compared.
        """
        raise UserError("runs of this task are not compared image by image")


def report_of(config: RunConfig) -> TaskReport:
    """The report of a configuration's task.

    >>> type(report_of(RunConfig())).__name__
    'ClassificationReport'
    """
    report: TaskReport = imported(task_entry(config.task).report)()
    return report
