"""Running a configuration in a run folder: new runs, resumed runs, and finished runs that are only read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpt.config import RunConfig, full_words, given_keys, load_config, read_yaml
from vpt.models.header import CHECKPOINT
from vpt.training.callbacks import Callback
from vpt.training.change_epochs import CHANGEABLE
from vpt.training.compared_runs import compare, compared_configs, folder_name, with_config
from vpt.training.context import RunContext, prepare
from vpt.training.run_folder import (
    TrainResult,
    claim,
    finished,
    refuse_taken,
    remove_leftovers,
    upgraded,
    with_recorded_batch_size,
)
from vpt.training.tasks import task_of
from vpt.training.trainer import Trainer, build_model
from vpt.utils.console import Console
from vpt.utils.distributed import broadcast, first_goes_ahead, is_first, joined
from vpt.utils.errors import UserError, WriteError
from vpt.utils.folder_lock import lock_folder

Prepare = Callable[[RunConfig, Console], RunContext]


def train(
    config: RunConfig | None = None,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> TrainResult:
    """Train what `config` describes into a new run folder, then the prompts it is to be compared with.

    Args:
        config: the run; default: made from `settings` alone.
        console: where it prints; default: stderr.
        callbacks: called after those that every run has; not for the compared prompts.
        settings: by full or short names, as in `vpt.train(data="flowers", epochs=3)`; they change `config`.

    Raises:
        UserError: a mistake in configuration, data or backbone, before training starts; a loss that diverges.
    """
    if not isinstance(config, RunConfig | None):
        raise UserError(
            "give settings by name, as in vpt.train(data='photos', epochs=3), or a RunConfig of load_config"
        )
    config = load_config(**settings) if config is None else config.with_(settings) if settings else config
    with joined():
        console = console or Console(quiet=not is_first())
        if is_first():
            refuse_taken(config)
        others = compared_configs(config)
        with first_goes_ahead():
            context = prepare_run(config, console)
        for other in others:
            build_model(with_config(context, other))  # reports a mistake now, not after the first training
        trainer = Trainer(context, callbacks=callbacks)
        folder = Path(broadcast(str(claim(context.config)) if is_first() else ""))
        with lock_folder(folder) as locked, _resumable(folder):
            result = trainer.fit(locked)
            return _with_compared(result, context, others)


def resume(run: str | Path, overrides: Sequence[str] = (), console: Console | None = None) -> TrainResult:
    """Resume an interrupted run; on a CPU the result is bit for bit that of an uninterrupted run.

    With `train.epochs=N` among the overrides a run, finished or not, is shortened or extended; see change_epochs.py.

    Raises:
        UserError: there is no run, another process is training it, its checkpoint is damaged, or settings, data or
            backbone have changed since.
    """
    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder; it has no config.yaml")
    if (folder / "metrics.json").exists() and not (folder / CHECKPOINT).is_file():
        raise UserError(f"{folder} is finished and has no checkpoint to resume from")
    base = upgraded(read_yaml(folder / "config.yaml"))
    config = load_config(base=base, overrides=overrides)
    new_epochs = CHANGEABLE in given_keys(full_words(overrides, base))
    with _resumable(folder):
        return _go_on(config, folder, console, new_epochs=new_epochs)


def train_or_resume(
    config: RunConfig,
    folder: Path,
    console: Console | None = None,
    prepare: Prepare | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Result of a run, which is read if finished, resumed if stopped, and trained otherwise.

    Args:
        config: the run.
        folder: folder of the run.
        console: console for messages.
        prepare: creates its context; default: `prepare_run`.
        callbacks: called after the default callbacks.

    Raises:
        UserError: as `train` and `resume` do.
    """
    done = finished(folder)
    return _go_on(config, folder, console, prepare, callbacks) if done is None else done


def _go_on(
    config: RunConfig,
    folder: Path,
    console: Console | None,
    prepare: Prepare | None = None,
    callbacks: Sequence[Callback] = (),
    new_epochs: bool = False,
) -> TrainResult:
    """Train in a folder, from its checkpoint if there is one."""
    config = with_recorded_batch_size(config, folder)
    others = compared_configs(config)
    with lock_folder(folder) as locked, joined():
        if is_first():
            remove_leftovers(folder)
        console = console or Console(quiet=not is_first())
        with first_goes_ahead():
            context = (prepare or prepare_run)(config, console)
        result = Trainer(context, folder, callbacks, new_epochs).fit(locked)
        return _with_compared(result, context, others, new_epochs)


def _with_compared(
    result: TrainResult, context: RunContext, others: Sequence[RunConfig], new_epochs: bool = False
) -> TrainResult:
    """Train the prompts that a run is compared with in subfolders of its folder; returns the run."""
    results = []
    for config in others:
        other = with_config(context, config)
        folder = result.folder / folder_name(config)
        done = None if new_epochs else finished(folder)
        results.append(
            done or _go_on(other.config, folder, context.console, lambda *_, made=other: made, (), new_epochs)
        )
    compare(context, result, results)
    return result


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Add the command that resumes the run to errors of writing and to interruptions."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.resume = f"vpt train resume={shlex.quote(str(folder))}"  # type: ignore[attr-defined]
        raise
    except WriteError as error:
        raise WriteError(f"{error}; then resume with: vpt train resume={shlex.quote(str(folder))}") from error


def prepare_run(config: RunConfig, console: Console) -> RunContext:
    """Read the data of a run and choose device and precision.

    Raises:
        UserError: data, device or precision cannot be used.
    """
    return prepare(config, task_of(config).load, console)
