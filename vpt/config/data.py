"""Settings of data."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vpt.config.base import MANY, Place, Section
from vpt.config.words import read_value, split_values

_Edge = Annotated[float, Field(ge=-1e38, le=1e38)]
Window = Literal["auto", "full", "legacy"] | tuple[_Edge, _Edge]
LEGACY = ("auto", "legacy")  # only settings stored by a version without data.window leave it undecided


class DataConfig(Section):
    """Where images and labels come from, and how they become tensors."""

    path: Place = Field(
        "digits",
        description="class folders, a CSV, 'torchvision:NAME', 'dassl:NAME' (CoOp's layout), 'vtab:NAME' (VTAB-1k), "
        "'fgvc:NAME' (VPT's split files), 'FORMAT:NAME' of an installed package, or 'digits' (embedded)",
    )
    val: Place | None = Field(None, description="validation folder or CSV; default: found beside or split off")
    test: Place | None = Field(None, description="test folder or CSV; never used for choosing anything")
    root: Place = Field("data", description="where data sets that are given by name lie")
    download: bool = Field(False, description="let torchvision download")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share split off for validation when there is none")
    test_fraction: float | None = Field(None, gt=0, lt=1, description="share split off for test when there is none")
    shots: int | None = Field(None, ge=1, le=MANY, description="training images per class (k-shot)")
    val_shots: int | None = Field(None, ge=1, le=MANY, description="validation images per class; default: all")
    join_val: bool = Field(
        False, description="train on the validation images too, without validation, once settings are chosen"
    )
    hold_test: bool = Field(False, description="leave the test images alone, as a search for settings should")
    half: Literal["all", "base", "new"] = Field(
        "all", description="the first half of the classes, the second half, or all (base-to-new protocol)"
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="of splitting and of drawing shots")
    separator: str = Field("|", min_length=1, max_length=20, description="between several labels in a CSV cell")
    augment: Place = Field("light", description="none, light, standard, strong, crop, or an albumentations YAML file")
    crop_scale: float | None = Field(
        None,
        ge=0.001,
        le=1,
        description="smallest share of the area that a random crop keeps; default: 0.7 of augment=light, 0.35 of "
        "standard and strong, 0.08 of crop",
    )
    resize: Literal["crop", "squash", "pad"] = Field("crop", description="how a photo becomes a square")
    crop_pct: float | None = Field(
        None, ge=0.05, le=1, description="share kept by the centre crop; default: the backbone's"
    )
    workers: int | None = Field(None, ge=0, le=256, description="loader processes; default: from the machine")
    cache: bool = Field(False, description="keep decoded images in RAM")
    on_bad: Literal["error", "skip"] = Field("error", description="unreadable files: stop with a list, or leave out")
    max_pixels: int = Field(
        100_000_000, ge=1, le=1_000_000_000, description="larger images are refused as decompression bombs"
    )
    window: Window = Field(
        "auto",
        description="values of images deeper than 8 bits that become black and white: [low, high], as in [0, 4095]; "
        "full: the whole range of 16 bits; auto: chosen from the values that training and validation images use, and "
        "stored with the run and its artifact; legacy: what runs of versions without this setting did",
    )

    @field_validator("window", mode="before")
    @classmethod
    def _pair(cls, window: Any) -> Any:
        edges = split_values(window) if isinstance(window, str) else []
        if len(edges) > 1:  # 0,4095 without brackets
            window = [read_value(edge) for edge in edges]
        return tuple(window) if isinstance(window, list) else window  # YAML and JSON have lists alone

    @field_validator("window")
    @classmethod
    def _ordered(cls, window: Window) -> Window:
        if not isinstance(window, str) and not (math.isfinite(window[0]) and window[0] < window[1] < math.inf):
            raise ValueError("the window must be two numbers, the lower one first, as in [0, 4095]")
        return window
