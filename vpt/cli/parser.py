"""Shared parts of the commands. Neither this module nor the top of a command's module imports anything heavy."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vpt.utils.errors import UserError
from vpt.utils.file_names import printable

USAGE = 2  # exit code for a usage error


def show(text: object) -> None:
    """Print with control characters escaped; names of files and classes may contain some that move the cursor."""
    print(printable(str(text)))


class Parser(argparse.ArgumentParser):
    """Argument parser that raises `UserError`, and accepts positional arguments before, between and after options."""

    _within = False  # parse_known_intermixed_args calls parse_known_args again
    late_epilog: Callable[[], str] | None = None  # makes the epilog when it is printed

    def format_help(self) -> str:
        """The text of --help."""
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; in `--over a=1,2 data=photos`, `data=photos` is positional although it follows an option."""
        if self._within or self._subparsers is not None or "_ARGCOMPLETE" in os.environ:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UserError` that points to --help."""
        raise UserError(f"{message.split(' (choose')[0]}; see: {self.prog} --help")


def is_path(word: str) -> bool:
    """Whether an argument is a path rather than a setting `key=value`; paths may contain an equals sign too.

    >>> is_path("runs/photos-lr=0.1"), is_path("a.yaml"), is_path("data=sets/photos")
    (True, True, False)
    """
    key, equals, _ = word.partition("=")
    inside = (os.path.join(word, name) for name in ("config.yaml", "artifact.safetensors"))
    return not equals or "/" in key or os.sep in key or any(map(os.path.isfile, (word, *inside)))


def file_and_overrides(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split arguments into an optional config file and the settings.

    >>> file_and_overrides(["a.yaml", "train.epochs=3"])
    ('a.yaml', ['train.epochs=3'])
    """
    files = [word for word in words if is_path(word)]
    if len(files) > 1:
        raise UserError(f"'{files[1]}': give one config file, and settings as key=value")
    if files and not files[0].endswith((".yaml", ".yml")):
        raise UserError(f"'{files[0]}' is neither a .yaml file nor of the form key=value, as in data={files[0]}")
    return (files[0] if files else None), [word for word in words if word not in files]
