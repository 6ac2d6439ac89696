"""Settings of segmentation heads."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vpt.config.base import ALWAYS_LISTED
from vpt.config.heads_base import GridHead
from vpt.config.losses import CrossEntropyLoss

Term = Literal["cross_entropy", "dice", "focal"]


class MaskHead(GridHead):
    """Base of the settings of segmentation heads."""

    task: ClassVar[str] = "segmentation"
    at_evaluation: ClassVar[tuple[str, ...]] = ("size", "resize", "longest", "window", "stride")
    size: int | None = Field(
        None, ge=16, le=4096, description="size of the images in pixels; default: the backbone's own"
    )
    resize: Literal["short", "square"] = Field(
        "short", description="short: the short side becomes size, the long one follows; square: both sides do"
    )
    longest: float = Field(3.0, ge=1, le=20, description="longest side as a multiple of size")
    window: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side in pixels of the window that slides over larger images in evaluation; default: whole images",
    )
    stride: float = Field(
        2 / 3,
        ge=0.1,
        le=1,
        description="steps of the window as a fraction of its side; overlapping scores are averaged",
    )
    loss: Annotated[list[Term], ALWAYS_LISTED] = Field(
        ["cross_entropy"],
        min_length=1,
        max_length=3,
        description="losses that are added: cross_entropy, dice, focal",
    )
    gamma: float = Field(2.0, ge=0, le=20, description="loss=focal: how much less well classified pixels count")

    @model_validator(mode="after")
    def _each_once(self) -> MaskHead:
        if len(set(self.loss)) < len(self.loss) or len(set(self.taps)) < len(self.taps):
            raise ValueError("loss and taps must not repeat a value")
        return self

    def check_run(self, config: Any) -> None:
        """Refuse prompts that the head does not take, and settings of other tasks."""
        super().check_run(config)
        refused = (
            (not isinstance(config.train.loss, CrossEntropyLoss), "train.loss", "; the loss is head.loss"),
            (config.train.label_smoothing != 0, "train.label_smoothing", ""),
            (config.train.shard, "train.shard", "; its images have several sizes"),
            (config.data.multilabel, "data.multilabel", "; a pixel has one class"),
            (config.data.half != "all", "data.half", ""),
        )
        for given, name, why in refused:
            if given:
                raise ValueError(f"{name} does not go with task=segmentation{why}; leave it out")

    def build(self, width: int, classes: int) -> Any:
        """Create the module from grids, one (B, `width`, h, w) for each of `taps`, to scores (B, `classes`, h', w')."""
        return super().build(width, classes)


class LinearMaskHead(MaskHead):
    """Batch norm and a 1x1 convolution on the patch grid (DINOv2, Oquab et al. 2023)."""

    kind: Literal["linear_segmentation"] = "linear_segmentation"
    make: ClassVar[str] = "vpt.heads.segmentation.linear:build_linear"
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of channels of the input")


class FpnMaskHead(MaskHead):
    """A simple feature pyramid whose levels are added at the finest (Semantic FPN, Kirillov et al. 2019)."""

    kind: Literal["fpn_segmentation"] = "fpn_segmentation"
    make: ClassVar[str] = "vpt.heads.segmentation.fpn:build_fpn"
    scales: Annotated[list[Annotated[float, Field(ge=0, le=100)]], ALWAYS_LISTED] = Field(
        default_factory=lambda: [4.0, 2.0, 1.0, 0.5],
        min_length=1,
        max_length=16,
        description="pyramid levels as multiples of the patch grid, the finest first: 4, 2, 1, 0.5 or 0.25",
    )
    channels: int = Field(64, ge=8, le=1024, description="channels of the pyramid")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of channels before the last layer")


class QueryMaskHead(MaskHead):
    """Learned queries that predict a class and a mask each (Mask2Former, Cheng et al. 2022; EoMT, Kerssies et al.
    2025)."""

    kind: Literal["query_segmentation"] = "query_segmentation"
    make: ClassVar[str] = "vpt.heads.segmentation.queries:build_queries"
    queries: int = Field(50, ge=1, le=1000, description="number of queries")
    layers: int = Field(2, ge=1, le=6, description="decoder layers")
    channels: int = Field(128, ge=16, le=1024, multiple_of=16, description="channels of queries and pixels")
