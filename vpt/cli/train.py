"""`vpt train`: train a model."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.cli.parser import file_and_overrides
from vpt.utils.errors import UserError
from vpt.utils.std_streams import say


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train prompt and head on a data set, or resume a run",
        description="Train a prompt and a head on a frozen backbone, as in: vpt train data=photos epochs=10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.late_epilog = _settings
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG.yaml | key=value", help="config file and settings, or resume=RUN"
    )
    parser.add_argument(
        "--each",
        action="append",
        default=[],
        metavar="key=A,B,...",
        help="deprecated: a run for each value, one after another; several make a grid. See vpt sweep --grid",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check settings, data, backbone and memory, and train one batch, without writing a run folder",
    )
    parser.set_defaults(run=_train)


# The settings that most runs need, in the order of --help.
COMMON = (
    "data.path",
    "data.test_fraction",
    "data.shots",
    "data.augment",
    "data.workers",
    "task",
    "backbone.name",
    "backbone.image_size",
    "prompt",
    "prompt.tokens",
    "tuning",
    "head",
    "train.epochs",
    "train.batch_size",
    "train.optimizer.lr.prompt",
    "train.optimizer.lr.head",
    "train.device",
    "train.seed",
    "compare",
    "name",
)


def _settings() -> str:
    """The common settings with their defaults, for --help."""
    import textwrap

    from vpt.config.describe import described
    from vpt.config.short_names import chosen_settings, shortest

    found = {one.key: one for one in chosen_settings({})}
    rows = []
    for key in COMMON:
        one = found[key]
        left = f"{shortest(key)}={'' if one.default == 'null' else one.default}"
        meaning = textwrap.shorten(one.meaning, 74, placeholder=" ...")
        rows.append(f"  {left:<24} {meaning}")
    return "\n".join(
        [
            "common settings, with their defaults:",
            *rows,
            "",
            f"`vpt config explain` explains all {len({one.key for one in described()})} settings, `vpt config explain "
            "train.epochs` one. Settings have full names, such",
            "as train.epochs; a short name is accepted where it means one setting. Files take full names only.",
        ]
    )


def _train(options: argparse.Namespace) -> int:
    file, overrides = file_and_overrides(options.words)
    run = [word.partition("=")[2] for word in overrides if word.startswith("resume=")]
    overrides = [word for word in overrides if not word.startswith("resume=")]
    if run and file:
        raise UserError("a resumed run has its own config; remove the config file")
    if options.each:
        if options.dry_run:
            raise UserError("--dry-run checks a single run; remove --each")
        if run:
            raise UserError("resume= applies to a single run; remove --each")
        return _train_each(file, overrides, options.each)
    seeds, overrides = split_seeds(overrides)
    from vpt.config import load_config

    if options.dry_run:
        if run:
            raise UserError("--dry-run is for a new run; a resumed run checks everything before it goes on")
        from vpt.training.dry_run import dry_run

        one = load_config(file, [*overrides, *(f"train.seed={seed}" for seed in seeds[:1])])
        dry_run(one.with_({"data.fold": 0}) if one.data.folds is not None and one.data.fold is None else one)
        return 0
    if seeds:
        if run:
            raise UserError("a resumed run has one seed; to continue several, give the command that started them again")
        from vpt.utils.distributed import refuse

        refuse("train.seed=A,B,...")
        several = load_config(file, overrides)
        if several.data.folds is not None and several.data.fold is None:
            raise UserError("data.folds trains several runs already; give one train.seed")
        from vpt.experiments.seeds import train_seeds

        print(train_seeds(several, seeds))
        return 0
    config = None if run else load_config(file, overrides)
    if config is not None and config.data.folds is not None and config.data.fold is None:
        from vpt.experiments.folds import train_folds
        from vpt.utils.distributed import refuse

        refuse("data.folds")
        print(train_folds(config))
        return 0
    from vpt.training.run import resume, train
    from vpt.utils.distributed import is_first

    result = train(config) if config is not None else resume(run[0], overrides)
    if is_first():
        print(result.folder)
    return 0


def split_seeds(words: Sequence[str]) -> tuple[list[int], list[str]]:
    """Several seeds among `key=value` words, and the other words.

    Raises:
        UserError: a seed that is no whole number, or given twice.

    >>> split_seeds(["data=photos", "train.seed=0,1,2"])
    ([0, 1, 2], ['data=photos'])
    >>> split_seeds(["seed=3"])
    ([], ['seed=3'])
    """
    several = [word for word in words if word.startswith(("seed=", "train.seed=")) and "," in word]
    if not several:
        return [], list(words)
    parts = [part.strip() for part in several[-1].partition("=")[2].strip("[]").split(",")]
    if not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts) or len(set(parts)) < len(
        parts
    ):
        raise UserError(f"{several[-1]}: give different whole numbers, as in train.seed=0,1,2")
    return [int(part) for part in parts], [word for word in words if word not in several]


def _train_each(file: str | None, overrides: list[str], each: Sequence[str]) -> int:
    from vpt.config import load_config, word

    grid = [_values(values) for values in each]
    named = [(words, load_config(file, [*overrides, *words])) for words in itertools.product(*grid)]
    if any(config.compare for _, config in named):
        raise UserError("--each compares settings already; leave out compare")
    from vpt.training.run import train
    from vpt.training.run_folder import free_name, refuse_taken, stem_of
    from vpt.utils.distributed import refuse

    refuse("--each")
    say("vpt: --each is deprecated and trains one run after another; use vpt sweep --grid, or vpt train for each value")
    names = ["-".join([config.name or stem_of(config), *map(_in_name, words)]) for words, config in named]
    if given := named[0][1].name is not None:
        for name, (_, config) in zip(names, named, strict=True):
            refuse_taken(config.model_copy(update={"name": name}))
    for name, (words, config) in zip(names, named, strict=True):
        own = name if given else free_name(config.out, name)
        print(train(load_config(file, [*overrides, *words, word("name", own)])).folder)
    return 0


def _values(word: str) -> list[str]:
    from vpt.config import split_values

    key, _, values = word.partition("=")
    found = split_values(values)
    if not key or not all(found):
        raise UserError(f"--each {word}: give a setting and its values, as in --each prompt.tokens=5,10,50")
    return [f"{key}={value}" for value in found]


def _in_name(word: str) -> str:
    """A setting as part of a folder's name.

    >>> _in_name("train.optimizer.lr.prompt=0.01"), _in_name("data=sets/photos")
    ('lr.prompt=0.01', 'data=photos')
    """
    key, _, value = word.partition("=")
    short = key.split(".lr.")[-1].join(["lr.", ""]) if ".lr." in key else key.split(".")[-1]
    return f"{short}={Path(value).name}"
