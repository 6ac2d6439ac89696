"""`compare=[...]`: the same run with other prompts, and the comparison of their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vpt.config import RunConfig, load_config
from vpt.metrics.comparison import comparison_png, method_name, say_comparison
from vpt.metrics.predictions import read_answers
from vpt.training.context import RunContext
from vpt.training.run_folder import TrainResult
from vpt.utils.distributed import is_first


def compared_configs(config: RunConfig) -> list[RunConfig]:
    """Configurations of the same run with each of the prompts in `compare`.

    >>> [other.prompt.kind for other in compared_configs(RunConfig(compare=["none", "shallow"]))]
    ['none', 'shallow']
    """
    tree = config.model_dump(mode="json")
    return [load_config(base=tree, overrides=[f"prompt.kind={kind}", "compare=[]"]) for kind in config.compare]


def with_config(context: RunContext, other: RunConfig) -> RunContext:
    """Context of a compared run: that of the main run, with the same training and data settings."""
    decided = {"train": context.config.train, "data": context.config.data}
    return replace(context, config=other.model_copy(update=decided))


def compare(context: RunContext, result: TrainResult, others: Sequence[TrainResult]) -> None:
    """Print and plot the comparison of a run with the others, if there are any."""
    if not others or not is_first():
        return
    results = [result, *others]
    say_comparison(context.console, [each.metrics for each in results])
    split = "test" if context.data.test else "val"
    files = {method_name(each.metrics): each.folder / f"predictions-{split}.csv" for each in results}
    if all(file.is_file() for file in files.values()):
        answers = {name: read_answers(file) for name, file in files.items()}
        path = result.folder / "comparison.png"
        comparison_png(answers, context.data.split(split), context.config.data.max_pixels, path)
        context.console.say(f"picture: {path}")
