"""Settings of detection heads."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from vpt.config.base import ALWAYS_LISTED, Sentence
from vpt.config.heads_base import GridHead
from vpt.config.losses import CrossEntropyLoss
from vpt.config.prompts import NoPrompt, PixelPrompt, PromptSection
from vpt.config.templates import Templates


class BoxHead(GridHead):
    """Base of the settings of detection heads."""

    task: ClassVar[str] = "detection"
    at_evaluation: ClassVar[tuple[str, ...]] = ("score", "overlap", "boxes", "size", "longest")
    size: int | None = Field(
        None, ge=16, le=4096, description="short side of the images in pixels; default: twice the backbone's own"
    )
    longest: float = Field(1.6, ge=1, le=20, description="longest side as a multiple of size")
    score: float = Field(0.05, ge=0, lt=1, description="minimum score of predicted boxes")
    overlap: float = Field(0.6, gt=0, lt=1, description="IoU threshold of non-maximum suppression within a class")
    boxes: int = Field(100, ge=1, le=10_000, description="maximum number of boxes per image")

    def check_run(self, config: Any) -> None:
        """Refuse prompts that the head does not take, and a loss of classification."""
        if not isinstance(self, PyramidHead | OwlHead | NativeHead):
            raise ValueError(f"head={self.kind} predicts boxes; derive its settings from vpt.config.PyramidHead")
        super().check_run(config)
        if not isinstance(config.train.loss, CrossEntropyLoss):
            raise ValueError(
                "train.loss is for task=classification; detection heads have their own loss, so leave it out"
            )


class PyramidHead(BoxHead):
    """Base of the settings of torchvision's detectors on a simple feature pyramid."""

    scales: Annotated[list[Annotated[float, Field(ge=0, le=100)]], ALWAYS_LISTED] = Field(
        default_factory=lambda: [2.0, 1.0, 0.5, 0.25],
        min_length=1,
        max_length=16,
        description="pyramid levels as multiples of the patch grid: 4, 2, 1, 0.5 or 0.25",
    )
    channels: int = Field(64, ge=64, le=1024, multiple_of=32, description="channels of the pyramid and the head")

    def build(self, link: Any, classes: int, strides: Any) -> Any:
        """Create the detector.

        Args:
            link: a module from images to maps (B, channels, h, w) by name, "0" being the finest; it has `out_channels`.
            classes: number of classes of the task.
            strides: of the maps, in pixels.
        """
        return super().build(link, classes, strides)


class FcosHead(PyramidHead):
    """FCOS (Tian et al. 2019) by torchvision, on a simple feature pyramid."""

    kind: Literal["fcos"] = "fcos"
    make: ClassVar[str] = "vpt.heads.detection.torchvision:fcos"
    convs: int = Field(
        4, ge=0, le=8, description="convolutions between a pyramid level and its predictions; 0: a small head"
    )


class RetinaHead(PyramidHead):
    """RetinaNet (Lin et al. 2017) by torchvision, on a simple feature pyramid."""

    kind: Literal["retinanet"] = "retinanet"
    make: ClassVar[str] = "vpt.heads.detection.torchvision:retinanet"


class FasterHead(PyramidHead):
    """Faster R-CNN (Ren et al. 2015) by torchvision, on a simple feature pyramid."""

    kind: Literal["faster_rcnn"] = "faster_rcnn"
    make: ClassVar[str] = "vpt.heads.detection.torchvision:faster_rcnn"


class OwlHead(BoxHead):
    """Open-vocabulary head: similarity of patch and text features, a box per patch (OWL-ViT, Minderer et al. 2022)."""

    kind: Literal["owl"] = "owl"
    needs_text: ClassVar[bool] = True
    at_evaluation: ClassVar[tuple[str, ...]] = (*BoxHead.at_evaluation, "templates")
    templates: Templates = Field("single", description="as for head=zeroshot")
    overlap: float = Field(0.5, gt=0, le=1, description="IoU threshold of non-maximum suppression within a class")


class NativeHead(BoxHead):
    """A complete frozen detector of torchvision with a pixel prompt."""

    kind: Literal["native"] = "native"
    complete: ClassVar[bool] = True
    at_evaluation: ClassVar[tuple[str, ...]] = ("score", "overlap", "boxes")  # its prompt has the size of its images
    prompts: ClassVar[tuple[type[PromptSection], ...]] = (PixelPrompt, NoPrompt)
    score: float | None = Field(  # type: ignore[assignment]
        None, ge=0, lt=1, description="minimum score of predicted boxes; default: the detector's own"
    )
    overlap: float | None = Field(  # type: ignore[assignment]
        None, gt=0, lt=1, description="IoU threshold of non-maximum suppression; default: the detector's own"
    )
    boxes: int | None = Field(  # type: ignore[assignment]
        None, ge=1, le=10_000, description="maximum number of boxes per image; default: the detector's own"
    )
    classes: dict[Sentence, Sentence] = Field(
        default_factory=dict,
        max_length=10_000,
        description="class of the task: class of the detector, where names differ",
    )
