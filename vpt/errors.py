"""The one exception a user's mistake raises: a sentence that names the thing and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the caller's, told in one sentence. The command line prints it and exits with code 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or an empty string.

    >>> nearest("tokns", ["tokens", "layers"])
    "; did you mean 'tokens'?"
    >>> nearest("zzz", ["tokens"])
    ''
    """
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""
