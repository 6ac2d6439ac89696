"""RunConfig: all settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from vpt.config.backbone import BackboneConfig
from vpt.config.base import ALWAYS_LISTED, Place, Section, Word, short
from vpt.config.data import DataConfig
from vpt.config.heads import FeatureHead, Head, LinearHead
from vpt.config.heads_detection import NativeHead, OwlHead, PyramidHead
from vpt.config.losses import CrossEntropyLoss
from vpt.config.prompts import PROMPTS, DeepPrompt, NoPrompt, PixelPrompt, Prompt
from vpt.config.prompts_base import TokenPrompt
from vpt.config.registry import NOT_NAMED
from vpt.config.training import TrainConfig
from vpt.config.tuning import FrozenTuning, Tuning
from vpt.utils.atomic_io import at_home

_Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
_Number = Annotated[float, Field(ge=-1e38, le=1e38)]
_Value = bool | _Whole | _Number | Place | None
_Settings = dict[Word, _Value | Annotated[list[_Value], Field(max_length=1000)]]


class Case(Section):
    """Settings of a recipe that depend on others, such as epochs on the number of shots."""

    when: _Settings = Field(max_length=100, description="setting -> required value, or a list of allowed values")
    use: _Settings = Field(
        max_length=100, description="setting -> value; overrides on the command line take precedence"
    )

    def fits(self, config: RunConfig) -> bool:
        """Whether the case applies to a run.

        >>> Case(when={"data.shots": [1, 2]}, use={"train.epochs": 50}).fits(RunConfig())
        False
        """
        for name, wanted in self.when.items():
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part, None)
            if value not in (wanted if isinstance(wanted, list) else [wanted]):
                return False
        return True


# Defaults of a head initialised by a probe: docs/defaults.md.
PROBE_LR = {"prompt": 5e-3, "head": 1e-3, "lora": 3e-3, "bias": 1e-2}
PROBE_DECAY = {"head": 0.0}
PROBE_BATCH = 16


def with_probe(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fill in the default recipe in the settings of a run, where they request it or leave it open.

    The recipe is for a linear head with AdamW and any prompt but a pixel prompt. Given settings are kept.

    >>> with_probe({"head": "linear", "train": {"batch_size": 8}})["train"]["batch_size"]
    8
    >>> with_probe({"head": {"kind": "mlp"}})
    {'head': {'kind': 'mlp'}}
    """
    head, train = _section(tree, "head", "linear"), _section(tree, "train", None)
    prompt = _section(tree, "prompt", "deep")
    if head is None or train is None or prompt is None:
        return tree
    optimizer = _section(train, "optimizer", "adamw")
    if optimizer is None or optimizer["kind"] != "adamw" or head["kind"] != "linear" or prompt["kind"] == "pixel":
        return tree
    if head.setdefault("init", "probe") != "probe":
        return tree
    for name, wanted in (("lr", PROBE_LR), ("weight_decay", PROBE_DECAY)):
        given = optimizer.get(name, {})
        if isinstance(given, Mapping):
            optimizer[name] = {**wanted, **given}
    accumulate = train.get("accumulate", 1)
    if isinstance(accumulate, int) and PROBE_BATCH % max(1, accumulate) == 0:
        train.setdefault("batch_size", PROBE_BATCH)
    return {**tree, "head": head, "train": {**train, "optimizer": optimizer}}


def _section(tree: Mapping[str, Any], name: str, kind: str | None) -> dict[str, Any] | None:
    """A copy of a section with its kind; None if it is not a mapping, which is refused later."""
    found = tree.get(name, {})
    if isinstance(found, BaseModel):
        found = found.model_dump()
    if isinstance(found, str) and kind is not None:
        found = {"kind": found}
    if not isinstance(found, Mapping):
        return None
    return {"kind": kind, **found} if kind is not None else dict(found)


class RunConfig(Section):
    """All settings of a run.

    >>> RunConfig.model_validate({"prompt": "shallow"}).prompt.tokens
    10
    """

    task: Literal["classification", "detection"] = Field("classification", description="task to train for")
    backbone: Annotated[BackboneConfig, short("name")] = BackboneConfig()
    prompt: Prompt = DeepPrompt()
    tuning: Tuning = FrozenTuning()
    head: Head = LinearHead()
    data: Annotated[DataConfig, short("path")] = DataConfig()
    train: TrainConfig = TrainConfig()
    cases: list[Case] = Field(
        default_factory=list,
        max_length=100,
        description="settings that apply only to some data, shots or other settings: a list of `when` and `use`",
    )
    out: Path = Field(Path("runs"), description="parent folder of run folders; ~ is the home folder")
    name: str | None = Field(
        None, max_length=250, description="name of the run folder; default: derived from the settings"
    )
    compare: Annotated[list[Word], ALWAYS_LISTED] = Field(
        default_factory=list,
        max_length=100,
        description="further methods to train on the same data, for a comparison table: prompt kinds, or bias, lora, "
        "full for that tuning without prompts; as in none,lora",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, value: Any) -> Any:
        """Fill in the defaults of the task. Detection has its own head, embedded data set, batch size and learning rate
        of the head; a linear head is initialised by a probe, with the batch size and learning rates measured for it."""
        if not isinstance(value, Mapping):
            return value
        if value.get("task") != "detection":
            return with_probe(value)
        filled = {"data": "scenes", "head": {}, "train": {}, **value}
        if isinstance(filled["head"], Mapping):
            filled["head"] = {"kind": "fcos", **filled["head"]}
        if isinstance(filled["data"], Mapping):
            filled["data"] = {"path": "scenes", **filled["data"]}
        if isinstance(filled["train"], Mapping):
            training = {"batch_size": 8, "optimizer": {}, **filled["train"]}
            given = training["optimizer"]
            if isinstance(given, Mapping) and given.get("kind", "adamw") == "adamw":
                rates = given.get("lr", {})
                rates = {"head": 5e-4, **rates} if isinstance(rates, Mapping) else rates
                training["optimizer"] = {**given, "lr": rates}
            filled["train"] = training
        return filled

    @field_validator("out")
    @classmethod
    def _home(cls, out: Path) -> Path:
        return at_home(out)

    @field_validator("compare")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        if any(":" in kind and PROMPTS.find(kind) is None for kind in kinds):
            raise ValueError(NOT_NAMED)
        return kinds

    @model_validator(mode="after")
    def _parts_fit(self) -> RunConfig:
        finds_boxes = self.head.task == "detection"
        if finds_boxes and not isinstance(self.head, NativeHead | OwlHead | PyramidHead):
            raise ValueError(f"head={self.head.kind} predicts boxes; derive its settings from vpt.config.PyramidHead")
        if finds_boxes != (self.task == "detection"):
            remedy = "set task=detection" if finds_boxes else "choose head=fcos, retinanet, faster_rcnn or owl"
            raise ValueError(f"task={self.task} does not go with head={self.head.kind}; {remedy}")
        native = isinstance(self.head, NativeHead)
        fits = isinstance(self.prompt, PixelPrompt | NoPrompt if native else TokenPrompt | NoPrompt)
        if finds_boxes and not fits:
            remedy = "pixel or none" if native else "a token prompt or none"
            raise ValueError(f"head={self.head.kind} does not take prompt={self.prompt.kind}; choose {remedy}")
        if getattr(self.prompt, "adds_features", False) and not isinstance(self.head, FeatureHead):
            raise ValueError(
                f"prompt={self.prompt.kind} adds features that head={self.head.kind} does not read; "
                "choose head=linear or head=mlp"
            )
        if finds_boxes and not isinstance(self.train.loss, CrossEntropyLoss):
            raise ValueError(
                "train.loss is for task=classification; detection heads have their own loss, so leave it out"
            )
        if self.train.shard and self.tuning.kind == "full":
            raise ValueError("train.shard shards frozen weights; tuning=full has none")
        if self.train.shard and self.task == "detection":
            raise ValueError("train.shard is for task=classification; leave it out")
        dtype, wanted = self.backbone.dtype, {"full": ("fp32",), "lora": ("fp32", "bf16")}.get(self.tuning.kind)
        if wanted is not None and dtype not in wanted:
            raise ValueError(
                f"tuning={self.tuning.kind} does not go with backbone.dtype={dtype}; set backbone.dtype={wanted[-1]}"
            )
        return self

    @property
    def starts_from_probe(self) -> bool:
        """Whether the head is fitted to features before training.

        >>> RunConfig().starts_from_probe, RunConfig(head={"kind": "linear", "init": "small"}).starts_from_probe
        (True, False)
        """
        return isinstance(self.head, LinearHead) and self.head.init == "probe"

    def with_(self, changes: Mapping[str, Any] | None = None, /, **settings: Any) -> RunConfig:
        """Return a copy with other values, validated as a whole.

        Args:
            changes: setting -> value, by full names such as `train.epochs`, or short ones such as `epochs`. A new
                `kind` keeps the settings that both kinds have, as on the command line; a section or a mapping replaces
                the existing one.
            settings: the same, for names without a dot.

        Raises:
            UserError: one line for every unknown name, with the nearest known one, and for every invalid value.

        >>> config = RunConfig().with_({"train.epochs": 3, "prompt.tokens": 5}, name="short")
        >>> config.train.epochs, config.prompt.tokens, config.name
        (3, 5, 'short')
        >>> config.with_(prompt="shallow").prompt.tokens
        5
        """
        from vpt.config.overrides import changed

        return changed(self, {**(changes or {}), **settings})
