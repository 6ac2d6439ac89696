"""Settings of heads: a section for each, and `HEADS`, which lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from vpt.config.base import ALWAYS_LISTED, MANY, Place, Word
from vpt.config.heads_base import HeadSection
from vpt.config.heads_detection import FasterHead, FcosHead, NativeHead, OwlHead, RetinaHead
from vpt.config.heads_segmentation import FpnMaskHead, LinearMaskHead, QueryMaskHead
from vpt.config.prompts_base import ClipPrompt
from vpt.config.registry import Registry
from vpt.config.templates import Templates

Pool = Literal["native", "cls", "avg", "prompts", "all", "mean_then_norm", "mean_then_own_norm"]


class FeatureHead(HeadSection):
    """Base of the settings of heads on pooled features; `build(features, classes)` creates the module."""

    pool: Pool = Field(
        "native",
        description="input of the head: native (the backbone's own pooling), cls, avg (mean of patches), prompts "
        "(mean of prompts), all (mean of both); mean_then_norm: mean of both before the norm, then a norm without "
        "weights (VPT's code on MAE); mean_then_own_norm: then the backbone's norm",
    )

    @property
    def reads(self) -> str:
        """The pooling whose output the head takes."""
        return self.pool

    def build(self, features: int, classes: int) -> Any:
        """Create the module from features (B, `features`) to scores (B, `classes`)."""
        return super().build(features, classes)


class LinearHead(FeatureHead):
    """One linear layer."""

    kind: Literal["linear"] = "linear"
    make: ClassVar[str] = "vpt.heads.linear:build_linear"
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the head")
    init: Literal["small", "fan_out", "probe"] = Field(
        "small",
        description="initial weights of the last layer: small (standard deviation 0.02), fan_out (Kaiming normal, "
        "VPT), probe (logistic regression on the features before training; default with task=classification, AdamW and "
        "no pixel prompt)",
    )
    bias: float = Field(0.0, ge=-1e6, le=1e6, description="initial bias of the last layer; VPT: -4.59512")


class MlpHead(LinearHead):
    """Hidden layers with GELU, then a linear layer."""

    kind: Literal["mlp"] = "mlp"  # type: ignore[assignment]
    make: ClassVar[str] = "vpt.heads.linear:build_mlp"
    init: Literal["small", "fan_out"] = Field(
        "small",
        description="initial weights of the last layer: small (standard deviation 0.02), fan_out (Kaiming normal)",
    )
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], ALWAYS_LISTED] = Field(
        default_factory=lambda: [512], min_length=1, max_length=16, description="widths of the hidden layers"
    )


class LabelMapHead(HeadSection):
    """Label mapping: the backbone's own classifier, its classes mapped to those of the task (Chen et al. 2023)."""

    kind: Literal["labelmap"] = "labelmap"
    make: ClassVar[str] = "vpt.heads.label_mapping:build_label_map"
    needs_classifier: ClassVar[bool] = True
    method: Literal["first", "random", "frequency", "iterative", "semantic", "full"] = Field(
        "iterative",
        description="first: in order; random; frequency: by predictions before training; iterative: updated in every "
        "epoch; semantic: by similarity of names; full: a trained linear layer",
    )
    sources: int = Field(1, ge=1, le=MANY, description="source classes averaged for each class of the task")
    every: int = Field(1, ge=1, le=MANY, description="method=iterative: epochs between updates of the mapping")
    text: Word = Field("ViT-B-32", description="method=semantic: open_clip model whose text encoder compares names")
    text_pretrained: Place = Field("openai", description="method=semantic: its weights, a tag of open_clip or a file")

    @property
    def reads(self) -> str:
        """The scores of the backbone's own classifier."""
        return "classifier"


class ZeroShotHead(HeadSection):
    """Zero-shot head: cosine similarity to class names encoded by a frozen CLIP (Radford et al. 2021)."""

    kind: Literal["zeroshot"] = "zeroshot"
    needs_text: ClassVar[bool] = True
    new_names: ClassVar[bool] = True
    at_evaluation: ClassVar[tuple[str, ...]] = ("templates",)
    templates: Templates = Field(
        "auto",
        description="auto (the data set's own if it has any, else single), single ('a photo of a {}.'), simple (7), "
        "openai (80), a text with {}, a list of them, or a file with one per line",
    )


class TipHead(ZeroShotHead):
    """Zero-shot scores and a cache of the training images' features (Tip-Adapter, Zhang et al. 2022)."""

    kind: Literal["tip"] = "tip"  # type: ignore[assignment]
    from_images: ClassVar[bool] = True
    new_names: ClassVar[bool] = False
    finetune: bool = Field(False, description="train the keys of the cache (Tip-Adapter-F)")
    passes: int = Field(10, ge=1, le=MANY, description="augmented views of each training image, averaged to its key")
    alpha: float = Field(10.0, gt=0.1, le=MANY, description="largest weight of the cache tried on validation")
    beta: float = Field(12.0, gt=0.1, le=MANY, description="largest sharpness tried on validation")
    first_alpha: float = Field(
        1.0, ge=0, le=MANY, description="weight of the cache during training, and without validation"
    )
    first_beta: float = Field(5.5, ge=0, le=MANY, description="sharpness during training, and without validation")


class TdaHead(ZeroShotHead):
    """Zero-shot scores and caches of the test images before, without training (TDA, Karmanov et al. 2024)."""

    kind: Literal["tda"] = "tda"  # type: ignore[assignment]
    in_order: ClassVar[bool] = True
    shots: int = Field(3, ge=1, le=1000, description="most certain images kept for each predicted class")
    alpha: float = Field(2.0, ge=0, le=MANY, description="weight of their scores")
    beta: float = Field(5.0, ge=0, le=MANY, description="their sharpness")
    minus_shots: int = Field(2, ge=1, le=1000, description="uncertain images kept for each predicted class")
    minus: float = Field(0.117, ge=0, le=MANY, description="weight of what their scores lower")
    minus_beta: float = Field(1.0, ge=0, le=MANY, description="their sharpness")
    lowest: float = Field(0.2, ge=0, le=1, description="uncertain images: entropy in nats divided by log2 K, above")
    highest: float = Field(0.5, ge=0, le=1, description="and below")
    rare: float = Field(0.03, ge=0, le=1, description="they lower classes of a larger probability than this")

    def check_run(self, config: Any) -> None:
        """Refuse what would have to be trained, several labels, and the score of unknown images."""
        if config.prompt.kind != "none" or config.tuning.kind != "frozen":
            raise ValueError("head=tda trains nothing; set prompt=none and tuning=frozen")
        if config.data.multilabel:
            raise ValueError("head=tda needs one class an image; leave out data.multilabel")
        if config.metrics.unknown is not None:
            raise ValueError("metrics.unknown is fitted after training, and head=tda trains nothing; leave it out")


class OrdinalHead(FeatureHead):
    """Classes with an order: one direction and ordered thresholds (CORAL, Cao et al. 2020)."""

    kind: Literal["ordinal"] = "ordinal"
    make: ClassVar[str] = "vpt.heads.ordinal:build_ordinal"
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the head")
    init: Literal["small", "probe"] = Field(
        "small",
        description="initial direction: small (standard deviation 0.02), probe (ridge regression of the ranks on the "
        "features before training; default with AdamW and no pixel prompt)",
    )

    def check_run(self, config: Any) -> None:
        """Refuse several labels, and classes without an order."""
        if config.data.multilabel:
            raise ValueError("head=ordinal needs one class an image; leave out data.multilabel")
        if config.data.classes is None:
            raise ValueError("head=ordinal needs data.classes, the classes in their order, as in low,middle,high")


class MemoryHead(FeatureHead):
    """Base of the settings of heads that are computed from features of the training images, without training."""

    from_images: ClassVar[bool] = True

    def check_run(self, config: Any) -> None:
        """Refuse what would have to be trained, and several labels."""
        if config.prompt.kind != "none" or config.tuning.kind != "frozen":
            raise ValueError(
                f"head={self.kind} is computed from the features of the frozen backbone and trains nothing; set "
                "prompt=none and tuning=frozen"
            )
        if config.data.multilabel:
            raise ValueError(f"head={self.kind} needs one class an image; leave out data.multilabel")


class KnnHead(MemoryHead):
    """The nearest training images by cosine similarity vote, as in DINO's evaluation (Caron et al. 2021)."""

    kind: Literal["knn"] = "knn"
    make: ClassVar[str] = "vpt.heads.nearest:build_neighbours"
    at_evaluation: ClassVar[tuple[str, ...]] = ("k", "temperature")
    k: int = Field(20, ge=1, le=10_000, description="number of nearest images that vote")
    temperature: float = Field(
        0.07, ge=0.001, le=100, description="a vote weighs exp(similarity / temperature); large: all weigh the same"
    )
    images: int = Field(
        20_000,
        ge=1,
        le=MANY,
        description="training images whose features are stored, drawn at random if there are more",
    )


class PrototypeHead(MemoryHead):
    """The nearest class mean of normalised features by cosine similarity (as in Snell et al. 2017)."""

    kind: Literal["prototype"] = "prototype"
    make: ClassVar[str] = "vpt.heads.nearest:build_prototypes"
    at_evaluation: ClassVar[tuple[str, ...]] = ("temperature",)
    temperature: float = Field(0.1, ge=0.001, le=100, description="scores are similarities divided by it")


class RegressionHead(LinearHead):
    """A number instead of a class: a linear layer, or hidden layers with GELU before it, on a standardised target."""

    kind: Literal["regression"] = "regression"  # type: ignore[assignment]
    make: ClassVar[str] = "vpt.heads.regression:build_regression"
    task: ClassVar[str] = "regression"
    implies_task: ClassVar[bool] = True
    init: Literal["small", "fan_out", "probe"] = Field(
        "small",
        description="initial weights of the last layer: small (standard deviation 0.02), fan_out (Kaiming normal), "
        "probe (ridge regression on the features before training; default with AdamW, no pixel prompt and no hidden "
        "layers)",
    )
    bias: float = Field(0.0, ge=-1e6, le=1e6, description="initial bias of the last layer, in standard deviations")
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], ALWAYS_LISTED] = Field(
        default_factory=list, max_length=16, description="widths of hidden layers"
    )
    loss: Literal["l2", "l1", "huber"] = Field(
        "l2", description="squared error, absolute error, or squared below delta and absolute above it"
    )
    delta: float = Field(
        1.0, gt=0, le=1000, description="loss=huber: where it changes, in standard deviations of the target"
    )

    def check_run(self, config: Any) -> None:
        """Refuse settings that need classes."""
        if self.init == "probe" and self.hidden:
            raise ValueError("head.init=probe is for a head without head.hidden; leave out one of them")
        prompt, data, train = config.prompt, config.data, config.train
        if isinstance(prompt, ClipPrompt) or prompt.needs_classes:
            raise ValueError(f"prompt={prompt.kind} needs classes; choose another one for task=regression")
        refused = {
            "train.loss": train.loss.kind != "cross_entropy",
            "train.label_smoothing": train.label_smoothing != 0,
            "train.class_weights": train.class_weights != "none",
            "data.multilabel": data.multilabel,
            "data.half": data.half != "all",
            "data.classes": data.classes is not None,
            "data.positive": data.positive is not None,
            "metrics.threshold": config.metrics.threshold is not None,
        }
        if given := [name for name, wrong in refused.items() if wrong]:
            raise ValueError(f"{', '.join(given)} is for classes, but task=regression predicts a number; leave it out")


HEADS: Registry[HeadSection] = Registry(
    "head",
    "vpt.heads",
    HeadSection,
    [
        LinearHead,
        MlpHead,
        LabelMapHead,
        ZeroShotHead,
        TipHead,
        TdaHead,
        OrdinalHead,
        KnnHead,
        PrototypeHead,
        RegressionHead,
        FcosHead,
        RetinaHead,
        FasterHead,
        OwlHead,
        NativeHead,
        LinearMaskHead,
        FpnMaskHead,
        QueryMaskHead,
    ],
)

if TYPE_CHECKING:
    Head = HeadSection
else:
    Head = HEADS.annotation("linear")
