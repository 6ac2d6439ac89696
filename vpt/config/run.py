"""RunConfig: all settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vpt.config.backbone import BackboneConfig
from vpt.config.base import ALWAYS_LISTED, Place, Section, Word, short
from vpt.config.data import DataConfig
from vpt.config.heads import HEADS, FeatureHead, Head, LinearHead, OrdinalHead
from vpt.config.metrics import MetricsConfig
from vpt.config.prompts import PROMPTS, DeepPrompt, Prompt
from vpt.config.registry import NOT_NAMED
from vpt.config.tasks import TASKS, TaskName, find_task
from vpt.config.training import TrainConfig
from vpt.config.tuning import FrozenTuning, Tuning
from vpt.utils.atomic_io import at_home


def _task_of(head: Any) -> str:
    """The task of a run that does not name it."""
    kind = head.get("kind") if isinstance(head, Mapping) else getattr(head, "kind", head)
    section = HEADS.own.get(kind) if isinstance(kind, str) else None
    return section.task if section is not None and section.implies_task else "classification"


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


class RunConfig(Section):
    """All settings of a run.

    >>> RunConfig.model_validate({"prompt": "shallow"}).prompt.tokens
    10
    """

    task: TaskName = Field("classification", description=f"task to train for; one of {', '.join(TASKS)}")
    backbone: Annotated[BackboneConfig, short("name")] = BackboneConfig()
    prompt: Prompt = DeepPrompt()
    tuning: Tuning = FrozenTuning()
    head: Head = LinearHead()
    data: Annotated[DataConfig, short("path")] = DataConfig()
    train: TrainConfig = TrainConfig()
    metrics: MetricsConfig = MetricsConfig()
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

    log: Annotated[list[Literal["csv", "tensorboard", "mlflow", "wandb"]], ALWAYS_LISTED] = Field(
        default_factory=list,
        max_length=10,
        description="experiment trackers that get settings, metrics, pictures and the artifact: mlflow, wandb; csv and "
        "tensorboard are always written",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, value: Any) -> Any:
        """Fill in the defaults of the task, such as its head and data set."""
        if not isinstance(value, Mapping):
            return value
        value = value if "task" in value else {**value, "task": _task_of(value.get("head"))}
        entry = find_task(value["task"]) if isinstance(value["task"], str) else None
        return value if entry is None else entry.defaults(value)

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
        if self.head.task != self.task:
            heads = ", ".join(kind for kind, section in HEADS.own.items() if section.task == self.task)
            remedy = f"choose head={heads}" if self.head.task == "classification" else f"set task={self.head.task}"
            raise ValueError(f"task={self.task} does not go with head={self.head.kind}; {remedy}")
        self.head.check_run(self)
        if getattr(self.prompt, "adds_features", False) and not isinstance(self.head, FeatureHead):
            raise ValueError(
                f"prompt={self.prompt.kind} adds features that head={self.head.kind} does not read; "
                "choose head=linear or head=mlp"
            )
        if getattr(self.prompt, "keep_features", 1) < 1 and self.head.kind != "linear":
            raise ValueError("prompt.keep_features chooses among the inputs of head=linear; leave it out")
        if self.data.folds is not None and self.task not in TASKS:
            raise ValueError(f"data.folds is for {', '.join(f'task={name}' for name in TASKS)}")
        if self.data.channels is not None or self.backbone.channels != "summed":
            if self.task != "classification":
                raise ValueError("data.channels and backbone.channels are for task=classification")
            if self.prompt.kind == "tpt":
                raise ValueError("prompt=tpt tunes on views of photos; leave out data.channels and backbone.channels")
        if self.metrics.unknown is not None and (self.task != "classification" or self.prompt.kind == "tpt"):
            raise ValueError("metrics.unknown is for task=classification, and not for prompt=tpt")
        if self.train.shard and self.tuning.kind == "full":
            raise ValueError("train.shard shards frozen weights; tuning=full has none")
        if self.train.shard and self.prompt.kind in ("cocoop", "tpt"):
            raise ValueError(
                "train.shard needs equally many passes in all processes, but those of "
                f"prompt={self.prompt.kind} depend on the number of images; leave it out"
            )
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
        return isinstance(self.head, LinearHead | OrdinalHead) and self.head.init == "probe"

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
