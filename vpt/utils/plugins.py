"""Third-party code: entry points of installed packages, and classes that the user names as `module:Class`.

Names in an artifact, a checkpoint or an upload are never imported through this module: see docs/security.md.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from vpt.utils.errors import UserError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def imported(path: str) -> Any:
    """Import an object of this package by "package.module:name".

    >>> imported("vpt.utils.errors:nearest").__name__
    'nearest'
    """
    module, _, name = path.partition(":")
    return attrgetter(name)(import_module(module))


def installed(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name; nothing is imported.

    Raises:
        UserError: two packages offer the same name.

    >>> installed("vpt.no_such_group")
    {}
    """
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"two installed packages offer '{point.name}' for {group}, {other.value} and {point.value}; uninstall "
                "one of them"
            )
    return found


def load_installed(point: EntryPoint) -> Any:
    """Load the object of an entry point.

    Raises:
        UserError: it cannot be imported.
    """
    package = point.dist.name if point.dist is not None else "a package"
    try:
        return point.load()
    except Exception as error:
        raise UserError(
            f"'{point.name}' of {package} cannot be loaded ({point.value}): {said(error)}; update or uninstall it"
        ) from error


def named(path: str, key: str) -> Any:
    """Import what the user names as `module:Class`; the module may be in the current folder.

    Args:
        path: the name.
        key: key of the setting, for messages.

    Raises:
        UserError: there is no such module or class, or importing it fails.

    >>> named("json:JSONDecoder", "prompt").__name__
    'JSONDecoder'
    """
    if not NAME.fullmatch(path):
        raise UserError(f"{key}={path[:80]} is not of the form module:Class, as in my_module:MyPrompt")
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last, so that local files do not shadow installed modules
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise UserError(
                f"{key}={path}: there is no module {error.name} in this folder or among the installed packages"
            ) from None
        raise UserError(f"{key}={path}: importing {module} failed: {said(error)}") from error
    except Exception as error:
        raise UserError(f"{key}={path}: importing {module} failed: {said(error)}") from error
    if not hasattr(found, name):
        raise UserError(f"{key}={path}: {module} has no {name}{nearest(name, vars(found))}")
    return getattr(found, name)


def said(error: BaseException) -> str:
    """An exception in one line, for a message.

    >>> said(ValueError("no such thing"))
    'ValueError: no such thing'
    """
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
