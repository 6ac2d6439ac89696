"""Published results, from published.json next to this file, each with its source and the quoted text.

An entry belongs to one suite, method and backbone. `tasks` contains percent by task, `means` by the name of a group,
"group means" or "all tasks"; either may be missing. A number applies to every measure, unless it is a mapping of
measures: base, new and harmonic mean, or numbers of shots.

`like` names settings of ours that are the same method; a list of such: any of them. What else decides a number stands
apart: `backbone`, whose names and weights files `backbones` lists; `pixels`, the normalisation ("imagenet", "own",
"none"); `pool`, what the head reads, as `head.pool`; `depth` of the prompts ("shallow", "deep"); `tokens`, those that
were in use. Where the source does not say, they are null or lack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from vpt.config import RunConfig
from vpt.config.prompts import Prompt

SIZE = 224  # image size in pixels of all entries
Number = float | Mapping[str, float]


@dataclass(frozen=True)
class Source:
    """A paper."""

    title: str
    authors: str
    year: int
    venue: str
    url: str

    def text(self) -> str:
        """The source in one line.

        >>> Source("Visual Prompt Tuning", "Jia et al.", 2022, "ECCV", "https://arxiv.org/abs/2203.12119").text()
        'Jia et al., Visual Prompt Tuning, ECCV 2022, https://arxiv.org/abs/2203.12119'
        """
        return f"{self.authors}, {self.title}, {self.venue} {self.year}, {self.url}"


@dataclass(frozen=True)
class Published:
    """Published result of one method in one suite, on one backbone; see the docstring of this file."""

    suite: str
    method: str
    backbone: str
    source: Source
    table: str
    checked: tuple[str, ...]
    pixels: str | None
    names: tuple[str, ...]
    pool: str | None
    depth: str | None
    tokens: tuple[int, ...] | None
    tasks: Mapping[str, Number]
    means: Mapping[str, Number]
    like: tuple[Mapping[str, Any], ...]
    note: str | None

    def number(self, place: str, measure: str, mean: bool = False) -> float | None:
        """Percent of a task or a mean; None if it was not published."""
        found = (self.means if mean else self.tasks).get(place)
        return found.get(measure) if isinstance(found, Mapping) else found

    def is_method_of(self, config: RunConfig) -> bool:
        """Whether these settings are of this method, on any backbone."""
        return any(
            all(_setting(config, key) == value for key, value in like.items())
            and ("prompt.pae.form" in like or _setting(config, "prompt.pae") is None)
            for like in self.like
        )

    def other_than(self, config: RunConfig) -> list[str]:
        """Backbone, pixels, pooling, depth and tokens of these settings that differ from the stated ones.

        >>> from vpt.config import load_config
        >>> (shallow,) = [one for one in published("fgvc") if one.method == "SPT-shallow"]
        >>> shallow.other_than(load_config(overrides=["backbone=vit_base_patch16_224.mae", "prompt=shallow"]))
        ["the backbone's own mean and std", 'head.pool=native', '10 tokens']
        """
        prompt = config.prompt
        found = []
        if not _is_backbone(config, self.names):
            found.append(f"backbone {backbone_of(config)}")
        if self.pixels not in (None, config.backbone.normalise):
            found.append(PIXELS[config.backbone.normalise])
        pool = getattr(config.head, "pool", "none")
        if self.pool is not None and ("cls" if pool == "native" else pool) != self.pool:
            found.append(f"head.pool={pool}")
        if self.depth is not None and depth_of(prompt) != self.depth:
            found.append(f"{depth_of(prompt)} prompts")
        tokens = getattr(prompt, "tokens", None)
        if self.tokens is not None and tokens not in self.tokens:
            found.append(f"{tokens} tokens")
        return found


PIXELS = {
    "imagenet": "ImageNet mean and std",
    "own": "the backbone's own mean and std",
    "none": "pixels from 0 to 1",
    None: "normalisation not stated",
}


def depth_of(prompt: Prompt) -> str:
    """Depth of a prompt: shallow, deep, or its layers.

    >>> from vpt.config import load_config
    >>> depth_of(load_config(overrides=["prompt=bpt"]).prompt)
    'shallow'
    """
    layers = getattr(prompt, "layers", "all")
    if prompt.kind in ("shallow", "gated") or layers in ("first:1", [0]):
        return "shallow"
    return "deep" if layers == "all" else f"layers {layers}"


def backbone_of(config: RunConfig) -> str:
    """Description of the backbone of these settings.

    >>> from vpt.config import load_config
    >>> backbone_of(load_config(overrides=["backbone=vit_tiny_patch16_224", "backbone.pretrained=false"]))
    'vit_tiny_patch16_224, random weights'
    """
    backbone = config.backbone
    if backbone.weights is not None:
        return f"{backbone.name} with {backbone.weights.name}"
    if not backbone.pretrained:
        return f"{backbone.name}, random weights"
    size = "" if backbone.image_size is None else f" at {backbone.image_size} pixels"
    return backbone.name + size


def _is_backbone(config: RunConfig, names: tuple[str, ...]) -> bool:
    """Whether a backbone is one of these, by the name of its weight file if known, otherwise by its own name."""
    backbone = config.backbone
    if backbone.image_size not in (None, SIZE):
        return False
    if backbone.weights is not None and backbone.weights.name in {
        name for named in backbones().values() for name in named
    }:
        return backbone.weights.name in names
    tagged = backbone.weights is not None or backbone.pretrained in (True, "openai")
    return tagged and backbone.name in names


def _alternatives(like: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(like if isinstance(like, list) else [like])


def _setting(config: RunConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


@cache
def _tree() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(
        (resources.files("vpt.experiments.benchmarks") / "published.json").read_text("utf-8")
    )
    return tree


def backbones() -> Mapping[str, Sequence[str]]:
    """Our names of each published backbone, and names of files with its weights."""
    found: dict[str, list[str]] = _tree()["backbones"]
    return found


@cache
def _stored() -> tuple[Published, ...]:
    tree = _tree()
    sources = {key: Source(**value) for key, value in tree["sources"].items()}
    return tuple(
        Published(
            suite=entry["suite"],
            method=entry["method"],
            backbone=entry["backbone"],
            source=sources[entry["source"]],
            table=entry["table"],
            checked=tuple(entry["checked"]),
            pixels=entry["pixels"],
            names=tuple(tree["backbones"][entry["backbone"]]),
            pool=entry.get("pool"),
            depth=entry.get("depth"),
            tokens=None if "tokens" not in entry else tuple(entry["tokens"]),
            tasks=entry.get("tasks", {}),
            means=entry.get("means", {}),
            like=_alternatives(entry.get("like", [])),
            note=entry.get("note"),
        )
        for entry in tree["results"]
    )


def published(suite: str) -> list[Published]:
    """All published results of a suite.

    >>> [entry.method for entry in published("vtab")][:5]
    ['Full', 'Linear', 'Bias', 'VPT-shallow', 'VPT-deep']
    """
    return [entry for entry in _stored() if entry.suite == suite]
