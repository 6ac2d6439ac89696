"""RunConfig: everything a run depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vpt.config.backbone import BackboneConfig
from vpt.config.data import DataConfig
from vpt.config.head import Head, LinearHead
from vpt.config.prompt import DeepPrompt, Prompt
from vpt.config.section import Section, short
from vpt.config.training import TrainConfig
from vpt.config.tuning import FrozenTuning, Tuning


class RunConfig(Section):
    """A whole run.

    >>> RunConfig.model_validate({"prompt": "shallow"}).prompt.tokens
    10
    """

    task: Literal["classification"] = "classification"
    backbone: Annotated[BackboneConfig, short("name")] = BackboneConfig()
    prompt: Prompt = DeepPrompt()
    tuning: Tuning = FrozenTuning()
    head: Head = LinearHead()
    data: Annotated[DataConfig, short("path")] = DataConfig()
    train: TrainConfig = TrainConfig()
    out: Path = Field(Path("runs"), description="folder that holds run folders")
    name: str | None = Field(None, description="name of the run folder; default: made from the settings")
    compare: list[str] = Field(
        default_factory=list,
        description="other prompt kinds trained after this one with the same data, for a table",
    )
