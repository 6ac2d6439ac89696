"""What the commands share. Nothing heavy is imported here or at the top of any command's file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from vpt.utils.errors import UserError
from vpt.utils.file_names import printable

USAGE = 2  # exit code of a user's mistake


def show(text: object) -> None:
    """Print for people: names of files and classes may hold codes that move a terminal's cursor, which are escaped."""
    print(printable(str(text)))


class Parser(argparse.ArgumentParser):
    """Speaks of mistakes as the rest of vpt does, and takes words before, between and after options."""

    _within = False  # the call below calls it again, for options and for words

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of any parser; of `--over a=1,2 data=photos` the last is a word, though options stand before it."""
        if self._within or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False

    def error(self, message: str) -> NoReturn:
        """One sentence, and where help is."""
        raise UserError(f"{message.split(' (choose')[0]}; see: {self.prog} --help")


def is_path(word: str) -> bool:
    """Whether a word is a path, and no setting `key=value`; names of files and runs may hold that sign too.

    >>> is_path("runs/photos-lr=0.1"), is_path("a.yaml"), is_path("data=sets/photos")
    (True, True, False)
    """
    key, equals, _ = word.partition("=")
    inside = (os.path.join(word, name) for name in ("config.yaml", "artifact.safetensors"))
    return not equals or "/" in key or os.sep in key or any(map(os.path.isfile, (word, *inside)))


def file_and_overrides(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """A config file among words, if there is one, and the settings.

    >>> file_and_overrides(["a.yaml", "train.epochs=3"])
    ('a.yaml', ['train.epochs=3'])
    """
    files = [word for word in words if is_path(word)]
    if len(files) > 1:
        raise UserError(f"'{files[1]}': give one config file, and settings as key=value")
    if files and not files[0].endswith((".yaml", ".yml")):
        raise UserError(f"'{files[0]}' is neither a .yaml file nor of the form key=value, as in data={files[0]}")
    return (files[0] if files else None), [word for word in words if word not in files]
