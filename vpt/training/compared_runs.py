"""`compare=none,lora`: the same run with other methods, and the comparison of their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vpt.config import RunConfig, load_config
from vpt.config.prompts import PROMPTS
from vpt.metrics.comparison import comparison_png, method_name, say_comparison
from vpt.metrics.predictions import read_answers
from vpt.models.class_templates import with_own_templates
from vpt.training.batch_pictures import attempt
from vpt.training.context import RunContext
from vpt.training.run_folder import TrainResult
from vpt.utils.distributed import is_first
from vpt.utils.errors import UserError, nearest

TUNINGS = ("bias", "lora", "full")


def compared_configs(config: RunConfig) -> list[RunConfig]:
    """Configurations of the same run with each of the methods in `compare`.

    A method is a kind of prompt on the frozen backbone, or a tuning of the backbone without prompts.

    Raises:
        UserError: a method that does not exist, or does not go with the other settings.

    >>> others = compared_configs(RunConfig(compare=["none", "lora"]))
    >>> [(other.prompt.kind, other.tuning.kind) for other in others]
    [('none', 'frozen'), ('none', 'lora')]
    """
    tree = config.model_dump(mode="json")
    return [load_config(base=tree, overrides=[*_words(method), "compare=[]"]) for method in config.compare]


def _words(method: str) -> list[str]:
    """The settings of a method, as `key=value` words."""
    if method in TUNINGS:
        return ["prompt.kind=none", f"tuning.kind={method}"]
    known = [*PROMPTS.kinds(), *TUNINGS]
    if method not in known:
        raise UserError(f"compare={method} does not exist{nearest(method, known)}; known: {', '.join(known)}")
    return [f"prompt.kind={method}", "tuning.kind=frozen"]


def folder_name(config: RunConfig) -> str:
    """The name of the folder of a compared run.

    >>> folder_name(compared_configs(RunConfig(compare=["lora"]))[0])
    'compare-lora'
    """
    return f"compare-{config.prompt.kind if config.tuning.kind == 'frozen' else config.tuning.kind}"


def with_config(context: RunContext, other: RunConfig) -> RunContext:
    """Context of a compared run: that of the main run, with the same training and data settings."""
    decided = {"train": context.config.train, "data": context.config.data}
    return replace(context, config=with_own_templates(other.model_copy(update=decided)))


def compare(context: RunContext, result: TrainResult, others: Sequence[TrainResult]) -> None:
    """Print and plot the comparison of a run with the others, if there are any."""
    if not others or not is_first():
        return
    results = [result, *others]
    say_comparison(context.console, [each.metrics for each in results])
    split = "test" if context.data.test else "val"
    files = {method_name(each.metrics): each.folder / f"predictions-{split}.csv" for each in results}
    if context.config.task == "classification" and all(file.is_file() for file in files.values()):
        answers = {name: read_answers(file) for name, file in files.items()}
        path = result.folder / "comparison.png"
        records, most = context.data.split(split), context.config.data.max_pixels
        if attempt(context.console, path.name, lambda: comparison_png(answers, records, most, path)):
            context.console.say(f"picture: {path}")
