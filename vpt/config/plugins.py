"""Plug-ins: classes of the user's own as kinds of a prompt, a head or a loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vpt.config.heads import HEADS
from vpt.config.losses import LOSSES
from vpt.config.prompts import PROMPTS
from vpt.config.registry import KindSection, Registry
from vpt.config.words import split_values
from vpt.utils.errors import UserError
from vpt.utils.plugins import named

REGISTRIES: tuple[Registry[Any], ...] = (PROMPTS, HEADS, LOSSES)


def use_plugin(name: str) -> type[KindSection]:
    """Import your own class by its `module:Class`, so that artifacts, checkpoints and run folders may refer to it.

    A setting of `load_config` that names it, on the command line or in the user's YAML file, does the same.

    Args:
        name: as in `prompt=my_module:MyPrompt`.

    Raises:
        UserError: there is no such class, or it is not a settings section of a prompt, a head or a loss.
    """
    found = named(name, "--plugin")
    for registry in REGISTRIES:
        if isinstance(found, type) and issubclass(found, registry.base):
            return registry.use(name)
    bases = ", ".join(f"vpt.config.{registry.base.__name__}" for registry in REGISTRIES)
    raise UserError(f"--plugin {name} is not a settings section; derive it from one of {bases}")


def use_named(tree: Mapping[str, Any]) -> None:
    """Import the classes named in a tree of settings; only for settings written by the user.

    Raises:
        UserError: there is no such class.
    """
    registries = {registry.key: registry for registry in REGISTRIES}
    for key, kind in _kinds(tree):
        registry = registries.get(key)
        if registry is not None and isinstance(kind, str) and ":" in kind and kind not in registry.own:
            registry.use(kind)


def _kinds(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The kinds chosen in settings, with the keys of their sections."""
    train = tree.get("train")
    sections = {key: tree.get(key) for key in ("prompt", "head")}
    sections["train.loss"] = train.get("loss") if isinstance(train, Mapping) else None
    for key, section in sections.items():
        yield key, section.get("kind") if isinstance(section, Mapping) else section
    others = tree.get("compare")
    if isinstance(others, str):
        others = split_values(others)
    for kind in others if isinstance(others, list) else []:
        yield "prompt", kind
    cases = tree.get("cases")
    for case in cases if isinstance(cases, list) else []:
        used = case.get("use") if isinstance(case, Mapping) else None
        for name, value in used.items() if isinstance(used, Mapping) else ():
            yield str(name).removesuffix(".kind"), value
