"""Short names of settings: `epochs` is `train.epochs`, for no other setting of the run is called `epochs`.

A short name is the end of a full name. It is accepted if exactly one setting ends so, among those of the kinds that
the run chooses: `rank` is `tuning.rank` with `tuning=lora`. Only the command line and Python keywords take short names;
files keep full ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from vpt.config.describe import Described, described
from vpt.config.run import RunConfig
from vpt.config.tasks import TASKS
from vpt.utils.errors import UserError, nearest

ALIASES = {
    "model": "backbone",
    "dataset": "data",
    "seed": "train.seed",  # not that of random backbone weights
    "batch": "train.batch_size",
    "img_size": "backbone.image_size",
    "num_workers": "data.workers",
    "learning_rate": "lr",
}
# Sections that have kinds; a short name may choose the kind of the last two.
SECTIONS = ("prompt", "tuning", "head", "train.optimizer", "train.loss")


def is_full(key: str) -> bool:
    """Whether a name begins as full names do; what follows may still be wrong.

    >>> is_full("train.epochs"), is_full("epochs")
    (True, False)
    """
    return key.partition(".")[0] in RunConfig.model_fields


def section_name(key: str) -> str:
    """The full name of a section that is called by its last part; any other name as it is.

    >>> section_name("optimizer"), section_name("optimizer.kind"), section_name("epochs")
    ('train.optimizer', 'train.optimizer.kind', 'epochs')
    """
    first, *rest = key.split(".")
    found = [section for section in SECTIONS if section.rpartition(".")[2] == first]
    return ".".join([found[0], *rest]) if found else key


def full_name(key: str, tree: Mapping[str, Any]) -> str:
    """The full name of a setting; the name as it is where it could mean several, or none.

    Args:
        key: as the user writes it.
        tree: the settings that are known so far; they choose the kinds.

    >>> full_name("epochs", {}), full_name("rank", {"tuning": "lora"}), full_name("lr", {})
    ('train.epochs', 'tuning.rank', 'lr')
    """
    name = section_name(_without_alias(key))
    if is_full(name):
        return name
    found = _ending(name, tree)
    return found[0] if len(found) == 1 else key


def meant(key: str, tree: Mapping[str, Any], siblings: Iterable[str] = ()) -> str:
    """What a name that is no setting could mean, for an error message; empty where nothing is like it.

    Args:
        key: the name.
        tree: the settings of the run; they choose the kinds.
        siblings: names that could stand in the place of the last part of the name.

    >>> meant("epoch", {})
    "; did you mean 'train.epochs'?"
    >>> meant("rank", {"prompt": "deep"})
    "; did you mean 'prompt.rank' of prompt=bpt, ... or 'tuning.rank' of tuning=lora?"
    """
    last = _without_alias(key.rpartition(".")[2])
    if is_full(last) and last != key:
        return f"; did you mean '{last}'?"
    if found := _ending(last, tree):
        return f"; did you mean {_one_of(found)}?"
    if others := _of_other_kinds(last):
        return f"; did you mean {' or '.join(others)}?"
    if close := nearest(key.rpartition(".")[2], siblings):
        return close
    names = {*RunConfig.model_fields, *ALIASES, *(one.key.rpartition(".")[2] for one in chosen_settings(tree))}
    found = difflib.get_close_matches(last, names, n=1, cutoff=0.6)
    if not found:
        return ""
    name = _without_alias(found[0])
    full = [name] if is_full(name) else _ending(name, tree)
    return f"; did you mean {_one_of(full)}?" if full else ""


def _of_other_kinds(last: str) -> list[str]:
    """Settings of this name that the chosen kinds do not have, with the kinds that have them."""
    kinds: dict[str, list[str]] = {}
    for one in described():
        if one.kinds and one.key.rpartition(".")[2] == last:
            kinds.setdefault(one.key, []).extend(one.kinds)
    return [f"'{key}' of {_section_of(key)}={', '.join(dict.fromkeys(found))}" for key, found in kinds.items()]


def shortest(key: str) -> str:
    """The shortest name that is accepted for a setting of a run with the default kinds.

    >>> shortest("train.epochs"), shortest("data.path"), shortest("train.optimizer.lr.head")
    ('epochs', 'data', 'lr.head')
    """
    if key in ("backbone.name", "data.path"):
        return key.partition(".")[0]
    parts = key.split(".")
    ends = [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]
    return next(end for end in ends if full_name(end, {}) == key)


def check_cases(config: RunConfig) -> None:
    """Check the names that the cases of a run use.

    Raises:
        UserError: one that is no setting.

    >>> check_cases(RunConfig())
    """
    known = {one.key for one in described()} | {f"{section}.kind" for section in SECTIONS}
    for name in [name for case in config.cases for name in (*case.when, *case.use)]:
        if name not in known:
            raise UserError(f"cases: unknown setting '{name}'{nearest(name, known)}")


def _without_alias(key: str) -> str:
    first, *rest = key.split(".")
    return ".".join([ALIASES.get(first, first), *rest])


def _ending(key: str, tree: Mapping[str, Any]) -> list[str]:
    """Full names of the settings of the chosen kinds that end with `key`.

    A name such as `lr`, of a number for each group of parameters, gives all of them, and the name for all at once.
    """
    if not key:
        return []
    found: dict[str, None] = {}
    settings = chosen_settings(tree)
    own = {one.key for one in settings}
    for one in settings:
        parts = f".{one.key}."
        at = parts.rfind(f".{key}.")
        if at < 0:
            continue
        end = at + 1 + len(key)
        stem = parts[1:end]
        if stem not in SECTIONS and stem != "train":
            found[stem] = None
        if stem not in own and "." not in key:
            found[one.key] = None
    return [name for name in found if "." in name]


def _one_of(names: list[str]) -> str:
    if names[9:]:  # as many as a section has
        return ", ".join(f"'{name}'" for name in names[:5]) + f" or another of {len(names)}"
    return ", ".join(f"'{name}'" for name in names[:-1]) + (" or " if names[1:] else "") + f"'{names[-1]}'"


def _section_of(name: str) -> str:
    return next((section for section in SECTIONS if name.startswith(f"{section}.")), "")


def chosen_settings(tree: Mapping[str, Any]) -> list[Described]:
    """The settings of a run with the kinds that `tree` chooses.

    >>> "tuning.rank" in [one.key for one in chosen_settings({"tuning": "lora"})]
    True
    """
    task = str(tree.get("task"))
    # Detection has no prompt unless one of its settings is given.
    usual = RunConfig.model_validate({"prompt": {}, **({"task": task} if task in TASKS else {})})
    kinds = {section: _kind(section, tree) or _kind(section, usual.model_dump()) for section in SECTIONS}
    return [one for one in described() if not one.kinds or kinds.get(_section_of(one.key)) in one.kinds]


def _kind(section: str, tree: Any) -> str | None:
    for part in section.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    found = tree.get("kind") if isinstance(tree, Mapping) else tree
    return found if isinstance(found, str) else None
