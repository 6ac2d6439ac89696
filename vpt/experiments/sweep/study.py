"""Runs a sweep: trials are ordinary runs, suggested by Optuna and pruned by their validation score."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from vpt.config import RunConfig, full_words, load_config, read_yaml, word
from vpt.config.tasks import ranking
from vpt.experiments.sweep.journal import open_journal
from vpt.experiments.sweep.plots import sweep_png
from vpt.experiments.sweep.prune_trial import PruneTrial
from vpt.experiments.sweep.reuse import Shared
from vpt.experiments.sweep.search_space import TRIALS, Axis, Choices, grid_of, suggest, words_of
from vpt.training.batch_pictures import attempt
from vpt.training.context import RunContext
from vpt.training.run import train_or_resume
from vpt.training.run_folder import TrainResult, data_name, identity, refuse_changed, refuse_other
from vpt.training.trainer import build_model
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.distributed import refuse
from vpt.utils.errors import UserError, WriteError
from vpt.utils.folder_lock import LOCK_OF_BEST, lock_folder

STUDY = "vpt"
HOPELESS = 3  # a sweep ends after this many failures without a success


@dataclass(frozen=True)
class Sweep:
    """Plan of a sweep.

    Args:
        words: settings of every run, with their config file.
        axes: searched settings.
        trials: number of trials over all calls and machines; ignored for a grid.
        grid: run every point once, instead of Optuna's suggestions.
        final: settings of the final training besides the chosen ones.
        storage: URL of a database, for several machines; default: a journal in the folder of the sweep.
        prune: stop trials early that fall behind the median.
        seed: seed of Optuna's sampler.
    """

    words: Sequence[str]
    axes: Mapping[str, Axis]
    file: str | None = None
    trials: int = TRIALS
    grid: bool = False
    final: Sequence[str] = ()
    storage: str | None = None
    prune: bool = True
    seed: int = 0


@dataclass
class SweepResult:
    """A finished sweep: its folder, its trials, the chosen settings, and the run that was trained with them."""

    folder: Path
    trials: list[dict[str, Any]]
    chosen: list[str]
    best: TrainResult = field(repr=False)


@dataclass(frozen=True)
class Chosen:
    """A finished search: its folder, its trials, and the settings that validation chose, as `key=value` words."""

    folder: Path
    trials: list[dict[str, Any]]
    words: list[str]


def sweep(plan: Sweep, console: Console | None = None) -> SweepResult:
    """Search, then train once more with the chosen settings. The same call continues an interrupted sweep.

    Raises:
        UserError: errors of `search`, or a mistake in the settings of the final training.
    """
    console = console or Console()
    shared = Shared()
    load_config(plan.file, [*plan.words, *plan.final])  # reports a mistake in `final` before the trials
    plan = _with_full_names(plan)
    with _locked(plan) as folder:
        found = _search(plan, folder, console, shared)
        words = [*plan.words, *found.words, *plan.final, "name=best", word("out", folder), "compare=[]"]
        config = load_config(plan.file, words)
        final = f" with {' '.join(plan.final)}" if plan.final else ""
        console.say(f"chosen: {' '.join(found.words)}; trained again{final}")
        return SweepResult(folder, found.trials, found.words, _final(config, folder / "best", shared, console))


def search(plan: Sweep, console: Console | None = None, shared: Shared | None = None) -> Chosen:
    """Search, or continue an interrupted search by the same call, with the same name and out folder.

    Only trials, storage, prune and seed may differ; a folder or a database contains trials of one search.

    Args:
        plan: the search.
        console: console for progress.
        shared: cache of data and backbone for later runs; default: one for this search.

    Raises:
        UserError: a mistake in the configuration, the axes or the data, or a folder of another search, before anything
            is written; no trial has finished.
    """
    plan = _with_full_names(plan)
    with _locked(plan) as folder:
        return _search(plan, folder, console or Console(), shared or Shared())


def _with_full_names(plan: Sweep) -> Sweep:
    """The plan, with the full names of its axes."""
    base = load_config(plan.file, plan.words).model_dump()
    keys = [full_words([f"{key}="], base)[0].removesuffix("=") for key in plan.axes]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"--over {repeated[0]} is given twice; give all its values at once")
    return replace(plan, axes=dict(zip(keys, plan.axes.values(), strict=True)))


@contextlib.contextmanager
def _locked(plan: Sweep) -> Iterator[Path]:
    """Lock the folder of a sweep; with a database several machines share it."""
    refuse("a sweep")
    if not plan.axes:
        raise UserError("nothing to search; specify settings with --over, as in --over prompt.tokens=5,10,50")
    base = load_config(plan.file, plan.words)
    # A sweep without a name is named after its data, so that the same command finds it again.
    folder = base.out / (base.name or f"sweep-{data_name(base.data.path)}-{base.backbone.name}".replace("/", "_"))
    with contextlib.nullcontext() if plan.storage is not None else lock_folder(folder):
        try:
            yield folder
        except WriteError as error:
            raise WriteError(f"{error}; then the same command continues the sweep") from error
        except (StorageInternalError, SQLAlchemyError) as error:
            reason = str(error.__cause__ or error).splitlines()[0][:200]
            raise UserError(f"the database failed: {reason}; the same command continues the sweep") from error


def _search(plan: Sweep, folder: Path, console: Console, shared: Shared) -> Chosen:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = load_config(plan.file, plan.words)
    _check_axes(plan)
    described = _experiment(base, plan)
    settings = folder / "settings.json"
    refuse_other(settings, described)
    taken_up = settings.is_file()
    if not taken_up:
        _look_ahead(plan, shared)  # mistakes are found before anything is written
    database = None if plan.storage is None else _database(plan.storage)
    write_json(settings, described)
    study = _study(plan, folder, described, database)
    if plan.storage is None:  # in a shared database, trials of other machines may be running
        _take_up(study, plan, console)
    if plan.grid:
        _ask_for_grid(study, plan)
    failures = 0
    trials = math.prod(map(len, grid_of(plan.axes).values())) if plan.grid else plan.trials
    if taken_up and _ended(study) < trials:
        _look_ahead(plan, shared)
    while (number := _ended(study) + failures) < trials:
        if plan.grid and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            break
        trial = study.ask()
        try:
            words = suggest(trial, plan.axes)
            config = load_config(plan.file, [*plan.words, *words])
            console.say(f"trial {number + 1} of {trials}: {' '.join(words)}")
            score = _run(config, folder / "trials" / _digest(words), trial, shared)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            console.say("  pruned")
        except WriteError:
            raise  # the trial stays open: others would fail too, and the next call resumes it
        except UserError as error:
            study.tell(trial, state=TrialState.FAIL)
            console.warn(f"  failed: {error}")
            failures += 1
            if failures >= HOPELESS and not _complete(study):
                raise
        else:
            study.tell(trial, score)
            console.say(f"  validation {score:.4f}")
    return _conclude(study, plan, folder, console)


def _check_axes(plan: Sweep) -> None:
    """Check that every value of every axis makes a valid configuration."""
    if plan.grid:
        grid_of(plan.axes)
    for key, axis in plan.axes.items():
        if key in ("name", "out", "task") or key.startswith("backbone"):
            raise UserError(f"{key} cannot be searched in a sweep; run a sweep for each")
        for value in _ends(axis):
            load_config(plan.file, [*plan.words, word(key, value)])


def _experiment(base: RunConfig, plan: Sweep) -> dict[str, Any]:
    """Settings that all trials of one folder or database have in common."""
    axes = {key: repr(axis) for key, axis in plan.axes.items()}
    described: dict[str, Any] = json.loads(json.dumps({"settings": identity(base), "over": axes, "grid": plan.grid}))
    return described


def _database(url: str) -> optuna.storages.BaseStorage:
    try:
        return optuna.storages.get_storage(url)
    except (ImportError, ValueError, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        shown = re.sub("//.*@", "//", url)  # without a password
    raise UserError(f"--storage {shown} cannot be opened: {reason}")


def _study(
    plan: Sweep, folder: Path, described: dict[str, Any], database: optuna.storages.BaseStorage | None
) -> optuna.Study:
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if plan.prune:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    study = optuna.create_study(
        storage=database or open_journal(folder),
        sampler=optuna.samplers.TPESampler(seed=plan.seed),
        pruner=pruner,
        study_name=STUDY if plan.storage is None else f"{STUDY}-{folder.name}",
        direction="maximize",
        load_if_exists=True,
    )
    if "settings" not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr("settings", described)
    place = folder if plan.storage is None else f"the sweep {study.study_name} in this database"
    refuse_changed(place, study.user_attrs.get("settings", {}), described)
    return study


def _take_up(study: optuna.Study, plan: Sweep, console: Console) -> None:
    """Enqueue trials that were interrupted again; their runs resume from checkpoints."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if params := _params(trial):
            if not plan.grid:  # a grid enqueues every point that has not finished
                study.enqueue_trial(params)
            console.say(f"trial {trial.number + 1} was interrupted and is resumed")


def _ask_for_grid(study: optuna.Study, plan: Sweep) -> None:
    """Enqueue points that have neither finished nor been enqueued; failed points are tried again."""
    grid = grid_of(plan.axes)
    states = tuple(state for state in TrialState if state != TrialState.FAIL)
    known = {_point(_params(trial), grid) for trial in study.get_trials(deepcopy=False, states=states)}
    for values in itertools.product(*grid.values()):
        params = dict(zip(grid, values, strict=True))
        if _point(params, grid) not in known:
            study.enqueue_trial(params)


def _params(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Parameters of a trial, including one that has not started."""
    params: dict[str, Any] = trial.system_attrs.get("fixed_params", trial.params)
    return params


def _point(params: Mapping[str, Any], grid: Mapping[str, Any]) -> str:
    return repr([params.get(key) for key in grid])  # 1, 1.0 and true are three values


def _look_ahead(plan: Sweep, shared: Shared) -> None:
    """Read the data and build a model before the first trial, so that a common mistake ends the sweep immediately.

    A mistake is common if neither the first nor the last values of all axes can be trained.
    """
    mistakes = []
    for at in (0, -1):
        values = {key: _ends(axis)[at] for key, axis in plan.axes.items()}
        try:
            config = load_config(plan.file, [*plan.words, *(word(key, value) for key, value in values.items())])
            build_model(_context(config, shared))
        except UserError as error:
            mistakes.append(error)
        else:
            return
    raise mistakes[0]


def _ends(axis: Axis) -> tuple[Any, ...]:
    return axis.values if isinstance(axis, Choices) else (axis.low, axis.high)


def _context(config: RunConfig, shared: Shared) -> RunContext:
    context = shared.context(config, Console(quiet=True))
    if not context.data.val:
        raise UserError("a sweep needs a validation split; set data.val_fraction")
    return context


def _run(config: RunConfig, folder: Path, trial: optuna.Trial, shared: Shared) -> float:
    mine = config.model_copy(update={"name": folder.name, "compare": []})
    result = train_or_resume(
        mine, folder, prepare=lambda config, console: _context(config, shared), callbacks=[PruneTrial(trial)]
    )
    measured = result.metrics.get("val")
    if measured is None:
        raise UserError(f"{folder} was not evaluated on validation; remove it")
    trial.set_user_attr("loss", measured.get("loss"))
    score = measured[ranking(measured)]
    if score is None:
        raise UserError(f"the validation images of {folder} have nothing to measure: no labelled box or pixel")
    return float(score)


def _conclude(study: optuna.Study, plan: Sweep, folder: Path, console: Console) -> Chosen:
    if not _complete(study):
        raise UserError("no trial finished; see the messages above")
    rows = [_row(trial, plan) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    rows.sort(key=lambda row: _rank(row, plan))
    write_json(folder / "sweep.json", {"axes": list(plan.axes), "trials": rows})
    attempt(console, "sweep.png", lambda: sweep_png(rows, list(plan.axes), folder / "sweep.png"))
    shown = [row for row in rows if row["state"] == "complete"][:10]
    console.table(
        f"the best of {len(rows)} trials",
        [*(key.removeprefix("train.optimizer.") for key in plan.axes), "validation", "loss"],
        [
            [*(_told(row["params"].get(key)) for key in plan.axes), f"{row['validation']:.4f}", _told(row["loss"])]
            for row in shown
        ],
    )
    return Chosen(folder, rows, shown[0]["words"])


def _rank(row: Mapping[str, Any], plan: Sweep) -> tuple[Any, ...]:
    """Sort key of trials, best first: by validation, then by loss, then independently of the order of trials: by the
    order in the file for a grid, otherwise by name."""
    validation, loss, params = row["validation"], row["loss"], row["params"]
    if validation is None or row["state"] != "complete":
        return validation is None, -(validation or 0.0), math.inf, []
    if plan.grid:
        order: Any = [list(values).index(params[key]) for key, values in grid_of(plan.axes).items()]
    else:
        order = [repr(params)]
    return False, -validation, math.inf if loss is None else loss, order


def _final(config: RunConfig, folder: Path, shared: Shared, console: Console) -> TrainResult:
    """Train with the chosen settings, or read the finished run."""
    context = shared.context(config, console)
    file = folder / "config.yaml"

    def waiting(holder: str) -> None:
        console.say(f"the final training is running in {holder}; waiting for its result")

    with lock_folder(folder.parent, LOCK_OF_BEST, waiting):
        if not file.is_file() or identity(load_config(base=read_yaml(file))) != identity(context.config):
            shutil.rmtree(folder, ignore_errors=True)  # of a previous shorter sweep, or with another `final`
        return train_or_resume(config, folder, console, lambda *_: context)


def _row(trial: optuna.trial.FrozenTrial, plan: Sweep) -> dict[str, Any]:
    last = max(trial.intermediate_values, default=None)
    value = trial.value if trial.state == TrialState.COMPLETE else trial.intermediate_values.get(last or 0)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "params": trial.params,
        "validation": value,
        "loss": trial.user_attrs.get("loss"),
        "epochs": last,
        "words": words_of(trial.params, plan.axes),
    }


def _told(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _ended(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
