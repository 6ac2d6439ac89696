"""`vpt completion`: completion of commands, options and settings in a shell, by argcomplete."""

from __future__ import annotations

import argparse
import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vpt.utils.errors import UserError

_PATHS = {"data.path", "data.val", "data.test", "data.root", "data.augment", "backbone.weights", "out"}


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "completion",
        help="print what a shell needs to complete commands, options and settings",
        description="Print what a shell needs to complete vpt's commands, options and settings. "
        'In ~/.bashrc: eval "$(vpt completion bash)"; in ~/.zshrc, after compinit: eval "$(vpt completion zsh)"; '
        "for fish: vpt completion fish > ~/.config/fish/completions/vpt.fish",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])
    parser.set_defaults(run=_print)


def _print(options: argparse.Namespace) -> int:
    print(_argcomplete().shellcode(["vpt"], shell=options.shell))
    return 0


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError:
        raise UserError("completion needs the package argcomplete: pip install argcomplete") from None
    return argcomplete


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and end the process."""
    for action in _actions(parser):
        shown = str(action.metavar)
        if "key=value" in shown:
            action.completer = _words  # type: ignore[attr-defined]
        elif "KEY" in shown:
            action.completer = lambda prefix, **_: [one for one in _settings({}) if one.startswith(prefix)]  # type: ignore[attr-defined]
    _argcomplete().autocomplete(parser, always_complete_options=False)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)


def _words(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Settings and files that a word could become."""
    return words(prefix, getattr(parsed_args, "words", None) or [])


def words(prefix: str, before: Sequence[str] = ()) -> list[str]:
    """The words that begin with `prefix`: settings, by short names too, with their values, and files.

    Args:
        prefix: the word so far.
        before: the other words; they choose kinds, such as `prompt=vfpt`.

    >>> words("train.ep"), words("precision=b"), words("tuning.ra", ["tuning=lora"])
    (['train.epochs='], ['precision=bf16'], ['tuning.rank='])
    """
    from vpt.cli.train import COMMON
    from vpt.config.short_names import full_name, shortest

    chosen = dict(word.split("=", 1) for word in before if "=" in word)
    found = _settings(chosen)
    key, equals, start = prefix.partition("=")
    if not equals:
        last = Counter(name.rpartition(".")[2] for name in found)
        others = [*found, *(name for name, count in last.items() if count == 1)] if prefix else []
        names = [*(shortest(name) for name in COMMON), *others, "resume"]
        return [f"{name}=" for name in dict.fromkeys(names) if name.startswith(prefix)] + _files(prefix)
    full = "data.path" if key in ("data", "resume") else full_name(key, chosen)
    full = full if full in found else f"{full}.name"
    values = [value for value in found.get(full, ()) if value.startswith(start)]
    return [f"{key}={value}" for value in (values + _files(start) if full in _PATHS else values)]


def _settings(chosen: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Settings of the chosen kinds, with their values if these are enumerated."""
    from vpt.config.short_names import chosen_settings
    from vpt.config.tasks import TASKS

    return {one.key: tuple(TASKS) if one.key == "task" else one.choices for one in chosen_settings(chosen)}


def _files(prefix: str) -> list[str]:
    found = sorted(glob.glob(f"{glob.escape(prefix)}*"))
    return [f"{path}/" if os.path.isdir(path) else path for path in found[:1000]]
