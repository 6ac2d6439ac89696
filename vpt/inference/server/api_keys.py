"""API keys with rights for tasks. The file holds digests, never keys."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from vpt.utils.atomic_io import read_json, write_text
from vpt.utils.errors import UserError

logger = logging.getLogger("vpt.inference.server")

_DIGEST = re.compile("[0-9a-f]{64}")


class Keys:
    """Which key may use which tasks.

    Args:
        rights: sha256 of a key, in hex -> patterns of task names, as in "flowers-*".

    >>> keys = Keys({digest_of("secret"): ["flowers-*"]})
    >>> keys.allowed("secret", ["flowers-small", "birds"]), keys.allowed("other", ["birds"])
    (['flowers-small'], [])
    """

    def __init__(self, rights: Mapping[str, Sequence[str]]) -> None:
        self.rights = dict(rights)

    def knows(self, key: str) -> bool:
        """Whether the key is one of them."""
        return self._patterns(key) is not None

    def allowed(self, key: str, tasks: Iterable[str]) -> list[str]:
        """Those of some tasks that the key may use."""
        patterns = self._patterns(key) or ()
        return [task for task in tasks if any(fnmatchcase(task, pattern) for pattern in patterns)]

    def _patterns(self, key: str) -> Sequence[str] | None:
        digest = digest_of(key)
        found = None
        for other, patterns in self.rights.items():
            if hmac.compare_digest(digest, other):
                found = patterns  # no early end: time must not tell which one
        return found


class KeyFile:
    """A file of keys that may change while the server runs.

    A file that becomes broken or goes away closes nothing and opens nothing: the keys that were last read go on, and
    `broken` and the log say so. An empty file of keys, `{}`, closes all.

    Args:
        path: of the file.

    Raises:
        UserError: it cannot be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = read_keys(path)
        self.broken = ""

    def refresh(self) -> None:
        """Read the file as it is now."""
        before = self.broken
        try:
            self.keys, self.broken = read_keys(self.path), ""
        except UserError as error:
            self.broken = str(error)
        if self.broken != before:
            if self.broken:
                logger.error("%s; the keys that were read before go on", self.broken)
            else:
                logger.warning("the keys %s can be read again", self.path)


def digest_of(key: str) -> str:
    """What the file holds of a key.

    >>> len(digest_of("secret"))
    64
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> str:
    """A key that nobody can guess."""
    return secrets.token_urlsafe(32)


def add_key(path: Path, tasks: Sequence[str]) -> str:
    """A new key with rights for tasks, its digest written to a file that need not exist yet.

    Raises:
        UserError: a file of another form.
    """
    rights = read_keys(path).rights if path.exists() else {}
    key = new_key()
    write_text(path, json.dumps({**rights, digest_of(key): list(tasks)}, indent=2) + "\n")
    return key


def read_keys(path: Path) -> Keys:
    """Read a file {"digest": ["pattern", ...], ...}.

    Raises:
        UserError: a file that is missing or has another form.
    """
    tree = read_json(path, "make one with: vpt serve --new-key")
    good = isinstance(tree, dict) and all(
        _DIGEST.fullmatch(digest) and isinstance(patterns, list) and all(isinstance(each, str) for each in patterns)
        for digest, patterns in tree.items()
    )
    if not good:
        raise UserError(
            f'the keys {path} must hold {{"sha256 of a key": ["pattern of task names"]}}; '
            "make one with: vpt serve --new-key"
        )
    return Keys(tree)
