"""API keys with rights for tasks. The file contains digests, never keys."""

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
    """Tasks that each key may use.

    Args:
        rights: sha256 of a key, in hex -> patterns of task names, as in "flowers-*".

    >>> keys = Keys({digest_of("secret"): ["flowers-*"]})
    >>> keys.allowed("secret", ["flowers-small", "birds"]), keys.allowed("other", ["birds"])
    (['flowers-small'], [])
    """

    def __init__(self, rights: Mapping[str, Sequence[str]]) -> None:
        self.rights = dict(rights)

    def knows(self, key: str) -> bool:
        """Whether the key is known."""
        return self._patterns(key) is not None

    def allowed(self, key: str, tasks: Iterable[str]) -> list[str]:
        """Tasks among `tasks` that the key may use."""
        patterns = self._patterns(key) or ()
        # Only * and ? are wildcards: brackets occur in names of tasks, and would be sets of characters.
        literal = [pattern.replace("[", "[[]") for pattern in patterns]
        return [task for task in tasks if any(fnmatchcase(task, pattern) for pattern in literal)]

    def _patterns(self, key: str) -> Sequence[str] | None:
        digest = digest_of(key)
        found = None
        for other, patterns in self.rights.items():
            if hmac.compare_digest(digest, other):
                found = patterns  # no early exit, which would leak the position of the key by timing
        return found


class KeyFile:
    """Key file that may change while the server runs.

    If the file becomes invalid or is removed, the keys that were read last remain valid, and `broken` and the log
    report it. An empty key file, `{}`, denies all access.

    Args:
        path: path of the file.

    Raises:
        UserError: the file cannot be read at startup.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = read_keys(path)
        self.broken = ""

    def refresh(self) -> None:
        """Read the current content of the file."""
        before = self.broken
        try:
            self.keys, self.broken = read_keys(self.path), ""
        except UserError as error:
            self.broken = str(error)
        if self.broken != before:
            if self.broken:
                logger.error("%s; the keys that were read before remain valid", self.broken)
            else:
                logger.warning("the key file %s can be read again", self.path)


def digest_of(key: str) -> str:
    """Digest of a key, as stored in the file.

    >>> len(digest_of("secret"))
    64
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> str:
    """Generate a random key."""
    return secrets.token_urlsafe(32)


def add_key(path: Path, tasks: Sequence[str]) -> str:
    """Create a key with rights for tasks and add its digest to a file, which is created if needed.

    Raises:
        UserError: the file has an unexpected form.
    """
    rights = read_keys(path).rights if path.exists() else {}
    key = new_key()
    write_text(path, json.dumps({**rights, digest_of(key): list(tasks)}, indent=2) + "\n")
    return key


def read_keys(path: Path) -> Keys:
    """Read a key file {"digest": ["pattern", ...], ...}.

    Raises:
        UserError: the file is missing or has an unexpected form.
    """
    tree = read_json(path, "create one with: vpt serve --new-key")
    good = isinstance(tree, dict) and all(
        _DIGEST.fullmatch(digest) and isinstance(patterns, list) and all(isinstance(each, str) for each in patterns)
        for digest, patterns in tree.items()
    )
    if not good:
        raise UserError(
            f'the key file {path} must contain {{"sha256 of a key": ["pattern of task names"]}}; '
            "create one with: vpt serve --new-key"
        )
    return Keys(tree)
