"""Exceptions for errors of the user, with a sentence that names the problem and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error of the caller, described in one sentence. The command line prints it and exits with code 2."""


class FileError(UserError):
    """A file that cannot be used.

    Args:
        path: path of the file.
        what: the problem and the remedy, without paths and content of the file, so that it may be shown to people
            who must not know these.
        full: the complete sentence for everybody else.

    >>> str(FileError("a.safetensors", "is damaged; take another copy of it"))
    'a.safetensors is damaged; take another copy of it'
    """

    def __init__(self, path: object, what: str, full: str = "") -> None:
        super().__init__(full or f"{path} {what}")
        self.what = what


class WriteError(UserError):
    """A file cannot be written: a full disk, or a missing or unwritable folder. The old file is unchanged."""


class NotFinite(UserError):
    """Scores, boxes or a loss are not finite: training diverged.

    Args:
        what: what is not finite, as the first part of the sentence.
        where: where and when, with known details of the cause.

    >>> str(NotFinite("the loss became nan"))
    'the loss became nan; lower train.optimizer.lr, or set train.clip_norm, in a new run'
    """

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{what}{where}; lower train.optimizer.lr, or set train.clip_norm, in a new run")
        self.what = what


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or an empty string.

    >>> nearest("tokns", ["tokens", "layers"])
    "; did you mean 'tokens'?"
    >>> nearest("zzz", ["tokens"])
    ''
    """
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""
