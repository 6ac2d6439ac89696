"""The command lines that documentation shows: found, joined, and held to the real parsers and settings."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, get_args

from tests.helpers.paths import ROOT
from vpt.backbones.factory import check_backbone
from vpt.cli import main as command_line
from vpt.cli.parser import file_and_overrides
from vpt.cli.train import split_seeds
from vpt.config import BackboneConfig, RunConfig, load_config, read_yaml
from vpt.config.heads import HEADS
from vpt.config.overrides import parse_overrides
from vpt.config.tasks import TASKS
from vpt.utils.errors import UserError

SECTIONS = ("prompt", "head", "tuning", "train.optimizer")


def console_lines(page: str) -> list[str]:
    """The lines of a page's ```console blocks, those that go on joined, comments left out."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, flags=re.S | re.M)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [" ".join(shlex.split(line, comments=True)) and line for line in joined.splitlines() if line.strip()]


def vpt_words(line: str) -> list[str] | None:
    """What a line gives to vpt, through torchrun too; None for other programs."""
    words = shlex.split(line, comments=True)
    if words[0] == "vpt":
        return words[1:]
    if words[0] == "torchrun":
        return [word for word in words[words.index("vpt") + 1 :] if word != "..."]
    return None


def check(words: Sequence[str]) -> None:
    """Hold a command to the parser, its settings to RunConfig, its backbone to the libraries. Nothing is run.

    Raises:
        UserError: what the user would be told.
    """
    options = command_line._parse(list(words))
    command = words[0]
    for settings in _settings(command, options):
        file, overrides = file_and_overrides(settings)
        overrides = [word for word in overrides if not word.startswith(("split=", "resume="))]
        if file is not None and not (ROOT / file).is_file():
            raise UserError(f"there is no {file}")
        config = load_config(ROOT / file if file else None, split_seeds(overrides)[1])
        if config.backbone.weights is None:
            check_backbone(config.backbone)


def _settings(command: str, options: Any) -> Iterator[list[str]]:
    """Every set of words that the command would read as settings."""
    words = [word for word in getattr(options, "words", []) if "=" in word or word.endswith(".yaml")]
    if command == "sweep":
        from vpt.experiments.sweep.search_space import Choices, read_space

        over: Any = options.over
        if options.space:
            tree = read_yaml(ROOT / options.space)
            over, words = tree["over"], [*tree.get("words", []), *words]
        axes = {
            key: axis.values if isinstance(axis, Choices) else (axis.low, axis.high)
            for key, axis in read_space(over).items()
        }
        for values in itertools.product(*axes.values()):
            yield [*words, *(f"{key}={value}" for key, value in zip(axes, values, strict=True)), *options.final]
    elif command == "train" and options.each:
        from vpt.cli.train import _values

        for each in itertools.product(*map(_values, options.each)):
            yield [*words, *each]
    elif words:
        yield words


# --- settings in running text ------------------------------------------------------------------------------------


def inline_settings(page: str) -> list[list[str]]:
    """Settings in `code` of running text, each as its words. Tables that benchmarks write are left out, for they hold
    what ran; so are blocks."""
    text = re.sub(r"<!-- table:.*?<!-- end -->", "", page, flags=re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    found = []
    for code in re.findall(r"`([^`\n]+)`", text):
        try:
            words = shlex.split(code)
        except ValueError:
            continue
        if words and all(re.match(r"[a-z_]+(\.[a-z_]+)*=", word) for word in words):
            found.append(words)
    return found


@cache
def kinds() -> dict[str, dict[str, frozenset[str]]]:
    """Kinds of every section that has them, each with its settings."""
    from vpt.config import Optimizer, Tuning
    from vpt.config.heads import HEADS
    from vpt.config.prompts import PROMPTS

    found = {name: dict(registry.own) for name, registry in (("prompt", PROMPTS), ("head", HEADS))}
    for section, union in {"tuning": Tuning, "train.optimizer": Optimizer}.items():
        found[section] = {each.model_fields["kind"].default: each for each in get_args(get_args(union)[0])}
    return {
        section: {kind: frozenset(each.model_fields) for kind, each in members.items()}
        for section, members in found.items()
    }


def fitting(section: str, words: Sequence[str]) -> list[str]:
    """Kinds of a section that have all of its settings in `words`."""
    start = f"{section}."
    keys = {word.removeprefix(start).partition("=")[0].partition(".")[0] for word in words if word.startswith(start)}
    return [kind for kind, fields in kinds()[section].items() if keys <= fields]


def accepts(words: Sequence[str]) -> bool:
    """Whether some run takes these settings: with some kind for every section that they touch and do not choose.

    Values in capitals, such as FILE or N, and missing ones stand for the reader's own: only their keys are checked.
    """
    words = split_seeds([word for word in words if not word.startswith(("split=", "resume="))])[1]
    touched = [
        section
        for section in SECTIONS
        if any(word.startswith(f"{section}.") for word in words)
        and not any(word.startswith((f"{section}=", f"{section}.kind=")) for word in words)
    ]
    placeholders = [word for word in words if re.fullmatch(r"[A-Z,]*", word.partition("=")[2])]
    real = [word for word in words if word not in placeholders]
    for chosen in itertools.product(*(fitting(section, words) for section in touched)):
        base = [f"{section}={kind}" for section, kind in zip(touched, chosen, strict=True)]
        named = next((word.partition("=")[2] for word in [*base, *real] if re.match(r"head(\.kind)?=", word)), "")
        for task in [HEADS.own[named].task] if named in HEADS.own else TASKS:
            # A kind may need neighbours, which the text gives elsewhere.
            for more in ([], ["prompt.shrink=true"], ["prompt=pixel"]):
                if more == ["prompt=pixel"] and "prompt" in [word.partition("=")[0] for word in [*words, *base]]:
                    continue
                try:
                    config = load_config(overrides=[f"task={task}", *base, *more, *real])
                except UserError:
                    continue
                if all(_exists(config, word.partition("=")[0]) for word in placeholders):
                    return True
    return False


def _exists(config: RunConfig, key: str) -> bool:
    value: Any = config
    for part in key.split("."):
        if part not in getattr(type(value), "model_fields", {}):
            return False
        value = getattr(value, part)
    return True


def backbone_named(words: Sequence[str]) -> str | None:
    """The backbone that settings name, if they do."""
    tree = parse_overrides([word for word in words if word.startswith("backbone")])
    named = tree.get("backbone")
    return named if isinstance(named, str) else (named or {}).get("name")


def check_name(name: str) -> None:
    """Raises UserError for a backbone that does not exist."""
    check_backbone(BackboneConfig(name=name))
