"""Settings of the data."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from vpt.config.base import MANY, Place, Section, Sentence, Word
from vpt.config.words import read_value, split_values

MOST_CLASSES = 100_000


def _names(value: Any) -> Any:
    """Names between commas, or a list in which YAML may have read names as numbers."""
    parts = split_values(value) if isinstance(value, str) and "," in value else value
    if not isinstance(parts, list):
        return parts
    return [
        str(part).strip() if isinstance(part, str | int | float) and not isinstance(part, bool) else part
        for part in parts
    ]


_Edge = Annotated[float, Field(ge=-1e38, le=1e38)]
Window = Literal["auto", "full", "legacy", "header"] | tuple[_Edge, _Edge]
PATTERN, TAG = "re:", "dicom:"  # before a regular expression, or the keyword of a DICOM tag, in data.group
LEGACY = ("auto", "legacy")  # undecided only in settings stored by a version without data.window


class DataConfig(Section):
    """Source of images and labels, splits, and preprocessing."""

    path: Place = Field(
        "digits",
        description="class folders, a CSV, 'torchvision:NAME', 'dassl:NAME' (CoOp's layout), 'vtab:NAME' (VTAB-1k), "
        "'fgvc:NAME' (VPT's split files), 'hf:NAME' (Hugging Face's datasets, or a folder of theirs), 'wds:SHARDS' "
        "(WebDataset), 'FORMAT:NAME' of an installed package, or embedded: digits, digit-distances",
    )
    val: Place | None = Field(
        None, description="validation folder or CSV; default: found next to the training data, or split off"
    )
    test: Place | None = Field(None, description="test folder or CSV; never used for model selection")
    root: Place = Field("data", description="folder of data sets that are given by name")
    download: bool = Field(False, description="allow torchvision and Hugging Face's datasets to download the data")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="fraction split off for validation if there is none")
    test_fraction: float | None = Field(None, gt=0, lt=1, description="fraction split off for test if there is none")
    shots: int | None = Field(None, ge=1, le=MANY, description="training images per class (k-shot)")
    val_shots: int | None = Field(None, ge=1, le=MANY, description="validation images per class; default: all")
    join_val: bool = Field(
        False, description="train on the validation images too, without validation, after settings have been chosen"
    )
    hold_test: bool = Field(False, description="do not evaluate on the test images, as in a search for settings")
    half: Literal["all", "base", "new"] = Field(
        "all", description="the first half of the classes, the second half, or all (base-to-new protocol)"
    )
    group: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="keep images of one group, such as a patient, in one split, and count data.shots in groups: a "
        "column of the CSV; 're:' and a regular expression for the file name, as in re:(P[0-9]+)_; or 'dicom:' and the "
        "keyword of a tag, as in dicom:PatientID",
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of splits and of drawing shots")
    separator: str = Field("|", min_length=1, max_length=20, description="separator of several labels in a CSV cell")
    multilabel: bool = Field(
        False, description="an image may have several labels or none, even if the data does not show it"
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="cross-validation: vpt train divides the training and validation images into so many folds, with "
        "each of them as the test images of a run",
    )
    fold: int | None = Field(None, ge=0, lt=100, description="the only fold to test on, from 0; default: all, in turn")
    label_column: Word | None = Field(
        None,
        description="column with the labels in a CSV or in hf: data, key in the .json of wds: data, or column of the "
        "numbers of task=regression; default: by its name",
    )
    classes: Annotated[
        Literal["ordered"] | Annotated[list[Sentence], Field(min_length=2, max_length=MOST_CLASSES)] | None,
        BeforeValidator(_names),
    ] = Field(
        None,
        description="names of the classes in their order, as in low,middle,high; ordered: the data set's own order, or "
        "that of names that are numbers (default with head=ordinal); default: by name",
    )
    positive: Word | None = Field(
        None, description="of two classes the one that AUROC, sensitivity and others are for; default: the second"
    )
    mask_classes: Place | None = Field(
        None,
        description="segmentation: YAML file with the classes of mask files, by value or by colour; default: found in "
        "the data set",
    )
    ignore_index: int | None = Field(
        None, ge=0, le=65_535, description="segmentation: value of ignored pixels in mask files; default: 255"
    )
    augment: Place = Field("light", description="none, light, standard, strong, crop, or an albumentations YAML file")
    crop_scale: float | None = Field(
        None,
        ge=0.001,
        le=1,
        description="smallest fraction of the area that a random crop keeps; default: 0.7 with augment=light, 0.35 "
        "with standard and strong, 0.08 with crop",
    )
    views: int | None = Field(
        None,
        ge=1,
        le=MANY,
        description="random views of each training image that epochs take in turn, so that what is below the first "
        "prompt is computed only once for each; default: a new one in every epoch",
    )
    resize: Literal["crop", "squash", "pad"] = Field("crop", description="how images are made square")
    crop_pct: float | None = Field(
        None, ge=0.05, le=1, description="fraction kept by the centre crop; default: the backbone's"
    )
    channels: int | None = Field(
        None,
        ge=1,
        le=64,
        description="channels of an image, such as 4 for arrays (H, W, 4) in .npy files or TIFF files of 4 grey pages; "
        "default: 3, with grey images repeated; backbone.channels says how they enter the backbone",
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="data loader processes; default: depends on the machine"
    )
    cache: bool = Field(False, description="keep decoded images in RAM")
    on_bad: Literal["error", "skip"] = Field(
        "error", description="unreadable files: stop with a list of them, or leave them out"
    )
    max_pixels: int = Field(
        100_000_000, ge=1, le=1_000_000_000, description="larger images are rejected as decompression bombs"
    )
    window: Window = Field(
        "auto",
        description="values of images deeper than 8 bits that map to black and white: [low, high], as in [0, 4095]; "
        "full: the whole range of 16 bits; header: the window of each DICOM file; auto: header if all deep images have "
        "one, else chosen from the values in training and validation images, and stored with the run and its artifact; "
        "legacy: behaviour of versions without this setting",
    )
    slices: Literal["middle", "all"] = Field(
        "middle",
        description="images of a DICOM or NIfTI file with several slices: the middle one, or all except those of one "
        "value throughout; file.dcm#3 names the third slice",
    )

    @field_validator("group")
    @classmethod
    def _quick(cls, group: str | None) -> str | None:
        """Refuse keywords and patterns that are not valid, and patterns that could take exponential time."""
        if group is not None and group.startswith(TAG) and not re.fullmatch("[A-Za-z0-9]+", group.removeprefix(TAG)):
            raise ValueError("give the keyword of a DICOM tag, as in dicom:PatientID")
        if group is None or not group.startswith(PATTERN):
            return group
        pattern = group.removeprefix(PATTERN)
        try:
            parts = re.compile(pattern).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"this is not a regular expression: {error}") from None
        if parts > 1:
            raise ValueError("the regular expression may have one group in parentheses; write others as (?:...)")
        bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)
        repeats = re.findall(r"[*+]|\{\d*,\d*\}", bare)
        if re.search(r"\)[*+?{]", bare) or len(repeats) > 3 or bare.count("?") + bare.count("|") > 8:
            raise ValueError("the regular expression may have at most three repetitions, and none of a (...)")
        return group

    @field_validator("window", mode="before")
    @classmethod
    def _pair(cls, window: Any) -> Any:
        edges = split_values(window) if isinstance(window, str) else []
        if len(edges) > 1:  # 0,4095 without brackets
            window = [read_value(edge) for edge in edges]
        return tuple(window) if isinstance(window, list) else window  # YAML and JSON have no tuples

    @field_validator("window")
    @classmethod
    def _ordered(cls, window: Window) -> Window:
        if not isinstance(window, str) and not (math.isfinite(window[0]) and window[0] < window[1] < math.inf):
            raise ValueError("the window must be two numbers, the lower one first, as in [0, 4095]")
        return window
