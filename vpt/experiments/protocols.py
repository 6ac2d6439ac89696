"""Protocols for comparing CLIP's prompt learners: few-shot, base to new classes, and transfer to other data.

Every run has its own run folder below `out`. Finished runs are only read, so a stopped protocol can be continued. A
folder belongs to one configuration: see `settings.json` in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpt.config import RunConfig, load_config, word
from vpt.data.evaluation_data import EvaluationRequest
from vpt.inference.evaluate import evaluate, evaluate_untrained
from vpt.metrics.metrics_file import read_split
from vpt.training.run import train_or_resume
from vpt.training.run_folder import identity, refuse_other, stem_of
from vpt.training.tasks import task_of
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.folder_lock import lock_folder

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
PLACES = ("val", "test", "shots", "val_shots")  # settings of the training data, not of others
GIVEN = {"data": ("half", "shots", "val_shots", "split_seed"), "train": ("seed",)}
LAST = {"harmonic mean": "harmonic_mean", "average of the others": "average"}


def few_shot(
    config: RunConfig, shots: Sequence[int] = SHOTS, seeds: Sequence[int] = SEEDS, console: Console | None = None
) -> dict[str, Any]:
    """Test accuracy with k training images per class, over seeds that sample images and weights (Zhou et al. 2022).

    Validation has as many images per class, but at most four.
    """
    with _begun(config, shots, seeds):
        rows = []
        for count in shots:
            found = []
            for seed in seeds:
                words = [f"data.shots={count}", f"data.val_shots={min(count, 4)}", *_seed(seed)]
                found.append(measured(config, f"{count}-shot-seed{seed}", words, console)["accuracy"])
            rows.append({"shots": count, **_mean(found)})
        return _kept(config, "few-shot", {"rows": rows})


def base_to_new(
    config: RunConfig, shots: int = 16, seeds: Sequence[int] = SEEDS, console: Console | None = None
) -> dict[str, Any]:
    """Train on the first half of the classes; test on both halves separately; and compute their harmonic mean.

    As in the papers, the harmonic mean is computed from mean accuracies.
    """
    _refuse_own_classes(config)
    with _begun(config, [shots], seeds):
        base, new = [], []
        for seed in seeds:
            words = ["data.half=base", f"data.shots={shots}", f"data.val_shots={min(shots, 4)}", *_seed(seed)]
            name = f"base-{shots}-shot-seed{seed}"
            base.append(measured(config, name, words, console)["accuracy"])
            other = ["data.half=new", *words[1:]]
            new.append(_elsewhere(config, name, other, console)["accuracy"])
        first, second = _mean(base), _mean(new)
        mean = harmonic(first["mean"], second["mean"])
        return _kept(config, "base-to-new", {"shots": shots, "base": first, "new": second, "harmonic_mean": mean})


def transfer(
    config: RunConfig,
    targets: Sequence[str],
    shots: int | None = 16,
    seeds: Sequence[int] = SEEDS,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train on `config.data`; test there and on other data with their own class names (cross-dataset, domain shift).

    Args:
        targets: data sets as `data.path` names them.
        shots: training images per class; None for all.
    """
    if not targets:
        raise UserError("transfer needs other data sets to test on: --to DATA [DATA ...]")
    others: dict[str, list[float]] = {target: [] for target in targets}
    wanted = {target: [word("data.path", target), *(f"data.{key}=null" for key in PLACES)] for target in others}
    for each in wanted.values():  # before long work
        target_config = _with(config, each)
        task_of(target_config).load_for_evaluation(target_config, EvaluationRequest("test", None))
    with _begun(config, [] if shots is None else [shots], seeds):
        words = [] if shots is None else [f"data.shots={shots}", f"data.val_shots={min(shots, 4)}"]
        source: list[float] = []
        for seed in seeds:
            name = f"{'all' if shots is None else shots}-shot-transfer-seed{seed}"
            source.append(measured(config, name, [*words, *_seed(seed)], console)["accuracy"])
            for target, there in wanted.items():
                others[target].append(_elsewhere(config, name, there, console)["accuracy"])
        rows = [{"data": target, **_mean(found)} for target, found in others.items()]
        average = statistics.mean(row["mean"] for row in rows)
        return _kept(config, "transfer", {"source": _mean(source), "rows": rows, "average": average})


def as_table(found: dict[str, Any]) -> str:
    """Result of a protocol as lines of text.

    >>> print(as_table({"protocol": "few-shot", "rows": [{"shots": 1, "mean": 0.5, "spread": 0.1}]}), end="")
    1 shot    50.0 +- 10.0
    """
    if found["protocol"] == "base-to-new":
        rows = [("base classes", found["base"]), ("new classes", found["new"])]
    elif found["protocol"] == "few-shot":
        rows = [(f"{row['shots']} shot{'s' if row['shots'] > 1 else ''}", row) for row in found["rows"]]
    else:
        rows = [(found["data"], found["source"]), *((row["data"], row) for row in found["rows"])]
    lines = [(name, f"{100 * row['mean']:.1f} +- {100 * row['spread']:.1f}") for name, row in rows]
    lines += [(name, f"{100 * found[key]:.1f}") for name, key in LAST.items() if key in found]
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:<{width}}    {value}\n" for name, value in lines)


def harmonic(first: float, second: float) -> float:
    """Harmonic mean of two accuracies.

    >>> round(harmonic(0.8426, 0.7610), 4)
    0.7997
    """
    return 2 * first * second / (first + second) if first + second else 0.0


def _refuse_own_classes(config: RunConfig) -> None:
    """Refuse what has no scores for classes that it was not trained on."""
    fixed = None
    if not config.head.new_names:
        fixed = f"head={config.head.kind}"
    elif config.prompt.has_own_classes:
        fixed = f"prompt={config.prompt.kind}"
    if fixed is not None:
        raise UserError(
            f"{fixed} supports the classes of its training only, so it has no accuracy on new ones; use vpt protocol "
            "few-shot, or head=zeroshot with a prompt such as prompt=kgcoop"
        )


def _seed(seed: int) -> list[str]:
    return [f"data.split_seed={seed}", f"train.seed={seed}"]


def _mean(found: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": statistics.mean(found),
        "spread": statistics.stdev(found) if len(found) > 1 else 0.0,
        "seeds": list(found),
    }


def _folder(config: RunConfig) -> Path:
    return config.out / (config.name or f"protocol-{stem_of(config)}")


@contextmanager
def _begun(config: RunConfig, shots: Sequence[int], seeds: Sequence[int]) -> Iterator[None]:
    """Check everything before long work, lock the folder, and write its settings, without those that a protocol sets
    itself."""
    if config.task != "classification":
        raise UserError(f"vpt protocol measures accuracy, which task={config.task} does not have")
    for name, values, least in (("shots", shots, 1), ("seeds", seeds, 0)):
        if min(values, default=least) < least or len(set(values)) < len(values):
            raise UserError(f"{name} {' '.join(map(str, values))}: give different numbers of at least {least}")
    if not seeds:
        raise UserError("a protocol needs at least one seed")
    if _learns(config):
        data = task_of(config).load(config)
        if data.multilabel:
            raise UserError("vpt protocol measures accuracy, which data with several labels an image does not have")
        if not data.test:
            raise UserError(f"{config.data.path} has no test split, which a protocol needs; set data.test=FOLDER")
    described = identity(config)
    for section, keys in GIVEN.items():
        for key in keys:
            del described[section][key]
    file = _folder(config) / "settings.json"
    with lock_folder(file.parent):
        refuse_other(file, described)
        write_json(file, described)
        yield


def _with(config: RunConfig, words: Sequence[str]) -> RunConfig:
    return load_config(base=config.model_dump(mode="json"), overrides=words)


def measured(config: RunConfig, name: str, words: Sequence[str], console: Console | None) -> dict[str, Any]:
    """Test metrics of a run with these settings, which is trained or resumed unless it has finished.

    Args:
        config: configuration; its `out` and `name` are the parent folder of the run.
        name: name of the run folder.
        words: settings of this run.
    """
    folder = _folder(config) / name
    mine = _with(config, [*words, word("out", folder.parent), word("name", name)])
    if not _learns(mine):
        return _once(folder.with_suffix(".json"), lambda: evaluate_untrained(mine, "test", console))
    found: dict[str, Any] | None = train_or_resume(mine, folder, console).metrics.get("test")
    if found is None:
        raise UserError(f"{config.data.path} has no test split, which this protocol needs; set data.test=FOLDER")
    return found


def _elsewhere(config: RunConfig, name: str, words: Sequence[str], console: Console | None) -> dict[str, Any]:
    """Metrics of a run on other classes or data."""
    folder = _folder(config) / name
    if not _learns(config):
        return evaluate_untrained(_with(config, words), "test", console)
    # The training seed is in the artifact; the remaining settings select the images.
    return evaluate(folder, "test", [each for each in words if each.startswith("data.")], console)


def _learns(config: RunConfig) -> bool:
    fixed = config.prompt.kind in ("none", "tpt") and config.tuning.kind == "frozen"
    return not (fixed and config.head.kind in ("zeroshot", "tda"))


def _once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.is_file():
        write_json(path, make())
    return read_split(path)


def _kept(config: RunConfig, protocol: str, found: dict[str, Any]) -> dict[str, Any]:
    result = {"protocol": protocol, "data": config.data.path, "prompt": config.prompt.kind, **found}
    write_json(_folder(config) / f"{protocol}.json", result)
    return result
